"""TLS on both protocols: certificates, their renewal, and those of clients."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import ssl
import subprocess
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from oip_host.config.settings import Settings
from oip_host.edge.grpc.messages import SERVICE, message
from oip_host.edge.transport import certificates
from oip_host.edge.transport.tls import Tls
from oip_host.kserve.api import model_server
from support.pki import Authority, Pair, pem_of_key
from support.process import Server, oip_host, wait_for

Serve = Callable[..., Server]

OPTIONS = {
    name for action in model_server.parser._actions for name in action.option_strings
}
LIVE = f"/{SERVICE}/ServerLive"
ECHO = "--handlers=echo=fakes:Echo"


def arguments(files: tuple[Path, Path], **more: Path) -> list[str]:
    """Return the options for a certificate and its key, and any others."""
    both = dict(zip(("cert_file", "key_file"), files, strict=True))
    return [f"--tls_{name}={path}" for name, path in {**both, **more}.items()]


def rest_context(
    ca: bytes, client: Pair | None = None, directory: Path | None = None
) -> ssl.SSLContext:
    """Return a REST client's TLS context, which may have a client certificate."""
    context = ssl.create_default_context(cadata=ca.decode())
    if client is not None:
        assert directory is not None
        context.load_cert_chain(*client.write(directory, f"client-{client.serial}"))
    return context


def channel(server: Server, ca: bytes, client: Pair | None = None) -> grpc.Channel:
    """A gRPC channel with its own connection."""
    pair = (client.key_pem, client.pem) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(ca, *pair)
    own = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(server.grpc_address, credentials, own)


def grpc_live(connected: grpc.Channel) -> str:
    """Return the status of a call."""
    try:
        answer = connected.unary_unary(LIVE)(b"", timeout=30)
    except grpc.RpcError as error:
        return str(error.code().name)
    assert message("ServerLiveResponse").FromString(answer).live
    return "OK"


def serials(server: Server) -> set[int]:
    """Return the serials of the certificates on new connections, by protocol."""
    shown = [
        ssl.get_server_certificate(("127.0.0.1", port))
        for port in (server.http_port, server.grpc_port)
    ]
    return {x509.load_pem_x509_certificate(pem.encode()).serial_number for pem in shown}


