"""Tracing: which spans the host exports of each request, and which it does not."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

# Ray installs the other OpenTelemetry packages
pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed"
)

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)
from opentelemetry.trace import SpanKind

from oip_host.config.settings import Settings
from oip_host.edge.grpc.messages import SERVICE, message
from oip_host.telemetry import otel
from oip_host.telemetry.context import RequestContext
from oip_host.telemetry.tracing import Tracing
from support.collector import Collector, Spanned
from support.control import metric
from support.process import COMMAND, Server, run, wait_for
from support.wire import ONE, request

Serve = Callable[..., Server]
SDK = re.compile(r"opentelemetry\.(sdk|exporter|proto)")

HANDLERS = (
    "m=fakes.traces:Traced",
    "a=fakes.traces:Awaited",
    "b=fakes.traces:Traced",
    "ab=fakes.traces:Awaited",
    "slow=fakes.traces:Traced",
    "many=fakes:Echo",
)
OPTIONS = (
    *(f"--models.{name}.max_batch_size=3" for name in ("b", "ab")),
    *(f"--models.{name}.max_batch_delay_ms=20000" for name in ("b", "ab")),
    "--models.slow.timeout_s=1",
    "--log_format=json",
)
FAMILY = ["infer", "queue", "handler"]
"""The first words of the names of the spans of a request, by time."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def host(collector: Collector) -> Iterator[Server]:
    """A host that exports to the collector."""
    handlers = f"--handlers={','.join(HANDLERS)}"
    with Server(handlers, *OPTIONS, env=collector.env) as server:
        yield server.wait_until_ready()


