"""Certificate files: which ones there are, and what is in them, or what is wrong."""

from __future__ import annotations

import os
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

__all__ = ["Certificate", "Files", "Stamp", "certificate_files", "faults"]

_OWN = ("oip_tls_cert_file", "oip_tls_key_file")
_KSERVES = ("ssl_certfile", "ssl_keyfile")
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL calls it where certificate and key are not of each other."""

Stamp = tuple[Any, ...]
"""What changes with any change of the files."""


@dataclass(frozen=True)
class File:
    """A file, and the option that names it."""

    option: str
    path: str

    def __str__(self) -> str:
        return f"{self.option} {self.path!r}"


@dataclass(frozen=True)
class Certificate:
    """What one handshake and all after it need, until there is a newer one."""

    context: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration
    serial: int
    begins: float
    expires: float
    """The first and the last second of its validity, since 1970."""


@dataclass(frozen=True)
class Files:
    """The PEM files of a server's certificate, its key, and its clients' authorities.

    With authorities a client needs a certificate that one of them has signed.
    """

    certificate: File
    key: File
    authorities: File | None

    def stamp(self) -> Stamp:
        """What the files are now, behind all links: Kubernetes swaps a link."""
        return tuple(_stamp(file.path) for file in self._each())

    def read(self) -> Certificate:
        """What is in them; raises ConfigurationError with a line for each fault."""
        texts: dict[File, bytes] = {}
        wrong = []
        for file in self._each():
            try:
                texts[file] = _bytes(file.path)
            except OSError as error:
                wrong.append(f"{file}: {error.strerror or error}")
        wrong += self._contents(texts)
        if wrong:
            raise ConfigurationError(wrong)
        return self._certificate(texts)

    def readable_by_all(self) -> bool:
        """Whether every user of the machine may read the key."""
        return bool(os.stat(self.key.path).st_mode & stat.S_IROTH)

    def _each(self) -> list[File]:
        both = [self.certificate, self.key]
        return both if self.authorities is None else [*both, self.authorities]

    def _contents(self, texts: dict[File, bytes]) -> Iterator[str]:
        """What is wrong in the files that could be read."""
        for file in (self.certificate, self.authorities):
            if file in texts and not _certificates(texts[file]):
                yield f"{file}: found no certificate, expected PEM"
        if self.key in texts:
            fault = _fault_of_key(texts[self.key])
            if fault:
                yield f"{self.key}: {fault}"

    def _certificate(self, texts: dict[File, bytes]) -> Certificate:
        pair = texts[self.key], texts[self.certificate]
        authorities = texts[self.authorities] if self.authorities else None
        own = _certificates(texts[self.certificate])[0]
        return Certificate(
            self._context(),
            grpc.ssl_server_certificate_configuration([pair], authorities),
            own.serial_number,
            own.not_valid_before_utc.timestamp(),
            own.not_valid_after_utc.timestamp(),
        )

    def _context(self) -> ssl.SSLContext:
        """The same for REST; what gRPC has by itself is said here."""
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
            fault = f"OpenSSL takes it not: {error.reason}"
            if error.reason in _OTHER_KEY:
                fault = f"expected the certificate of {self.key}, found another"
            raise ConfigurationError([f"{self.certificate}: {fault}"]) from error
        except OSError as error:  # it has gone in this moment
            raise ConfigurationError([f"{self.certificate}: {error}"]) from error
        return context


def certificate_files(
    settings: Settings, kserve_args: Namespace
) -> tuple[Files | None, list[str]]:
    """The files that the options name, and what is wrong with the options.

    Where neither option of the host is set those of KServe count, which is newer.
    """
    own = [File(name, getattr(settings, name) or "") for name in _OWN]
    kserves = [File(name, getattr(kserve_args, name, None) or "") for name in _KSERVES]
    certificate, key = own if any(file.path for file in own) else kserves
    authorities = None
    if settings.oip_tls_client_ca_file:
        authorities = File("oip_tls_client_ca_file", settings.oip_tls_client_ca_file)
    given = [file for file in (certificate, key, authorities) if file and file.path]
    if not given:
        return None, []
    if certificate.path and key.path:
        return Files(certificate, key, authorities), []
    names = _OWN if given == [authorities] else (certificate.option, key.option)
    missing = [name for name in names if name not in [file.option for file in given]]
    return None, [f"{name}: required with {given[0]}, but not set" for name in missing]


def faults(settings: Settings, kserve_args: Namespace) -> list[str]:
    """Everything that is wrong with the options and with the files, a line each."""
    files, wrong = certificate_files(settings, kserve_args)
    if files is not None:
        try:
            files.read()
        except ConfigurationError as error:
            wrong += error.faults
    return wrong


def _stamp(path: str) -> Stamp | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _bytes(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe might never end
        raise OSError("found no regular file, expected PEM")
    return Path(path).read_bytes()


def _certificates(text: bytes) -> list[Any]:
    """The certificates of a PEM file, in their order; empty where it is none."""
    from cryptography import x509  # only a server with TLS waits for this import

    try:
        return list(x509.load_pem_x509_certificates(text))
    except ValueError:
        return []


def _fault_of_key(text: bytes) -> str:
    """What is wrong with the private key of a PEM file, if anything is."""
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
        return f"found a key of {kind}, expected RSA or ECDSA: gRPC has no other"
    return ""