class Connection:
    """A REST client that stays connected."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", server.http_port), timeout=30)
        self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")

    def live(self) -> bytes:
        self.socket.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        return self.socket.recv(4096)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.mark.parametrize("prefix", ["tls_", "ssl_"], ids=["own", "kserve"])
def test_both_protocols_speak_tls(serve: Serve, tmp_path: Path, prefix: str) -> None:
    """With a certificate both protocols answer by TLS and neither in clear text."""
    if prefix == "ssl_" and "--ssl_certfile" not in OPTIONS:
        pytest.skip("this kserve has no certificate options")
    authority = Authority()
    files = authority.issue().write(tmp_path)
    files[1].chmod(0o644)
    given = arguments(files)
    if prefix == "ssl_":
        given = [f"--ssl_certfile={files[0]}", f"--ssl_keyfile={files[1]}"]
    server = serve(ECHO, *given)
    url = f"https://127.0.0.1:{server.http_port}/v2/health/live"
    answer = httpx.get(url, verify=rest_context(authority.pem))
    assert {"live": True} == answer.json()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.http_port}/v2/health/live")

    with channel(server, authority.pem) as connected:
        assert grpc_live(connected) == "OK"
    with grpc.insecure_channel(server.grpc_address) as connected:
        assert grpc_live(connected) == "UNAVAILABLE"
    assert "every user of this machine can read it" in server.log
    assert "Traceback" not in server.log


def listed(files: tuple[Path, Path]) -> certificates.CertificateFiles:
    """The files of a server that asks its clients for nothing."""
    cert, key = (certificates.File("oip_tls_x", str(path)) for path in files)
    return certificates.CertificateFiles(cert, key, None)


# -- faulty files -------------------------------------------------------------


def files_with_faults(directory: Path) -> dict[str, Path]:
    """Certificates and keys, good and bad, by name."""
    authority = Authority()
    pair, other = authority.issue(), authority.issue()
    ed = ed25519.Ed25519PrivateKey.generate()
    contents = {
        "crt": pair.pem,
        "key": pair.key_pem,
        "other.key": other.key_pem,
        "encrypted.key": pem_of_key(pair.key, b"passphrase"),
        "ed.key": ed.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "empty": b"",
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    os.mkfifo(directory / "pipe")
    return {path.name: path for path in [*directory.iterdir(), directory / "nowhere"]}


CERT, KEY, CA = (f"oip_tls_{n}_file" for n in ("cert", "key", "client_ca"))


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (("crt", "", ""), [f"{KEY}: required with {CERT} 'crt', but not set"]),
        (("", "key", "crt"), [f"{CERT}: required with {KEY} 'key', but not set"]),
        (
            ("", "", "crt"),
            [f"{name}: required with {CA} 'crt', but not set" for name in (CERT, KEY)],
        ),
        (
            ("nowhere", "empty", "key"),
            [
                f"{CERT} 'nowhere': No such file or directory",
                f"{CA} 'key': found no certificate, expected PEM",
                f"{KEY} 'empty': found no private key, expected PEM",
            ],
        ),
        (("crt", "pipe", ""), [f"{KEY} 'pipe': found no regular file, expected PEM"]),
        (
            ("crt", "other.key", ""),
            [f"{CERT} 'crt': expected the certificate of {KEY} 'other.key', found "
             "another"],
        ),
        (
            ("crt", "encrypted.key", ""),
            [f"{KEY} 'encrypted.key': found an encrypted key, expected one without a "
             "passphrase"],
        ),
        (
            ("crt", "ed.key", ""),
            [f"{KEY} 'ed.key': found a key of Ed25519, expected RSA or ECDSA: gRPC "
             "supports no other"],
        ),
        (("crt", "key", "crt"), []),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, tuple) else "",
)  # fmt: skip
def test_faulty_files_are_reported(
    tmp_path: Path, named: tuple[str, str, str], expected: list[str]
) -> None:
    """Each fault has a line that names the file and what it should contain."""
    files = files_with_faults(tmp_path)
    given = {
        option: str(files[name])
        for option, name in zip((CERT, KEY, CA), named, strict=True)
        if name
    }
    found = certificates.find_faults(Settings(**given), Namespace())
    assert sorted(f.replace(f"{tmp_path}/", "") for f in found) == sorted(expected)


def test_half_a_pair_is_not_completed_from_kserve(tmp_path: Path) -> None:
    """A certificate and a key from different option sets are not combined."""
    files = files_with_faults(tmp_path)
    kserves = Namespace(ssl_certfile=str(files["crt"]), ssl_keyfile=str(files["key"]))
    assert certificates.find_faults(Settings(), kserves) == []
    own = Settings(oip_tls_cert_file=str(files["crt"]))
    assert certificates.find_faults(own, kserves) != []


def test_wrong_certificate_is_reported_with_other_faults() -> None:
    """A host that cannot serve the TLS it was asked for does not serve at all."""
    done = oip_host("serve", "--http_port=x", "--tls_cert_file=/nowhere", "--handlers=")
    assert done.returncode == 2
    for option in ("--http_port", "oip_tls_key_file", "OIP_HANDLERS"):
        assert f"error: {option}" in done.stderr


# -- renewal ------------------------------------------------------------------


def test_renewed_certificate_serves_new_connections(
    serve: Serve, tmp_path: Path
) -> None:
    """A renewed certificate is used for new connections; open ones go on as before."""
    authority = Authority()
    old, new = authority.issue(), authority.issue()
    files = old.write(tmp_path)
    server = serve(ECHO, *arguments(files))
    assert serials(server) == {old.serial}
    context = rest_context(authority.pem)
    with Connection(server, context) as rest, channel(server, authority.pem) as grpc_:
        states: list[grpc.ChannelConnectivity] = []
        assert rest.live().startswith(b"HTTP/1.1 200")
        assert grpc_live(grpc_) == "OK"
        grpc_.subscribe(states.append)
        new.write(tmp_path)
        wait_for(lambda: serials(server) == {new.serial}, "the new certificate")
        assert rest.live().startswith(b"HTTP/1.1 200")
        assert grpc_live(grpc_) == "OK"
        assert set(states) <= {grpc.ChannelConnectivity.READY}
    assert f"serial {new.serial:x}" in server.log
    files[0].write_bytes(old.pem)
    told = "could not load the renewed TLS files, still using the previous certificate"
    wait_for(lambda: told in server.log, "a line of the log")
    assert serials(server) == {new.serial}


def test_faulty_files_keep_the_old_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Faulty files are logged once, and later correct ones are loaded.

    Files that are written one by one are wrong for a moment, which is not logged.
    """
    authority = Authority()
    old, new = authority.issue(), authority.issue()
    files = old.write(tmp_path)
    tls = Tls(listed(files))
    lines = []
    for change in (
        lambda: files[0].write_bytes(new.pem),  # and the key is still the old one
        lambda: files[1].unlink(),
        lambda: files[0].write_bytes(b"rubbish"),
        lambda: new.write(tmp_path),
    ):
        assert tls.certificate.serial == old.serial
        change()
        for _ in range(3):
            lines.append(len(caplog.messages))
            tls.react(tls.file.refresh())
    assert tls.certificate.serial == new.serial
    assert lines == [0, 0, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4]