def client(sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """Return the trace and span of a client and its headers, with a request id."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    headers = {
        "x-request-id": secrets.token_hex(8),
        "traceparent": f"00-{trace}-{span}-0{int(sampled)}",
        "tracestate": "vendor=theirs",
        "baggage": "customer=mine",
    }
    return trace, span, headers


def rest(
    server: Server, model: str, headers: dict[str, str], document: Any = ONE
) -> httpx.Response:
    return server.post(f"/v2/models/{model}/infer", json=document, headers=headers)


def v1(server: Server, model: str, headers: dict[str, str]) -> httpx.Response:
    body = {"instances": [[1.0, 2.0]]}
    return server.post(f"/v1/models/{model}:predict", json=body, headers=headers)


def by_grpc(server: Server, model: str, headers: dict[str, str]) -> str:
    """Send a request by gRPC and return the name of its status."""
    wire = message("ModelInferRequest")(model_name=model)
    wire.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents[:] = [
        1
    ]
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda sent: sent.SerializeToString(),
        )
        try:
            call(wire, metadata=tuple(headers.items()), timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


WAYS: dict[str, Callable[..., Any]] = {"rest": rest, "grpc": by_grpc, "v1": v1}
TOLD: dict[str, dict[str, Any]] = {
    "rest": {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
    },
    "grpc": {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
    },
    "v1": {"http.request.method": "POST", "http.response.status_code": 200},
}


def asked(
    server: Server, collector: Collector, model: str, **told: Any
) -> list[Spanned]:
    """Send a request with parameters and return all spans of its trace."""
    _, _, headers = client()
    rest(server, model, headers, request([1.0], [1], parameters=told))
    return collector.of(headers["x-request-id"])


def words(spans: list[Spanned]) -> list[str]:
    return [span.name.split()[0] for span in spans]


# -- the spans of a request ---------------------------------------------------


@pytest.mark.parametrize("protocol", WAYS)
@pytest.mark.parametrize("model", ["m", "a"], ids=["plain", "async"])
def test_request_continues_the_trace_of_its_client(
    host: Server, collector: Collector, protocol: str, model: str
) -> None:
    """Its span is the client's child and has a queue span and then a handler span."""
    trace, parent, headers = client()
    WAYS[protocol](host, model, headers)
    spans = collector.of(headers["x-request-id"])
    assert FAMILY == words(spans)
    infer, queue, handler = spans
    assert (f"infer {model}", "SERVER") == (infer.name, infer.kind)
    assert (trace, parent, "vendor=theirs") == (infer.trace, infer.parent, infer.state)
    assert queue.within(infer)
    assert handler.within(infer)
    assert queue.ended <= handler.began
    assert {
        "oip.model": model,
        "oip.version": "1",
        "oip.protocol": protocol,
        "oip.request_id": headers["x-request-id"],
        "oip.outcome": "ok",
        "oip.batch_size": 1,
        **TOLD[protocol],
    } == infer.attributes
    assert not any(span.failed for span in spans)


def test_span_times_are_clock_times(host: Server, collector: Collector) -> None:
    """A span has the time of day and lasts as long as its work."""
    before = time.time_ns()
    infer, _, handler = asked(host, collector, "m", sleep=0.1)
    assert before <= infer.began <= infer.ended <= time.time_ns()
    assert 100_000_000 <= handler.ended - handler.began


@pytest.mark.parametrize("model", ["m", "a"], ids=["plain", "async"])
def test_handler_runs_within_its_span(
    host: Server, collector: Collector, model: str
) -> None:
    """The handler's own spans and requests are below its span and have the baggage."""
    trace, _, headers = client()
    document = request([1.0], [1], parameters={"span": True})
    answer = rest(host, model, headers, document).json()["parameters"]
    *_, handler, own = collector.of(headers["x-request-id"])
    assert ("handler", "own") == (handler.name, own.name)
    assert own.within(handler)
    assert {
        "traceparent": f"00-{trace}-{handler.id}-01",
        "tracestate": "vendor=theirs",
        "baggage": "customer=mine",
        "baggage.customer": "mine",
    } == answer


@pytest.mark.parametrize("protocol", WAYS)
def test_unsampled_request_is_not_exported(
    host: Server, collector: Collector, protocol: str
) -> None:
    """Of two requests only the sampled one is exported."""
    trace, _, unsampled = client(sampled=False)
    WAYS[protocol](host, "m", unsampled)
    _, _, sampled = client()
    WAYS[protocol](host, "m", sampled)
    collector.of(sampled["x-request-id"])
    assert not [span for span in collector.spans if span.trace == trace]


def test_handler_continues_an_unsampled_trace(host: Server) -> None:
    """The handler's own requests carry the client's trace, marked as not sampled."""
    trace, _, headers = client(sampled=False)
    answer = rest(host, "m", headers).json()["parameters"]
    assert answer["traceparent"].startswith(f"00-{trace}-")
    assert answer["traceparent"].endswith("-00")
    assert "mine" == answer["baggage.customer"]


@pytest.mark.parametrize("protocol", WAYS)
def test_invalid_trace_headers_are_ignored(
    host: Server, collector: Collector, protocol: str
) -> None:
    """Invalid headers count as absent ones, and the log has no line about them."""
    sent = {
        "x-request-id": secrets.token_hex(8),
        "traceparent": "00-rubbish-rubbish-zz",
        "tracestate": "rubbish;;=,",
        "baggage": "rubbish," + 9000 * "r",
    }
    WAYS[protocol](host, "m", sent)
    infer, *_ = collector.of(sent["x-request-id"])
    assert "" == infer.parent
    assert "ok" == infer.attributes["oip.outcome"]
    assert "rubbish" not in host.log


def test_only_inferences_have_spans(host: Server, collector: Collector) -> None:
    """Health, metadata, metrics and requests for unknown models have no spans."""
    ours, _, headers = client()
    for path in (
        "/v2", "/v2/health/ready", "/v2/health/live", "/v2/models/m",
        "/v2/models/m/ready", "/v2/models/stats", "/metrics", "/v1/models/m", "/",
    ):  # fmt: skip
        httpx.get(host.url + path, headers=headers)
    rest(host, "unknown", headers)
    _, _, last = client()
    rest(host, "m", last)
    collector.of(last["x-request-id"])
    assert not [span for span in collector.spans if span.trace == ours]


def test_span_of_an_instrumented_server_is_the_parent() -> None:
    """The request continues the current span, not the trace in its headers."""
    told = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(told))
    _, _, headers = client()
    context = RequestContext("rest", headers)
    theirs = provider.get_tracer("theirs")
    with theirs.start_as_current_span("POST", kind=SpanKind.SERVER):
        Tracing(provider).begin(context)
        context.span.end("ok", None)
    ours, outer = told.get_finished_spans()
    assert ("infer ", SpanKind.INTERNAL) == (ours.name, ours.kind)
    assert ours.parent is not None
    assert outer.context.span_id == ours.parent.span_id


