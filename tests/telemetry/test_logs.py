"""The log: one line per event, as text or JSON, with the id of its request."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import orjson
import pytest

from oip_host.edge.grpc.messages import SERVICE, message
from oip_host.kserve.api import KSERVE_LOG_CONFIG
from oip_host.telemetry import logs
from support.process import Server, oip_host, wait_for
from support.wire import ONE, infer_grpc, infer_rest, request

Serve = Callable[..., Server]

JSON = "--log_format=json"
LIKED, DISLIKED = ONE, request([-1.0], [1])


def lines(server: Server) -> list[dict[str, Any]]:
    """Return all lines of the log; each must be a JSON object."""
    documents = [orjson.loads(line) for line in server.log.splitlines()]
    assert all(isinstance(document, dict) for document in documents)
    return documents


def one(server: Server, **fields: Any) -> dict[str, Any]:
    """Wait for and return the only line with these fields."""

    def found() -> list[dict[str, Any]]:
        return [x for x in lines(server) if fields.items() <= x.items()]

    (line,) = wait_for(found, f"a line with {fields}")
    return dict(line)


def has(server: Server, pattern: str) -> bool:
    return re.search(pattern, server.log) is not None


def named(identity: str) -> dict[str, Any]:
    return {"headers": {"x-request-id": identity}}


def trailers(server: Server, *metadata: tuple[str, str], model: str = "m") -> Any:
    """Return the trailing metadata of a gRPC answer or error."""
    wire = message("ModelInferRequest")(model_name=model)
    tensor = wire.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(1.0)
    with grpc.insecure_channel(server.grpc_address) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        sent = wire.SerializeToString()
        call = ask.future(sent, timeout=30, metadata=metadata, wait_for_ready=True)
        call.exception()
        return dict(call.trailing_metadata() or ())


# -- the id of a request ------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/m/infer", 200),
        ("POST", "/v2/models/none/infer", 404),
        ("GET", "/v2/models/m", 200),
        ("GET", "/v2/nowhere", 404),
        ("DELETE", "/v2/models/m", 405),
        ("GET", "/v2/health/ready", 200),
        ("POST", "/v1/models/m:predict", 200),
        ("GET", "/v1/models/none", 404),
        ("GET", "/nowhere", 404),
    ],
)
def test_a_request_keeps_its_id(
    log: Server, method: str, path: str, status: int
) -> None:
    """By REST and V1 an answer or error has the id that the client sent."""
    body = {"instances": [[1, 2]]} if path.endswith("predict") else LIKED
    content = orjson.dumps(body) if method == "POST" else None
    headers = {"x-request-id": "abc/7", "content-type": "application/json"}
    answer = httpx.request(
        method, log.url + path, content=content, headers=headers, timeout=30
    )
    assert (status, ["abc/7"]) == (
        answer.status_code,
        answer.headers.get_list("x-request-id"),
    )


@pytest.mark.parametrize("model", ["m", "none"])
def test_a_call_keeps_its_id(log: Server, model: str) -> None:
    """By gRPC the id is in the trailing metadata, also after an error."""
    found = trailers(log, ("x-request-id", "abc/8"), model=model)
    assert "abc/8" == found["x-request-id"]


def test_request_without_an_id_gets_one(log: Server) -> None:
    """Requests without an id get different ones, on both protocols."""
    made = [infer_rest(log, "m", LIKED).headers["x-request-id"] for _ in range(3)]
    made += [trailers(log)["x-request-id"] for _ in range(3)]
    assert 6 == len(set(made))
    assert all(re.fullmatch(r"[0-9a-f]{24}", identity) for identity in made)


@pytest.mark.parametrize(
    "given", ["", "a b", "x" * 129, "tab\there", "caf\u00e9"], ids=repr
)
def test_an_id_that_would_break_a_line_is_replaced(log: Server, given: str) -> None:
    """Only a short id of visible ASCII goes into the log and back to the client."""
    headers = [(b"x-request-id", given.encode("latin-1"))]
    answer = httpx.get(f"{log.url}/v2/models/m", headers=headers, timeout=30)
    assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["x-request-id"])


# -- JSON ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def log() -> Any:
    """A host that logs JSON; most tests send requests with their own ids."""
    access = '--access_log_format=%(client_addr)s "%(request_line)s" %(status_code)s'
    options = ["--handlers=m=fakes.logs:Logs", JSON, access, "--log_level=debug"]
    with Server(*options) as server:
        yield server.wait_until_ready()


def test_every_line_is_json(serve: Serve) -> None:
    """Host, KServe, access log, handler and Python's warnings all write JSON."""
    access = "--access_log_format=%(request_line)s %(status_code)s"
    handlers = "--handlers=m=fakes.logs:Logs,broken=fakes:LoadRaises?"
    server = serve(handlers, JSON, access).wait_until_ready()
    for document in (LIKED, DISLIKED):
        infer_rest(server, "m", document)
        infer_grpc(server, "m", document)
    server.get("/v2/nowhere")
    assert 0 == server.stop()
    found = lines(server)
    for line in found:
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"]
        )
        assert {"level", "logger", "pid", "message"} <= line.keys()
        assert "color_message" not in line
    assert {
        "access", "oip_host", "oip_host.latency", "py.warnings", "their.module"
    } <= {line["logger"] for line in found}  # fmt: skip