def swapped(directory: Path, pair: Pair) -> tuple[Path, Path]:
    """Replace a pair in a directory as Kubernetes does: by switching a link."""
    pair.write(directory / f"..{pair.serial}")
    link = directory / "..new"
    link.symlink_to(f"..{pair.serial}")
    link.rename(directory / "..data")
    files = directory / "tls.crt", directory / "tls.key"
    for file in files:
        if not file.is_symlink():
            file.symlink_to(f"..data/{file.name}")
    return files


def test_workers_load_a_swapped_certificate(serve: Serve, tmp_path: Path) -> None:
    """Every worker uses the new certificate; health and metrics need none."""
    authority = Authority()
    old = authority.issue()
    new = authority.issue(datetime.timedelta(hours=20))
    files = swapped(tmp_path, old)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    server = serve(
        ECHO, "--workers=2", "--probe_port=0", *arguments(files, client_ca_file=ca)
    )
    probes = int(server.log.split("probes at 127.0.0.1:")[1].split(",")[0])
    url = f"http://127.0.0.1:{probes}"

    def ready() -> bool:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200

    wait_for(ready, "readiness of both workers")
    assert serials(server) == {old.serial}
    swapped(tmp_path, new)
    wait_for(lambda: all(serials(server) == {new.serial} for _ in range(10)), "renewal")
    assert server.log.count(f"serial {new.serial:x}") == 2
    expires = new.certificate.not_valid_after_utc.timestamp()
    name = "oip_tls_certificate_expiry_timestamp_seconds"

    def told() -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name)).split()[1])

    wait_for(lambda: told() == expires, "the metric")