# -- failures -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "outcome", "status", "is_servers"),
    [
        ("RuntimeError", "HandlerFault", 500, True),
        ("Overloaded", "Overloaded", 503, True),
        ("ValueError", "InvalidRequest", 400, False),
        ("InvalidRequest", "InvalidRequest", 400, False),
    ],
)
@pytest.mark.parametrize("model", ["m", "a"], ids=["plain", "async"])
def test_only_server_faults_are_span_errors(
    host: Server, collector: Collector, model: str, raised: str,
    outcome: str, status: int, is_servers: bool,
) -> None:  # fmt: skip
    """A client's fault is no error; neither fault's text leaves the host."""
    infer, queue, handler = asked(host, collector, model, **{"raise": raised})
    assert outcome == infer.attributes["oip.outcome"]
    assert status == infer.attributes["http.response.status_code"]
    assert [is_servers, False, is_servers] == [
        span.failed for span in (infer, queue, handler)
    ]
    assert (outcome if is_servers else None) == infer.attributes.get("error.type")
    ((event, noted),) = handler.events
    assert ("exception", ["exception.type"]) == (event, list(noted))
    assert noted["exception.type"].endswith(raised)
    assert "secret" not in repr((infer, queue, handler))


def test_request_refused_before_the_lane_has_a_span(
    host: Server, collector: Collector
) -> None:
    """The span has the outcome and no child."""
    _, _, headers = client()
    path = "/v2/models/m/infer"
    assert 400 == host.post(path, content=b"{", headers=headers).status_code
    (infer,) = collector.of(headers["x-request-id"])
    assert "InvalidRequest" == infer.attributes["oip.outcome"]
    assert 400 == infer.attributes["http.response.status_code"]


def test_span_ends_at_the_time_limit(host: Server, collector: Collector) -> None:
    """The request's span ends as an error, though the handler goes on."""
    infer, *_ = asked(host, collector, "slow", sleep=2)
    assert infer.failed
    assert "DeadlineExceeded" == infer.attributes["error.type"]

    def handlers() -> list[Spanned]:
        ours = [span for span in collector.spans if span.trace == infer.trace]
        return [span for span in ours if span.name == "handler"]

    wait_for(handlers, "the end of the handler")
    assert handlers()[0].ended > infer.ended


def test_request_of_a_gone_client_is_no_error(
    host: Server, collector: Collector
) -> None:
    """The request has the outcome Cancelled and no status, since no answer was sent."""
    _, _, headers = client()
    document = request([1.0], [1], parameters={"sleep": 600})
    connection = HTTPConnection("127.0.0.1", host.http_port)
    path, body = "/v2/models/a/infer", json.dumps(document)
    connection.request("POST", path, body, headers)
    in_flight = "oip_requests_in_flight"
    wait_for(lambda: metric(host, in_flight, model_name="a"), "the call")
    connection.close()
    infer, *_ = collector.of(headers["x-request-id"])
    assert "Cancelled" == infer.attributes["oip.outcome"]
    assert not infer.failed
    assert "http.response.status_code" not in infer.attributes


# -- batches ------------------------------------------------------------------


@pytest.mark.parametrize("model", ["b", "ab"], ids=["plain", "async"])
def test_a_batch_has_one_span_with_links(
    host: Server, collector: Collector, model: str
) -> None:
    """Batch and sampled requests link to each other; the handler is below the batch."""
    clients = [client(), client(sampled=False), client()]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda each: rest(host, model, each[2]), clients))
    assert [200] * 3 == [answer.status_code for answer in answers]
    ids = [headers["x-request-id"] for *_, headers in clients]
    sampled = [
        next(span for span in collector.of(ids[n]) if span.kind == "SERVER")
        for n in (0, 2)
    ]
    batch, handler = (
        next(
            s for s in collector.spans if s.name == name and s.trace in traces(clients)
        )
        for name in ("batch", "handler")
    )
    assert (batch.trace, batch.parent) in [infer.key for infer in sampled]
    assert handler.within(batch)
    assert {"oip.batch_size": 3} == batch.attributes
    assert traces(clients) == {trace for trace, _ in batch.links}
    for infer in sampled:
        assert [batch.key] == infer.links
        assert infer.key in batch.links
        assert 3 == infer.attributes["oip.batch_size"]
        assert infer.began <= batch.began <= batch.ended <= infer.ended
    parameters = [answer.json()["parameters"] for answer in answers]
    assert {f"00-{batch.trace}-{handler.id}-01"} == {
        each["traceparent"] for each in parameters
    }
    assert not [each for each in parameters if "baggage" in each]


