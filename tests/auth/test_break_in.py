"""Attempts to break into a real server by REST, V1, gRPC and raw sockets."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from oip_host.edge.grpc.messages import SERVICE, message
from support.control import metric_of
from support.credentials import (
    SECRET,
    bearer,
    forged,
    jwks,
    private_key,
    public_pem,
    signed,
    static_entry,
)
from support.process import Server, oip_host, wait_for
from support.wire import ONE, request

Serve = Callable[..., Server]

EVERYTHING = bearer(signed())
FRAUD = bearer(signed(scope="infer:fraud metadata:fraud repository:fraud"))
NOW = int(time.time())


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "tokens.json"
    path.write_text(json.dumps([static_entry("ops", "letmein", "infer:fraud")]))
    return path


@pytest.fixture(scope="module")
def guarded(tokens_file: Path) -> Iterator[Server]:
    """A host with the models `fraud` and `vault` that requires tokens."""
    with Server(
        "--handlers=fraud=fakes:Echo,vault=fakes:Echo",
        "--model_control=explicit",
        "--enable_docs_url=true",
        f"--auth_tokens_file={tokens_file}",
        "--max_body_bytes=100000",
        env={"AUTH_ENABLED": "true", "AUTH_SECRET": SECRET},
    ) as server:
        yield server.wait_until_ready()


def ask(
    server: Server, method: str, path: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Send a request by REST; a POST is the smallest inference."""
    body = ONE if method == "POST" else None
    if path.startswith("/v1"):
        body = {"instances": [[1.0, 2.0]]} if method == "POST" else None
    return httpx.request(
        method, server.url + path, headers=headers, json=body, timeout=30, verify=False
    )  # a plain-text request needs no certificates


def call(
    server: Server, method: str, headers: dict[str, str] | None = None, **fields: Any
) -> str:
    """Return the status code of an RPC of the protocol."""
    sent = [(k.lower(), v) for k, v in (headers or {}).items()]
    return called(server, method, sent, message(f"{method}Request")(**fields))[0]