def test_an_inference_is_one_line(log: Server) -> None:
    """The line has id, model, version, protocol, outcome and times in milliseconds."""
    log.post("/v2/models/m/infer", json=LIKED, **named("one-line"))
    line = one(log, logger="oip_host.latency", request_id="one-line")
    assert {
        "model": "m", "version": "1", "protocol": "rest", "outcome": "ok",
        "batch_size": 1, "message": "inference",
    }.items() <= line.items()  # fmt: skip
    assert line["total_ms"] >= line["queue_ms"] + line["predict_ms"] > 0


def test_inference_without_handler_call_is_logged(log: Server) -> None:
    """An invalid body has a line with its outcome and no handler time."""
    log.post("/v2/models/m/infer", content=b"rubbish", **named("rubbish"))
    line = one(log, logger="oip_host.latency", request_id="rubbish")
    assert ("InvalidRequest", 0.0) == (line["outcome"], line["predict_ms"])


@pytest.mark.parametrize("protocol", ["rest", "grpc", "v1"])
def test_handler_lines_have_the_request_id(log: Server, protocol: str) -> None:
    """A handler's lines have the request's id, model and version, as the host's do."""
    identity = f"mine-{protocol}"
    if protocol == "rest":
        log.post("/v2/models/m/infer", json=LIKED, **named(identity))
    elif protocol == "grpc":
        trailers(log, ("x-request-id", identity))
    else:
        body = {"instances": [[1, 2]]}
        log.post("/v1/models/m:predict", json=body, **named(identity))
    line = one(log, logger="their.module", level="INFO", request_id=identity)
    assert (f"asked as [{identity}]", "m", "1") == (
        line["message"], line["model"], line["version"]
    )  # fmt: skip
    assert one(log, logger="their.module", level="DEBUG", request_id=identity)
    assert one(log, logger="oip_host.latency", request_id=identity)


def test_a_traceback_is_in_its_line(log: Server) -> None:
    """The line about a handler's failure has id, model and traceback."""
    log.post("/v2/models/m/infer", json=DISLIKED, **named("fails"))
    line = one(log, logger="oip_host", level="ERROR", request_id="fails")
    assert "m" == line["model"]
    assert "RuntimeError: does not like it" in line["exc_info"]


def test_the_access_log_has_the_id(log: Server) -> None:
    """With `access_log_format` each REST request has a line with its id."""
    httpx.get(f"{log.url}/v2/models/m/ready", **named("accessed"), timeout=30)
    line = one(log, logger="access", request_id="accessed")
    assert '"GET /v2/models/m/ready HTTP/1.1" 200 OK' in line["message"]


def test_state_change_line_has_model_fields(serve: Serve) -> None:
    """A line about a state change has fields for model, version and state."""
    server = serve("--handlers=m@7=fakes.logs:Logs", JSON).wait_until_ready()
    one(server, model="m", version="7", state="READY")
    assert 0 == server.stop()
    one(server, model="m", version="7", state="UNAVAILABLE")
    line = one(server, logger="their.module", message="unloads as []")
    assert "request_id" not in line  # the thread ran a request before