def test_failed_batch_has_spans_in_each_trace(
    host: Server, collector: Collector
) -> None:
    """The requests fail in the batch, and then one by one, each in its own trace."""
    document = request([1.0], [1], parameters={"raise": "RuntimeError"})
    clients = [client() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda each: rest(host, "b", each[2], document), clients))
    found = [collector.of(headers["x-request-id"]) for *_, headers in clients]
    names = sorted(sorted(words(spans)) for spans in found)
    family = sorted(FAMILY)
    assert [sorted([*family, "batch", "handler"]), family, family] == names
    for spans in found:
        assert all(s.failed for s in spans if s.name in ("handler", "infer b"))


def traces(clients: list[tuple[str, str, dict[str, str]]]) -> set[str]:
    return {trace for trace, *_ in clients}


# -- logs ---------------------------------------------------------------------


def test_log_lines_name_the_trace(host: Server, collector: Collector) -> None:
    """A handler's line has the innermost span, and an inference's line the trace."""
    *_, own = asked(host, collector, "m", span=True)

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in host.log.splitlines() if line[:1] == "{"]
        return [line for line in found if line.get("trace_id") == own.trace]

    wait_for(lambda: len(lines()) == 2, "two lines with the trace")
    said, finished = sorted(lines(), key=lambda line: "oip_host" in line["logger"])
    assert ("within", own.id) == (said["message"], said["span_id"])
    assert "oip_host.latency" == finished["logger"]


# -- tracing off, and faults ---------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [{}, {"OIP_TRACING": "true", "OTEL_SDK_DISABLED": "true"}],
    ids=["off", "disabled"],
)
def test_nothing_is_imported_without_tracing(serve: Serve, env: dict[str, str]) -> None:
    """A request imports no SDK, no exporter and no tracing module of the host's.

    Newer FastAPIs import the API alone.
    """
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **env}
    server = serve("--handlers=m=fakes.traces:Modules", env=env).wait_until_ready()
    _, _, headers = client()
    answer = rest(server, "m", headers)
    told = answer.json()["parameters"]
    assert not [each for each in told["modules"].split(",") if SDK.match(each)]
    assert not told["known"]


def test_missing_extra_is_a_fault(tmp_path: Path) -> None:
    """Without OpenTelemetry's packages the host does not start, and names the extra."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith(('opentelemetry.sdk', 'opentelemetry.exp')):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    env = {"OIP_TRACING": "true", "PYTHONPATH": f"{tmp_path}"}
    done = run(COMMAND, "serve", "--handlers=m=colorsys:rgb_to_hsv", env=env)
    assert 2 == done.returncode, done.stderr
    assert "pip install 'oip-host[otel]'" in done.stderr


@pytest.mark.parametrize(
    ("env", "faults"),
    [
        (
            {
                "OTEL_TRACES_EXPORTER": "otpl,otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            },
            [
                "OTEL_TRACES_EXPORTER: found 'otpl', expected one of console, none, "
                "otlp, otlp_proto_http, nearest: 'otlp'",
                "OTEL_EXPORTER_OTLP_PROTOCOL: found 'http/json', expected one of "
                "http/protobuf, grpc",
            ],
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            [
                "oip_tracing: opentelemetry-exporter-otlp-proto-grpc is not installed: "
                "pip install opentelemetry-exporter-otlp-proto-grpc"
            ],
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
            [
                "OTEL_EXPORTER_OTLP_ENDPOINT: found 'localhost:4318', expected "
                "http://host:port"
            ],
        ),
        ({"OTEL_TRACES_EXPORTER": " none", "OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, []),
    ],
    ids=["names", "package", "endpoint", "none"],
)
def test_wrong_variables_are_faults(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], faults: list[str]
) -> None:
    """With tracing on, a fault has the variable, its value and the expected values."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert faults == otel.find_faults(Settings(oip_tracing=True))
    assert [] == otel.find_faults(Settings())