def called(server: Server, method: str, sent: Any, wire: Any) -> tuple[str, Any]:
    """Return the status code of an RPC, and the response or the error's text."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            data = stub(wire.SerializeToString(), metadata=sent, timeout=30)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", message(f"{method}Response").FromString(data)


def inference(model: str) -> Any:
    wire = message("ModelInferRequest")(model_name=model)
    tensor = wire.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(1.0)
    return wire


def raw(server: Server, *parts: bytes, answers: int = 1) -> list[tuple[int, bytes]]:
    """Return the statuses and bodies of the answers to raw bytes on one connection."""
    address = ("127.0.0.1", server.http_port)
    found = []
    with socket.create_connection(address, timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        stream = connection.makefile("rb")
        for _ in range(answers):
            status = int(stream.readline().split()[1])
            length = 0
            while (line := stream.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            found.append((status, stream.read(length)))
    return found


# -- without a token ----------------------------------------------------------

OPEN = [
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/fraud/ready",
    "/v2/models/fraud/versions/1/ready",
]
CLOSED = [
    ("GET", "/"),
    ("POST", "/"),
    ("GET", "/v2"),
    ("GET", "/v2/"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/fraud"),
    ("GET", "/v2/models/nobody"),
    ("GET", "/v2/models/fraud/config"),
    ("GET", "/v2/models/fraud/stats"),
    ("POST", "/v2/models/fraud/infer"),
    ("POST", "/v2/models/nobody/infer"),
    ("POST", "/v2/models/fraud/versions/1/infer"),
    ("GET", "/v2/models/fraud/infer"),
    ("HEAD", "/v2/models/fraud"),
    ("OPTIONS", "/v2/models/fraud/infer"),
    ("TRACE", "/v2/models/fraud/infer"),
    ("PUT", "/v2/models/fraud"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/fraud/load"),
    ("POST", "/v2/repository/models/fraud/unload"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fraud"),
    ("GET", "/v1/models/nobody"),
    ("POST", "/v1/models/fraud:predict"),
    ("POST", "/v1/models/fraud:explain"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/v2/no/such"),
    ("GET", "/nothing"),
    ("GET", "/v2/health/live/x"),
    ("GET", "/v2/health/../models"),
    ("GET", "/v2/models/fraud/ready/../config"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED, ids=" ".join)
def test_request_without_token_gets_401(
    guarded: Server, method: str, path: str
) -> None:
    """Every path but health is 401, whether the path, method or model exists or not."""
    answer = ask(guarded, method, path)
    assert (401, "Bearer") == (answer.status_code, answer.headers["www-authenticate"])
    if method != "HEAD":
        assert answer.json() == {
            "error": "expected a token: Authorization: Bearer <token>"
        }


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize(
    "headers",
    [{}, bearer("rubbish"), bearer(signed(exp=NOW - 60))],
    ids=["no token", "rubbish", "expired"],
)
def test_health_needs_no_token(
    guarded: Server, path: str, headers: dict[str, str]
) -> None:
    """Probes are answered without a token, or with any token."""
    assert guarded.get(path).status_code == 200
    assert ask(guarded, "GET", path, headers).status_code == 200


RPCS: dict[str, dict[str, Any]] = {
    "ServerMetadata": {},
    "ModelMetadata": {"name": "fraud"},
    "ModelConfig": {"name": "fraud"},
    "ModelStatistics": {},
    "RepositoryIndex": {},
    "RepositoryModelLoad": {"model_name": "fraud"},
    "RepositoryModelUnload": {"model_name": "fraud"},
    "ModelInfer": {"model_name": "fraud"},
}


@pytest.mark.parametrize("method", RPCS)
def test_rpc_without_token_is_unauthenticated(guarded: Server, method: str) -> None:
    """Every RPC except health is UNAUTHENTICATED."""
    assert call(guarded, method, None, **RPCS[method]) == "UNAUTHENTICATED"


def test_grpc_health_needs_no_token(guarded: Server) -> None:
    """The health RPCs and the standard health service need no token."""
    assert call(guarded, "ServerLive") == call(guarded, "ServerReady") == "OK"
    assert call(guarded, "ModelReady", name="fraud") == "OK"
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE, "fraud"):
            asked = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(asked, timeout=30).status == 1
        watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watched).status == 1
        watched.cancel()


def test_other_grpc_services_need_metadata_scope(guarded: Server) -> None:
    """Reflection and unknown methods need a token with `metadata` for all models."""

    def reflected(headers: dict[str, str]) -> str:
        sent = [(k.lower(), v) for k, v in headers.items()]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with grpc.insecure_channel(guarded.grpc_address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            answers = stub.ServerReflectionInfo(iter([asked]), metadata=sent)
            try:
                found = next(answers).list_services_response.service
            except grpc.RpcError as error:
                return str(error.code().name)
            return f"{len(found)} services"

    def unknown(path: str, headers: dict[str, str]) -> str:
        sent = [(k.lower(), v) for k, v in headers.items()]
        with grpc.insecure_channel(guarded.grpc_address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", metadata=sent, timeout=30)
            return str(caught.value.code().name)

    assert reflected({}) == "UNAUTHENTICATED"
    assert reflected(FRAUD) == "PERMISSION_DENIED"
    assert reflected(EVERYTHING) == "3 services"
    for path in (f"/{SERVICE}/NoSuch", "/no.Such/Thing", f"/{SERVICE}/ServerLive/x"):
        assert unknown(path, {}) == "UNAUTHENTICATED"
    assert unknown(f"/{SERVICE}/NoSuch", EVERYTHING) == "UNIMPLEMENTED"


# -- with a wrong token -------------------------------------------------------

WRONG = {
    "another secret": signed("y" * 40),
    "expired": signed(exp=NOW - 60),
    "not valid yet": signed(nbf=NOW + 86_400),
    "without an expiry": signed(exp=None),
    "alg none": signed("", "none"),
    "another algorithm": signed(algorithm="HS512"),
    "static, almost": "letmeinn",
    "rubbish": "a.b.c",
    "huge": "a" * 8000,
}


@pytest.mark.parametrize("token", WRONG.values(), ids=WRONG)
def test_invalid_token_is_rejected_alike_by_all_protocols(
    guarded: Server, token: str
) -> None:
    """REST, V1 and gRPC reject an invalid token with the same text."""
    rest = ask(guarded, "POST", "/v2/models/fraud/infer", bearer(token))
    v1 = ask(guarded, "POST", "/v1/models/fraud:predict", bearer(token))
    sent = [("authorization", f"Bearer {token}")]
    code, text = called(guarded, "ModelInfer", sent, inference("fraud"))
    assert (rest.status_code, v1.status_code, code) == (401, 401, "UNAUTHENTICATED")
    assert rest.json()["error"] == v1.json()["error"] == text
    assert rest.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert text.startswith("the token ")


def head(*lines: str, body: bytes = b"") -> bytes:
    """Return a request as raw bytes."""
    length = [f"content-length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "host: x", *length, "", ""]).encode() + body


GOOD = f"authorization: Bearer {signed()}"
BODY = json.dumps(request([1.0], [1])).encode()
INFER = "POST /v2/models/fraud/infer HTTP/1.1"


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        ([GOOD, GOOD], {400, 401}),
        ([GOOD, "authorization: Bearer x"], {400, 401}),
        (["authorization: Bearer x", GOOD], {400, 401}),
        (["Authorization: ", GOOD], {400, 401}),
        ([f"{GOOD}, Bearer x"], {401}),
        ([f"{GOOD}\r\n folded"], {400, 401}),
        (["authorization : " + GOOD.partition(": ")[2]], {400}),
        (["authorization:\t" + GOOD.partition(": ")[2].lower()], {401}),
        (["x-authorization: " + GOOD.partition(": ")[2]], {401}),
        (["proxy-authorization: " + GOOD.partition(": ")[2]], {401}),
        (["authorization: Basic bGV0bWVpbjo="], {401}),
        ([GOOD.replace("Bearer", "bearer")], {200}),
        (["AUTHORIZATION: BEARER letmein"], {200}),
        ([GOOD], {200}),
    ],
    ids=lambda value: str(value).replace(GOOD, "good")[:40],
)
def test_exactly_one_header_with_one_token_is_required(
    guarded: Server, lines: list[str], statuses: set[int]
) -> None:
    """Repeated, folded and malformed headers are rejected; case does not matter."""
    ((status, _),) = raw(guarded, head(INFER, *lines, body=BODY))
    assert status in statuses


def test_grpc_rejects_several_headers(guarded: Server) -> None:
    """A valid token is rejected if another one is sent beside it."""
    good, bad = EVERYTHING["Authorization"], "Bearer x"
    for pair in ([good, good], [good, bad], [bad, good]):
        sent = [("authorization", value) for value in pair]
        assert called(guarded, "ModelInfer", sent, inference("fraud"))[0] == (
            "UNAUTHENTICATED"
        )
    for good_one in (good, good.replace("Bearer", "bearer"), "Bearer letmein"):
        sent = [("authorization", good_one)]
        assert called(guarded, "ModelInfer", sent, inference("fraud"))[0] == "OK"


# -- with a token for another model -------------------------------------------


@pytest.mark.parametrize("model", ["vault", "nobody", "Fraud", "fraud ", "fraudx"])
def test_token_is_valid_for_its_own_models_only(guarded: Server, model: str) -> None:
    """Any other model is 403 by every protocol, whether it exists or not."""
    for method, path in [
        ("POST", f"/v2/models/{model}/infer"),
        ("POST", f"/v2/models/{model}/versions/1/infer"),
        ("GET", f"/v2/models/{model}"),
        ("GET", f"/v2/models/{model}/config"),
        ("GET", f"/v2/models/{model}/stats"),
        ("POST", f"/v2/repository/models/{model}/load"),
        ("POST", f"/v2/repository/models/{model}/unload"),
        ("POST", f"/v1/models/{model}:predict"),
        ("POST", f"/v1/models/{model}:explain"),
        ("GET", f"/v1/models/{model}"),
    ]:
        answer = ask(guarded, method, path, FRAUD)
        assert answer.status_code == 403, (method, path, answer.text)
        assert "lacks the scope" in answer.json()["error"]
    for rpc, fields in RPCS.items():
        named = dict.fromkeys(fields, model)
        if named:
            assert call(guarded, rpc, FRAUD, **named) == "PERMISSION_DENIED", rpc


def test_token_has_full_access_to_its_own_model(guarded: Server) -> None:
    """A token may do everything with its own model, and read the server's metadata."""
    for method, path in [
        ("POST", "/v2/models/fraud/infer"),
        ("GET", "/v2/models/fraud"),
        ("GET", "/v2/models/fraud/config"),
        ("POST", "/v1/models/fraud:predict"),
        ("GET", "/v1/models/fraud"),
        ("GET", "/v2"),
        ("GET", "/"),
    ]:
        assert ask(guarded, method, path, FRAUD).status_code == 200, path
    for path in ("/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing"):
        assert ask(guarded, "GET", path, FRAUD).status_code == 403, path
        expected = 404 if path == "/nothing" else 200
        assert ask(guarded, "GET", path, EVERYTHING).status_code == expected, path