@pytest.mark.parametrize("handler", ["Logs", "LogsAsync"])
def test_batch_line_has_all_request_ids(serve: Serve, handler: str) -> None:
    """A handler's line has the ids of all requests in the call."""
    batching = ["--models.m.max_batch_size=2", "--models.m.max_batch_delay_ms=20000"]
    server = serve(f"--handlers=m=fakes.logs:{handler}", JSON, *batching)
    server.wait_until_ready()
    with ThreadPoolExecutor(2) as pool:
        path = "/v2/models/m/infer"
        asking = [
            pool.submit(server.post, path, json=LIKED, **named(identity))
            for identity in ("first", "second")
        ]
        assert [200, 200] == [asked.result().status_code for asked in asking]

    def found() -> list[str]:
        logged = [x for x in lines(server) if x["logger"] == "their.module"]
        return [x["request_id"] for x in logged if "asked" in x["message"]]

    (both,) = wait_for(found, "the handler's line")
    assert ["first", "second"] == sorted(both.split(","))
    for identity in ("first", "second"):
        line = one(server, logger="oip_host.latency", request_id=identity)
        assert 2 == line["batch_size"]


def test_workers_and_their_supervisor_log_json(serve: Serve, tmp_path: Path) -> None:
    """All processes write lines of one form, each with its process id.

    So are the warnings about the options, which come before the form is known.
    """
    nothing = {"KRAUSENING_BASE": str(tmp_path)}
    server = serve("--handlers=m=fakes:Echo", JSON, "--workers=2", env=nothing)
    server.wait_until_ready()
    wait_for(partial(has, server, "no oip.properties in"), "a warning")
    assert 0 == server.stop()
    assert 3 == len({line["pid"] for line in lines(server)})


# -- text ---------------------------------------------------------------------


def test_text_has_the_id_too(serve: Serve) -> None:
    """A text line has KServe's form, with the request's id after the message."""
    server = serve("--handlers=m=fakes.logs:Logs").wait_until_ready()
    server.post("/v2/models/m/infer", json=LIKED, **named("in-text"))
    asked = r" their\.module INFO \[.*\] asked as \[in-text\] request_id=in-text\n"
    told = r" oip_host\.latency model=m .* outcome=ok .* request_id=in-text\n"
    for pattern in (asked, told):
        wait_for(partial(has, server, pattern), pattern)
    assert "in detail" not in server.log


def test_text_form_is_the_one_of_kserve() -> None:
    """The supervisor, which does not import KServe, writes lines of the same form."""
    form = KSERVE_LOG_CONFIG["formatters"]["kserve"]
    assert (form["fmt"], form["datefmt"]) == (logs.TEXT, logs.TEXT_TIME)


@pytest.mark.parametrize(
    ("level", "told"),
    [("debug", ["host", "handler"]), ("Info", ["host", "handler"]), ("WARNING", [])],
)
def test_log_level_holds_for_host_and_handler(level: str, told: list[str]) -> None:
    """From WARNING on neither host nor handler logs normal events."""
    ended = oip_host("check", "--handlers=m=fakes.logs:Logs", f"--log_level={level}")
    assert 0 == ended.returncode
    said = {"is READY": "host", "reads a file": "handler"}
    assert told == [who for text, who in said.items() if text in ended.stderr]


@pytest.mark.parametrize("option", ["--log_format=yaml", "--log_level=loud"])
def test_unknown_log_option_value_is_a_fault(option: str) -> None:
    """The error names the option, the value found and the expected ones."""
    ended = oip_host("serve", "--handlers=m=fakes:Echo", option)
    name, _, value = option.partition("=")
    assert 2 == ended.returncode
    assert f"{name}: found '{value}', expected " in ended.stderr


# -- what is not logged -------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_payload_and_no_secret_is_logged(serve: Serve, form: str) -> None:
    """Tensors, invalid bodies, tokens and settings stay out of the log."""
    access = "--access_log_format=%(request_line)s %(status_code)s"
    secret = {
        "OIP_MODELS__C__SETTINGS__PASSWORD": "s3cr3t-password",
        "OIP_MODELS__C__SETTINGS__PATH": "/a/path",
    }
    server = serve(
        "--handlers=m=fakes:Raises,c=fakes:Configured", f"--log_format={form}",
        "--log_level=debug", access, env=secret,
    ).wait_until_ready()  # fmt: skip
    marked = {"headers": {"authorization": "Bearer s3cr3t-token"}}
    for kind in ("ValueError", "RuntimeError"):
        document = request([kind, "s3cr3t-tensor"], [2], "BYTES")
        server.post("/v2/models/m/infer", json=document, **marked)
        infer_grpc(server, "m", document)
    server.post("/v2/models/m/infer", content=b'{"s3cr3t-rubbish', **marked)
    server.post("/v1/models/m:predict", json={"instances": ["s3cr3t-v1"]}, **marked)
    server.stop()
    assert "outcome" in server.log
    assert "s3cr3t" not in server.log
