"""Authorities, certificates and keys, created when a test needs them."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey
DAY = datetime.timedelta(days=1)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of_key(key: Key, passphrase: bytes | None = None) -> bytes:
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return pem_of_key(self.key)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def write(self, directory: Path, name: str = "tls") -> tuple[Path, Path]:
        """Write both files, `<name>.crt` and `<name>.key`, and return their paths."""
        directory.mkdir(exist_ok=True)
        files = directory / f"{name}.crt", directory / f"{name}.key"
        files[1].touch(0o600)
        files[0].write_bytes(self.pem)
        files[1].write_bytes(self.key_pem)
        return files


@dataclass(frozen=True)
class Authority:
    """An authority that signs certificates for 127.0.0.1."""

    name: str = "oip-host test"
    key: Key = field(default_factory=new_key)

    @property
    def _subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    @property
    def pem(self) -> bytes:
        """Return its own certificate."""
        return self._signed(self._subject, self.key, DAY).pem

    def issue(self, lasts: datetime.timedelta = DAY) -> Pair:
        """Return a certificate, valid since a day ago, with a new key."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
        return self._signed(name, new_key(), lasts)

    def _signed(self, subject: x509.Name, key: Key, lasts: datetime.timedelta) -> Pair:
        now = datetime.datetime.now(datetime.timezone.utc)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        is_authority = key is self.key
        length = 0 if is_authority else None
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + lasts)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(is_authority, length), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self.key.public_key()
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        return Pair(certificate, key)