@pytest.mark.parametrize(
    ("headers", "names"),
    [(FRAUD, {"fraud"}), (EVERYTHING, {"fraud", "vault"})],
    ids=["one model", "all"],
)
def test_lists_show_only_the_models_of_the_token(
    guarded: Server, headers: dict[str, str], names: set[str]
) -> None:
    """The index, the list and the statistics show only the token's models."""
    index = httpx.post(f"{guarded.url}/v2/repository/index", headers=headers).json()
    models = ask(guarded, "GET", "/v2/models", headers).json()["models"]
    stats = ask(guarded, "GET", "/v2/models/stats", headers).json()["model_stats"]
    sent = [(k.lower(), v) for k, v in headers.items()]
    asked = message("RepositoryIndexRequest")(), message("ModelStatisticsRequest")()
    _, by_grpc = called(guarded, "RepositoryIndex", sent, asked[0])
    _, of_grpc = called(guarded, "ModelStatistics", sent, asked[1])
    assert names == {entry["name"] for entry in index}
    assert names == {entry["name"] for entry in stats} == set(models)
    assert names == {entry.name for entry in by_grpc.models}
    assert names == {entry.name for entry in of_grpc.model_stats}


def test_infer_scope_gives_no_other_right(guarded: Server) -> None:
    """A token with the scope `infer` cannot read a list or change a model."""
    headers = bearer("letmein")
    assert ask(guarded, "POST", "/v2/models/fraud/infer", headers).status_code == 200
    for method, path in [
        ("GET", "/v2/models"),
        ("GET", "/v2/models/fraud"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/fraud/unload"),
    ]:
        assert ask(guarded, method, path, headers).status_code == 403, path
    assert call(guarded, "RepositoryIndex", headers) == "PERMISSION_DENIED"
    unload = {"repository_name": "fraud"}  # it stands in for an empty model name
    assert call(guarded, "RepositoryModelUnload", headers, **unload) == (
        "PERMISSION_DENIED"
    )
    assert ask(guarded, "GET", "/v2/models/fraud/ready").status_code == 200


TRICKS = [
    "/v2/models/fraud/../vault",
    "/v2/models/fraud/../vault/infer",
    "/v2/models/fraud%2F..%2Fvault/infer",
    "/v2/models/..%2Fvault/infer",
    "/v2/models/%2e%2e/vault/infer",
    "/v2/models/%76ault/infer",
    "/v2/models/%2576ault/infer",
    "/v2/models/vault%00/infer",
    "/v2/models/vault%0a/infer",
    "/v2/models/fraud%0avault/infer",
    "/v2/models//vault/infer",
    "//v2/models/vault/infer",
    "/v2//models/vault/infer",
    "/V2/models/vault/infer",
    "/v2/models/vault/infer/",
    "/v2/models/vault/infer?x=/fraud",
    "/v2/models/vault/infer;fraud",
    "/v2/models/fraud/versions/../../vault/infer",
    "/v2/models/fraud/versions/1%2F..%2F..%2Fvault/infer",
    "/v2/models/stats/infer",
    "http://x/v2/models/vault/infer",
    "/x/../v2/models/vault/infer",
    "/v2/health/live/../../models/vault/infer",
    "/v2/repository/models/fraud/../vault/unload",
    "/v2/repository/models/%76ault/unload",
    "/v2/repository/models/vault/unload/",
    "/v1/models/vault:predict",
    "/v1/models/%76ault:predict",
    "/v1/models/vault%3Apredict",
    "/v1/models/vault:predict%0a",
    "/v1/models/vault%0a:predict",
    "/v1/models/fraud:predict/../vault:predict",
    "/v1/models/fraud%2F..%2Fvault:predict",
    "/v1/models//vault:predict",
    "//v1/models/vault:predict",
    "/v1/models/vault:predict/",
    "/V1/models/vault:predict",
    "/v1/models/fraud:vault:predict",
    "/v1/models/vault:predict:predict",
]


@pytest.mark.parametrize("target", TRICKS)
def test_no_spelling_of_a_path_bypasses_a_scope(guarded: Server, target: str) -> None:
    """No spelling of a path reaches a model outside the token's scope."""
    body = b'{"instances": [[1, 2]]}' if "/v1" in target.lower() else BODY
    sent = FRAUD["Authorization"]
    lines = [f"authorization: {sent}", "content-type: application/json"]
    ((status, content),) = raw(
        guarded, head(f"POST {target} HTTP/1.1", *lines, body=body)
    )
    assert status in {307, 400, 403, 404, 405}, content
    ready = ask(guarded, "GET", "/v2/models/vault/ready")
    assert ready.status_code == 200
    ((status, _),) = raw(guarded, head(f"POST {target} HTTP/1.1", body=body))
    assert status in {400, 401}


def test_scope_is_checked_against_the_decoded_name(guarded: Server) -> None:
    """The scope is checked against the decoded name, which is also looked up."""
    for path in ("/v2/models/%66raud/infer", "/v1/models/%66raud:predict"):
        body = b'{"instances": [[1, 2]]}' if path.startswith("/v1") else BODY
        line = f"authorization: {FRAUD['Authorization']}"
        form = "content-type: application/json"
        ((status, _),) = raw(
            guarded, head(f"POST {path} HTTP/1.1", line, form, body=body)
        )
        assert status == 200


# -- bodies and connections ----------------------------------------------------


def test_body_without_token_is_not_read(guarded: Server) -> None:
    """The 401 is sent before the body arrives, and without `100 Continue`."""
    waiting = head(INFER, "content-length: 99999")
    ((status, _),) = raw(guarded, waiting)
    assert status == 401
    ((status, _),) = raw(
        guarded, head(INFER, "content-length: 9", "expect: 100-continue")
    )
    assert status == 401
    ((status, _),) = raw(guarded, head(INFER, "content-length: 999999999"))
    assert status == 401
    v1 = "POST /v1/models/fraud:predict HTTP/1.1"
    ((status, _),) = raw(guarded, head(v1, "transfer-encoding: chunked"))
    assert status == 401


def test_compression_bomb_is_rejected(guarded: Server) -> None:
    """A body that expands beyond the limit is 401 without a token and 413 with one."""
    bomb = gzip.compress(b"\0" * 5_000_000)
    packed = "content-encoding: gzip"
    for first in (INFER, "POST /v1/models/fraud:predict HTTP/1.1"):
        ((status, _),) = raw(guarded, head(first, packed, body=bomb))
        assert status == 401
        ((status, _),) = raw(guarded, head(first, packed, GOOD, body=bomb))
        assert status == 413


def test_grpc_rejects_large_message_without_token_first(guarded: Server) -> None:
    """A large message without a token is UNAUTHENTICATED, not RESOURCE_EXHAUSTED."""
    wire = inference("fraud")
    wire.raw_input_contents.append(b"\0" * 500_000)
    assert called(guarded, "ModelInfer", [], wire)[0] == "UNAUTHENTICATED"
    sent = [("authorization", EVERYTHING["Authorization"])]
    assert called(guarded, "ModelInfer", sent, wire)[0] == "RESOURCE_EXHAUSTED"


HIDDEN = head("GET /v2/models/vault HTTP/1.1", GOOD)


def test_request_hidden_in_a_body_is_not_handled(guarded: Server) -> None:
    """A rejected body is discarded, and the request after it is answered."""
    answers = raw(
        guarded,
        head(INFER, body=HIDDEN),
        head("GET /v2/health/live HTTP/1.1"),
        answers=2,
    )
    assert [status for status, _ in answers] == [401, 200]
    assert answers[1][1] == b'{"live":true}'


def test_token_in_a_trailer_is_ignored(guarded: Server) -> None:
    """A trailer is not a header: a token in it does not authenticate the request."""
    start = head(INFER, "transfer-encoding: chunked", "trailer: authorization")
    ending = f"0\r\n{GOOD}\r\n\r\n".encode()
    chunk = b"%x\r\n%b\r\n" % (len(BODY), BODY)
    for parts in ([start + chunk + ending], [start, chunk, ending]):
        assert raw(guarded, *parts)[0][0] == 401


@pytest.mark.parametrize(
    "lines",
    [
        ["content-length: 5", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 5"],
        ["content-length: 5", "content-length: 6"],
        ["transfer-encoding: identity, chunked", "content-length: 5"],
        ["transfer-encoding: xchunked"],
        ["transfer-encoding : chunked"],
        ["content-length: +5"],
        ["content-length: 5x"],
    ],
    ids=", ".join,
)
def test_ambiguous_length_ends_the_connection(
    guarded: Server, lines: list[str]
) -> None:
    """A length that a proxy might read differently is rejected with one answer."""
    body = b"0\r\n\r\n" + HIDDEN
    with socket.create_connection(("127.0.0.1", guarded.http_port), 30) as connection:
        connection.sendall(head(INFER, GOOD, *lines) + body)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer.count(b"\r\n\r\n") == 1  # one head means one answer
    assert answer.split()[1] in {b"400", b"501"}
    assert b"vault" not in answer


def test_connection_does_not_remember_a_token(guarded: Server) -> None:
    """Each request on a connection needs its own token."""
    line = "GET /v2/models/fraud HTTP/1.1"
    answers = raw(guarded, head(line, GOOD), head(line), head(line, GOOD), answers=3)
    assert [status for status, _ in answers] == [200, 401, 200]
    together = head(line, GOOD) + head(line) + head("GET /metrics HTTP/1.1")
    answers = raw(guarded, together, answers=3)
    assert [status for status, _ in answers] == [200, 401, 401]


def test_tokens_appear_in_no_log_and_no_answer(guarded: Server) -> None:
    """A rejected token is shown neither to the client nor in the log."""
    answer = ask(guarded, "GET", "/v2", bearer("hunter2hunter2"))
    assert "hunter2" not in answer.text + str(answer.headers)
    assert "hunter2" not in guarded.log
    assert SECRET not in guarded.log


def test_rejected_requests_are_counted(guarded: Server) -> None:
    """The metric counts each kind of rejection by protocol."""

    def counts() -> dict[tuple[str, str], float]:
        text = ask(guarded, "GET", "/metrics", EVERYTHING).text
        kinds = ("Unauthenticated", "InvalidToken", "Forbidden")
        return {
            (protocol, kind): metric_of(
                text, "oip_refused_requests_total", protocol=protocol, reason=kind
            )
            for protocol in ("rest", "v1", "grpc")
            for kind in kinds
        }

    before = counts()
    for headers in ({}, bearer("x"), FRAUD):
        ask(guarded, "GET", "/v2/models/vault", headers)
        ask(guarded, "GET", "/v1/models/vault", headers)
        call(guarded, "ModelMetadata", headers, name="vault")
    assert counts() == {key: value + 1 for key, value in before.items()}


def test_static_token_is_revoked_while_the_host_runs(
    guarded: Server, tokens_file: Path
) -> None:
    """A change of the tokens file takes effect within moments."""

    def status(token: str) -> int:
        path = "/v2/models/fraud/infer"
        return ask(guarded, "POST", path, bearer(token)).status_code

    first = tokens_file.read_text()
    assert status("letmein") == 200
    entries = [static_entry("new", "next", "infer:fraud")]
    tokens_file.write_text(json.dumps(entries))
    wait_for(lambda: status("letmein") == 401, "refusal of the old token")
    assert status("next") == 200
    tokens_file.write_text(first)
    wait_for(lambda: status("letmein") == 200, "the token is back")


# -- public keys --------------------------------------------------------------


def test_keys_rotate_and_health_hides_reasons(serve: Serve, tmp_path: Path) -> None:
    """A changed JWKS is reloaded; health without a token gives no reasons."""
    old, new = private_key("RS256"), private_key("RS256", 2)
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwks(old, "a")]}))
    server = serve(
        "--handlers=fraud=fakes:Echo,broken=nowhere:Hidden",
        "--auth_enabled=true",
        "--auth_algorithm=RS256",
        f"--auth_jwks_file={path}",
        "--auth_audience=oip",
        "--auth_issuer=https://issuer.example",
    )
    claims: Any = {"aud": "oip", "iss": "https://issuer.example"}

    def status(key: Any, **more: Any) -> int:
        token = signed(key, "RS256", {"kid": "a"}, **{**claims, **more})
        return ask(server, "GET", "/v2/models/fraud", bearer(token)).status_code

    wait_for(lambda: status(old) == 200, "readiness")
    assert [status(new), status(old, aud="other"), status(old, iss="x")] == [401] * 3
    confused = bearer(forged(public_pem(old), "a", **claims))
    assert ask(server, "GET", "/v2", confused).status_code == 401
    reasons_stay_inside(server, bearer(signed(old, "RS256", **claims)))
    path.write_text(json.dumps({"keys": [jwks(new, "a")]}))
    wait_for(lambda: status(new) == 200, "the new key")
    assert status(old) == 401