def test_expiring_certificate_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning comes daily in the last fifth of the lifetime, and after expiry."""
    authority = Authority()
    fresh = authority.issue(datetime.timedelta(days=1))
    ends = authority.issue(datetime.timedelta(hours=1))
    ended = authority.issue(datetime.timedelta(hours=-1))
    for pair, expected in ((fresh, []), (ends, ["expires"]), (ended, ["has expired"])):
        tls = Tls(listed(pair.write(tmp_path)))
        caplog.clear()
        tls.react(tls.file.refresh())
        tls.react(tls.file.refresh())
        said = [line.split("certificate ")[1] for line in caplog.messages]
        assert [text.split(" on ")[0] for text in said] == expected


# -- certificates of clients --------------------------------------------------


def refused_by_rest(server: Server, context: ssl.SSLContext) -> bool:
    """Return whether a connection ends unanswered, in TLS 1.3 at its first use."""
    try:
        with Connection(server, context) as connection:
            return connection.live() == b""
    except (ssl.SSLError, ConnectionError):
        return True


def resumed(server: Server, context: ssl.SSLContext, session: Any) -> bool:
    """Return whether a client resumes a TLS session without a new handshake."""
    with (
        socket.create_connection(("127.0.0.1", server.http_port), 30) as plain,
        context.wrap_socket(
            plain, server_hostname="127.0.0.1", session=session
        ) as again,
    ):
        return bool(again.session_reused)


def test_a_client_needs_a_certificate_of_the_authority(
    serve: Serve, tmp_path: Path
) -> None:
    """Without one, or with another authority's, neither protocol answers; probes do.

    A new authority counts as soon as its file is there. The old one no longer counts,
    not even for a client that could resume a TLS session.
    """
    authority, first, second = Authority(), Authority("first"), Authority("second")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(first.pem)
    files = authority.issue().write(tmp_path)
    server = serve(ECHO, "--probe_port=0", *arguments(files, client_ca_file=ca))
    of_first, of_second = first.issue(), second.issue()

    def answers(client: Pair | None) -> list[bool]:
        """Return whether REST and gRPC answer."""
        context = rest_context(authority.pem, client, tmp_path)
        with channel(server, authority.pem, client) as connected:
            by_grpc = grpc_live(connected) == "OK"
        return [not refused_by_rest(server, context), by_grpc]

    assert [answers(c) for c in (None, of_second)] == [[False, False]] * 2
    assert answers(of_first) == [True, True]
    context = rest_context(authority.pem, of_first, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # a session is there at once
    with Connection(server, context) as connection:
        assert connection.live().startswith(b"HTTP/1.1 200")
        session = connection.socket.session
    assert resumed(server, context, session)
    ca.write_bytes(second.pem)
    wait_for(lambda: answers(of_second) == [True, True], "the new authority")
    assert answers(of_first) == [False, False]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        resumed(server, context, session)
    probes = server.log.split("probes at ")[1].split()[0]
    assert httpx.get(f"http://{probes}/v2/health/live").json() == {"live": True}
    assert "Traceback" not in server.log


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_presents_its_certificate(serve: Serve, tmp_path: Path) -> None:
    """The documented command is answered; without the certificate it is not."""
    authority = Authority()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    server = serve(
        ECHO, *arguments(authority.issue().write(tmp_path), client_ca_file=ca)
    )
    mine, key = authority.issue().write(tmp_path, "client")
    url = f"https://127.0.0.1:{server.http_port}/v2/health/live"
    curl = ["curl", "-sS", "--noproxy", "*", "--cacert", str(ca), url]
    done = subprocess.run(
        [*curl, "--cert", str(mine), "--key", str(key)],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == '{"live":true}'
    refused = subprocess.run(curl, capture_output=True, timeout=30, check=False)
    assert (refused.returncode != 0, refused.stdout) == (True, b"")


# -- handshakes ---------------------------------------------------------------


def test_a_handshake_has_the_time_of_a_head(serve: Serve, tmp_path: Path) -> None:
    """A client that sends nothing, or half a handshake, is disconnected."""
    files = Authority().issue().write(tmp_path)
    server = serve(ECHO, "--header_timeout_s=1", *arguments(files))
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            for port in (server.http_port, server.grpc_port)
            for _ in range(2)
        ]
        for client, said in zip(clients, 2 * [b"", b"\x16\x03\x01"], strict=True):
            client.sendall(said)
        assert [client.recv(4096) for client in clients] == [b""] * 4


def test_tls_before_1_2_is_refused(tmp_path: Path) -> None:
    """Versions before TLS 1.2 are refused, even where OpenSSL would accept them."""
    context = listed(Authority().issue().write(tmp_path)).load().context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
