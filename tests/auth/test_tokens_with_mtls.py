"""Client certificates and tokens together: a request needs both."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from oip_host.edge.grpc.messages import SERVICE
from support.credentials import SECRET, bearer, signed
from support.pki import Authority, Pair
from support.process import Server

TOKENS = {"none": None, "wrong": "rubbish", "right": signed()}


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("known", [False, True], ids=["stranger", "known"])
def test_client_needs_certificate_and_token(
    locked: tuple[Server, Authority, Path], known: bool, kind: str
) -> None:
    """By REST and gRPC, either alone is rejected; the probe port needs neither."""
    server, authority, directory = locked
    client = authority.issue() if known else None
    expected: dict[str, int | str | None] = {"REST": None, "gRPC": "UNAVAILABLE"}
    if known:
        right = kind == "right"
        expected = {
            "REST": 200 if right else 401,
            "gRPC": "OK" if right else "UNAUTHENTICATED",
        }
    found = {
        "REST": by_rest(server, authority, client, TOKENS[kind], directory),
        "gRPC": by_grpc(server, authority, client, TOKENS[kind]),
    }
    assert expected == found
    probes = server.log.split("probes at ")[1].split()[0]
    assert 200 == httpx.get(f"http://{probes}/metrics", timeout=30).status_code


@pytest.fixture(scope="module")
def locked(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Authority, Path]]:
    """A host that requires both, with certificates signed by one authority."""
    directory, authority = tmp_path_factory.mktemp("locked"), Authority()
    certificate, key = authority.issue().write(directory)
    ca = directory / "ca.crt"
    ca.write_bytes(authority.pem)
    with Server(
        "--handlers=echo=fakes:Echo", "--probe_port=0", "--auth_enabled=true",
        f"--tls_cert_file={certificate}", f"--tls_key_file={key}",
        f"--tls_client_ca_file={ca}", env={"AUTH_SECRET": SECRET},
    ) as server:  # fmt: skip
        yield server, authority, directory


def by_rest(
    server: Server,
    authority: Authority,
    client: Pair | None,
    token: str | None,
    directory: Path,
) -> int | None:
    """Return the status of a request, or None if the connection fails."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if client is not None:
        context.load_cert_chain(*client.write(directory, f"client-{client.serial}"))
    headers = bearer(token) if token else {}
    url = f"https://127.0.0.1:{server.http_port}/v2/models"
    try:
        return httpx.get(url, headers=headers, verify=context, timeout=30).status_code
    except httpx.TransportError:
        return None


def by_grpc(
    server: Server, authority: Authority, client: Pair | None, token: str | None
) -> str:
    """Return the status code of a call."""
    pair = (client.key_pem, client.pem) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, *pair)
    metadata = [(k.lower(), v) for k, v in bearer(token).items()] if token else None
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(server.grpc_address, credentials, own) as channel:
        call = channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
        try:
            call(b"", timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"
