"""Certificate files: which the options name, their contents and their faults."""

from __future__ import annotations

import ssl
import stat
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from oip_host.config.settings import Settings
from oip_host.errors import ConfigurationError

__all__ = ["Certificate", "CertificateFiles", "File", "choose_files", "find_faults"]

_OF_HOST = ("oip_tls_cert_file", "oip_tls_key_file")
_OF_KSERVE = ("ssl_certfile", "ssl_keyfile")
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons where certificate and key do not belong together."""


@dataclass(frozen=True)
class File:
    """A file and the option that names it."""

    option: str
    path: str

    def __str__(self) -> str:
        return f"{self.option} {self.path!r}"


@dataclass(frozen=True)
class Certificate:
    """The certificate that handshakes use until there is a newer one."""

    context: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration
    serial: int
    begins: float
    expires: float
    """The first and the last second of its validity, since 1970."""


@dataclass(frozen=True)
class CertificateFiles:
    """The PEM files of a server's certificate and key, and its clients' authorities.

    With authorities a client needs a certificate that one of them has signed.
    """

    certificate: File
    key: File
    authorities: File | None

    @property
    def paths(self) -> list[str]:
        """The paths of the files."""
        return [file.path for file in self._list()]

    def load(self) -> Certificate:
        """Return the certificate; raises ConfigurationError with a line each fault."""
        texts: dict[File, bytes] = {}
        wrong = []
        for file in self._list():
            try:
                texts[file] = _read_regular(file.path)
            except OSError as error:
                wrong.append(f"{file}: {error.strerror or error}")
        wrong += self._find_faults(texts)
        if wrong:
            raise ConfigurationError(wrong)
        return self._build(texts)

    def is_key_public(self) -> bool:
        """Return whether every user of the machine may read the key."""
        return bool(Path(self.key.path).stat().st_mode & stat.S_IROTH)

    def _list(self) -> list[File]:
        both = [self.certificate, self.key]
        return both if self.authorities is None else [*both, self.authorities]

    def _find_faults(self, texts: dict[File, bytes]) -> Iterator[str]:
        """Yield a line for each fault of the files that could be read."""
        for file in (self.certificate, self.authorities):
            if file in texts and not _parse_certificates(texts[file]):
                yield f"{file}: found no certificate, expected PEM"
        if self.key in texts:
            fault = _find_key_fault(texts[self.key])
            if fault:
                yield f"{self.key}: {fault}"

    def _build(self, texts: dict[File, bytes]) -> Certificate:
        pair = texts[self.key], texts[self.certificate]
        authorities = texts[self.authorities] if self.authorities else None
        own = _parse_certificates(texts[self.certificate])[0]
        return Certificate(
            self._build_context(),
            grpc.ssl_server_certificate_configuration([pair], authorities),
            own.serial_number,
            own.not_valid_before_utc.timestamp(),
            own.not_valid_after_utc.timestamp(),
        )

    def _build_context(self) -> ssl.SSLContext:
        """Return the context for REST, with the rules that gRPC has by itself."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # which costs a client nothing
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate.path, self.key.path)
            if self.authorities is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.authorities.path)
        except ssl.SSLError as error:
            fault = f"OpenSSL rejected it: {error.reason}"
            if error.reason in _MISMATCHES:
                fault = f"expected the certificate of {self.key}, found another"
            raise ConfigurationError([f"{self.certificate}: {fault}"]) from error
        except OSError as error:  # removed since it was read
            raise ConfigurationError([f"{self.certificate}: {error}"]) from error
        return context


def choose_files(
    settings: Settings, kserve_args: Namespace
) -> tuple[CertificateFiles | None, list[str]]:
    """Return the files that the options name, and a line for each fault of the options.

    If neither option of the host is set, those of newer versions of KServe are used.
    """
    own = [File(name, getattr(settings, name) or "") for name in _OF_HOST]
    of_kserve = [
        File(name, getattr(kserve_args, name, None) or "") for name in _OF_KSERVE
    ]
    certificate, key = own if any(file.path for file in own) else of_kserve
    authorities = None
    if settings.oip_tls_client_ca_file:
        authorities = File("oip_tls_client_ca_file", settings.oip_tls_client_ca_file)
    given = [file for file in (certificate, key, authorities) if file and file.path]
    if not given:
        return None, []
    if certificate.path and key.path:
        return CertificateFiles(certificate, key, authorities), []
    names = _OF_HOST if given == [authorities] else (certificate.option, key.option)
    missing = [name for name in names if name not in [file.option for file in given]]
    return None, [f"{name}: required with {given[0]}, but not set" for name in missing]


def find_faults(settings: Settings, kserve_args: Namespace) -> list[str]:
    """Return a line for each fault of the options and of the files."""
    files, wrong = choose_files(settings, kserve_args)
    if files is not None:
        try:
            files.load()
        except ConfigurationError as error:
            wrong += error.faults
    return wrong


def _read_regular(path: str) -> bytes:
    """Return the bytes of a file; raises OSError for a pipe, which might never end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError("found no regular file, expected PEM")
    return Path(path).read_bytes()


def _parse_certificates(text: bytes) -> list[Any]:
    """Return the certificates of a PEM file in their order; none for other files."""
    from cryptography import x509  # only a server with TLS waits for this import

    try:
        return list(x509.load_pem_x509_certificates(text))
    except ValueError:
        return []


def _find_key_fault(text: bytes) -> str:
    """Return the fault of the private key in a PEM file; empty for a good key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(text, None)
    except TypeError:  # OpenSSL would ask for the passphrase on the terminal
        return "found an encrypted key, expected one without a passphrase"
    except (ValueError, UnsupportedAlgorithm):
        return "found no private key, expected PEM"
    if not isinstance(key, (RSAPrivateKey, EllipticCurvePrivateKey)):
        kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
        return f"found a key of {kind}, expected RSA or ECDSA: gRPC supports no other"
    return ""
