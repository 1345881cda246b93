"""KServe's certificate options hold for both protocols."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from oip_host.edge.grpc_messages import SERVICE, message
from oip_host.kserve_api import model_server
from support.process import Server

Serve = Callable[..., Server]

OPTIONS = {
    name for action in model_server.parser._actions for name in action.option_strings
}

pytestmark = pytest.mark.skipif(
    "--ssl_certfile" not in OPTIONS, reason="this kserve has no certificate options"
)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "oip-host test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def test_both_protocols_speak_tls(serve: Serve, certificate: tuple[Path, Path]) -> None:
    """With a certificate neither protocol answers in clear, and both answer by TLS."""
    files = dict(zip(("certfile", "keyfile"), map(str, certificate), strict=True))
    server = serve(
        "--handlers=echo=fakes:Echo",
        *(f"--ssl_{name}={path}" for name, path in files.items()),
    )
    context = ssl.create_default_context(cafile=str(certificate[0]))
    url = f"https://127.0.0.1:{server.http_port}/v2/health/live"
    assert {"live": True} == httpx.get(url, verify=context).json()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.http_port}/v2/health/live")

    credentials = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    live = f"/{SERVICE}/ServerLive"
    with grpc.secure_channel(server.grpc_address, credentials) as channel:
        answer = channel.unary_unary(live)(b"", timeout=30)
    assert message("ServerLiveResponse").FromString(answer).live
    with (
        grpc.insecure_channel(server.grpc_address) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary(live)(b"", timeout=30)