def reasons_stay_inside(server: Server, headers: dict[str, str]) -> None:
    for path in ("/v2/health/ready", "/v2/models/broken/ready"):
        answer = server.get(path)
        assert answer.status_code == 503
        assert "nowhere" not in answer.text
    asked = health_pb2.HealthCheckRequest(service="no such model")
    with grpc.insecure_channel(server.grpc_address) as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30).status == 2
    assert call(server, "ModelReady", name="no such model") == "OK"
    index = httpx.post(f"{server.url}/v2/repository/index", headers=headers).json()
    assert any("nowhere" in entry["reason"] for entry in index)


# -- configuration ------------------------------------------------------------


def test_invalid_auth_options_stop_the_host() -> None:
    """Invalid authentication options stop the host, with all faults at once."""
    done = oip_host(
        "check",
        "--handlers=fakes:Echo",
        "--auth_algorithm=none",
        "--auth_default_scopes=x",
        env={"AUTH_ENABLED": "true", "AUTH_SECRET": "short"},
    )
    assert done.returncode == 2
    assert "error: auth_algorithm: found 'none', expected HS256" in done.stderr
    assert "error: auth_default_scopes: found 'x', expected infer" in done.stderr
    assert "short" not in done.stderr


@pytest.mark.slow
def test_each_worker_requires_tokens(serve: Serve) -> None:
    """With several workers, each of them rejects requests without a token."""
    server = serve(
        "--handlers=fraud=fakes:Echo", "--workers=2", "--auth_enabled=true",
        env={"AUTH_SECRET": SECRET},
    )  # fmt: skip
    wait_for(lambda: server.get("/v2/health/ready").status_code == 200, "readiness")
    for _ in range(20):  # each on its own connection
        assert server.get("/v2/models").status_code == 401
        assert ask(server, "GET", "/v2/models", EVERYTHING).status_code == 200
        assert ask(server, "GET", "/metrics", EVERYTHING).status_code == 200