@pytest.mark.parametrize(
    ("env", "faults"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "otpl", "KSERVE_HTTP_PORT": "much"},
            ["OTEL_TRACES_EXPORTER: found 'otpl'", "KSERVE_HTTP_PORT: found 'much'"],
        ),
        # only the start of the SDK can find this fault
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "0", "KSERVE_HTTP_PORT": "0"},
            ["max_queue_size must be a positive integer"],
        ),
    ],
    ids=["at once", "by the SDK"],
)
def test_a_fault_stops_the_host_before_it_listens(
    env: dict[str, str], faults: list[str]
) -> None:
    """The host exits with code 2 and reports the fault with the others."""
    env = {"OIP_TRACING": "true", **env}
    done = run(COMMAND, "serve", "--handlers=m=fakes:Echo", env=env)
    assert 2 == done.returncode
    assert not [fault for fault in faults if fault not in done.stderr]
    assert "REST at" not in done.stderr


# -- export -------------------------------------------------------------------


def test_shutdown_exports_the_last_spans(serve: Serve) -> None:
    """Spans that wait for the next export leave at shutdown, with their resource."""
    with Collector() as collector:
        env = {
            **collector.env,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        server = serve("--handlers=m=fakes:Echo", env=env).wait_until_ready()
        _, _, headers = client()
        rest(server, "m", headers)
        assert not collector.spans
        assert 0 == server.stop()
        assert FAMILY == words(collector.of(headers["x-request-id"]))
        resource = collector.spans[0].resource
    assert "oip-host" == resource["service.name"]
    assert server.process.pid == resource["process.pid"]
    assert "test" == resource["deployment.environment.name"]


@pytest.mark.parametrize(
    "trouble", [pytest.param("silent", marks=pytest.mark.slow), "down", "refuses"]
)
def test_failing_collector_does_not_disturb_the_host(
    serve: Serve, trouble: str
) -> None:
    """Requests are answered, the log has few lines, and the host ends with code 0.

    With a silent collector the shutdown gives up exporting.
    """
    status = {"silent": None, "refuses": 404}.get(trouble, 200)
    with Collector(status) as collector:
        env = {**collector.env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}
        if trouble == "down":
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
        env["OTEL_EXPORTER_OTLP_TIMEOUT"] = "600"  # longer than any test waits
        server = serve("--handlers=m=fakes:Echo", env=env).wait_until_ready()
        for _ in range(50):
            assert 200 == rest(server, "m", client()[2]).status_code
        if trouble == "down":
            wait_for(lambda: " opentelemetry." in server.log, "a line of the log")
        else:
            wait_for(lambda: collector.asked >= (100 if status else 1), "exports")
        assert 0 == server.stop()
    assert server.log.count(" opentelemetry.") <= 3
    assert trouble != "silent" or "gave up exporting the last spans" in server.log


@pytest.mark.slow
def test_spans_go_where_the_variables_say(serve: Serve) -> None:
    """The SDK's own variables choose exporter, service name and sampler."""
    env = {
        "OIP_TRACING": "true",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_SERVICE_NAME": "fraud",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    server = serve("--handlers=m=fakes.traces:Traced", env=env).wait_until_ready()
    told = rest(server, "m", {}).json()["parameters"]["traceparent"]
    assert not int(told[-2:], 16) & 1
    assert 0 == server.stop()
    assert '"name": "infer m"' not in server.log
    server = serve(
        "--handlers=m=fakes.traces:Traced",
        env={**env, "OTEL_TRACES_SAMPLER": "always_on"},
    ).wait_until_ready()
    rest(server, "m", client(sampled=False)[2])
    assert 0 == server.stop()
    assert '"name": "infer m"' in server.log
    assert '"service.name": "fraud"' in server.log


PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from oip_host import AissembleOIPKServe
from fakes import Echo

provider = TracerProvider(resource=Resource({"service.name": "the program"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with trace.get_tracer("program").start_as_current_span("main"):
    model = AissembleOIPKServe("m", Echo())
    model.load()
    model.start_server()
"""


def test_a_programs_own_provider_is_used(serve: Serve, tmp_path: Path) -> None:
    """Its exporter gets the spans; no request's parent is the span current at start."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with Collector() as collector:
        # ignored: the host uses the program's provider
        env = {**collector.env, "OTEL_TRACES_EXPORTER": "otpl"}
        server = serve(program=(sys.executable, str(program)), env=env)
        server.wait_until_ready()
        trace, parent, headers = client()
        rest(server, "m", headers)
        infer, *_ = collector.of(headers["x-request-id"])
        rest(server, "m", {"x-request-id": "alone"})
        alone, *_ = collector.of("alone")
        server.stop()
    assert (trace, parent) == (infer.trace, infer.parent)
    assert "" == alone.parent
    assert "the program" == infer.resource["service.name"]


# -- several processes --------------------------------------------------------


@pytest.mark.slow
def test_each_worker_exports_its_own_requests(serve: Serve) -> None:
    """Each request to two workers is exported once, by the worker that answers it."""
    with Collector() as collector:
        env = collector.env
        server = serve("--handlers=m=fakes:Echo", "--workers=2", env=env)
        server.wait_until_ready()
        ids = []

        def both() -> bool:
            _, _, headers = client()
            ids.append(headers["x-request-id"])
            rest(server, "m", headers)
            infer, *_ = collector.of(headers["x-request-id"])
            pids.add(infer.resource["process.pid"])
            return len(pids) == 2

        pids: set[int] = set()
        wait_for(both, "spans of both workers")
        assert 0 == server.stop()
        assert len(ids) == sum(span.kind == "SERVER" for span in collector.spans)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_replica_continues_the_trace(
    serve: Serve, collector: Collector, tmp_path: Path
) -> None:
    """By V2 and V1 a replica's spans are below the host's handler.

    The replica has the baggage too.
    """
    pytest.importorskip("ray", reason="Ray is not installed")
    server = serve(
        "--handlers=r=fakes.traces:Traced,former=fakes.replicas:Former",
        "--models.r.replicas=1",
        "--models.former.replicas=1",
        env={
            **collector.env,
            "REPLICA_DIR": str(tmp_path),
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so that only a shutdown exports
        },
    )
    wait_for(
        lambda: server.get("/v2/health/ready").status_code == 200, "readiness", 180
    )
    trace, _, headers = client()
    answer = rest(server, "r", headers, request([1.0], [1], parameters={"span": True}))
    id_of_v1 = secrets.token_hex(8)
    v1(server, "former", {**headers, "x-request-id": id_of_v1})
    assert 0 == server.stop()
    replicas: Any = wait_for(
        lambda: collector.infer(headers["x-request-id"], "replica"), "a replica's span"
    )
    infer, queue, handler, there, queued, inner, own = wait_for(
        lambda: len(found := collector.of(headers["x-request-id"])) >= 7 and found[:7],
        "all spans",
    )
    assert [*FAMILY, *FAMILY, "own"] == words(
        [infer, queue, handler, there, queued, inner, own]
    )
    assert replicas == there
    assert ("CLIENT", "SERVER") == (handler.kind, there.kind)
    assert there.within(handler)
    assert inner.within(there)
    assert own.within(inner)
    assert there.resource["process.pid"] != infer.resource["process.pid"]
    told = answer.json()["parameters"]
    assert f"00-{trace}-{inner.id}-01" == told["traceparent"]
    assert "mine" == told["baggage.customer"]

    def of_v1() -> list[Spanned]:
        return [s for s in collector.spans if s.attributes.get("oip.model") == "former"]

    wait_for(lambda: len(of_v1()) == 2, "both spans by V1")
    host, replica = sorted(of_v1(), key=lambda span: span.began)
    assert trace == host.trace == replica.trace
    parent = next(s for s in collector.spans if s.id == replica.parent)
    assert ("handler", host.id) == (parent.name, parent.parent)
