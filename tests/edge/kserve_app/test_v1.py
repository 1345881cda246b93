"""KServe's V1: instances in, predictions out, for handlers and kserve.Models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.control import change, described, metric
from support.process import Server
from support.wire import ONE, infer_both

HANDLER_AND_KSERVE = ("echo", "explains")
"""A handler, and a kserve.Model that doubles."""
UNKNOWN = "model 'nobody' is not on this server"
FAILED = "model 'failed' version '1' is not ready: model_load returned False"


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    """Handlers and kserve.Models that speak V1."""
    models = [
        "echo=fakes:Echo",
        "explains=fakes.v1:Explains",
        "texts=fakes.v1:Texts",
        "integers=fakes.v1:Integers",
        "pair=fakes.v1:Pair",
        "nothing=fakes.v1:Nothing",
        "hexadecimal=fakes.v1:Hexadecimal",
        "outputs=fakes.v1:Outputs",
        "uneven=fakes.v1:Uneven",
        "undescribed=fakes:NoMetadata",
        "raises=fakes:Raises",
        "async=fakes:Async",
        "counted=fakes:Echo",
        "counted-kserve=fakes:KServeDouble",
        "gone=fakes:Echo",
        "failed=fakes:LoadFalse?",
        "failed-kserve=fakes:KServeLoads?",
        "newest@1=fakes:Echo",
        "newest@2=fakes:Tells",
    ]
    with Server(f"--handlers={','.join(models)}", "--model_control=explicit") as server:
        yield server.wait_until_ready()


def predict(server: Server, model: str, document: Any) -> httpx.Response:
    return server.post(f"/v1/models/{model}:predict", json=document)


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the text of an error, which has no other field."""
    assert "application/json" == answer.headers["content-type"]
    assert ["error"] == list(answer.json())
    assert "Traceback" not in answer.text
    return answer.status_code, answer.json()["error"]


# -- answers ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "instances", "predictions"),
    [
        ("echo", [[1, 2.5], [3, 4]], [[1.0, 2.5], [3.0, 4.0]]),
        ("echo", [1], [1.0]),
        ("echo", [], []),
        ("echo", [[[1, 2], [3, 4]]], [[[1.0, 2.0], [3.0, 4.0]]]),
        ("async", [[1, 2]], [[1.0, 2.0]]),
        ("texts", ["text", "ü", ""], ["text", "ü", ""]),
        ("texts", [["a", "b"]], [["a", "b"]]),
        ("integers", [-128, 127], [-128, 127]),
        ("explains", [1, 2.5], [2, 5.0]),
        ("explains", ["a"], ["aa"]),
        (
            "outputs",
            [[1, 2], [30, 4]],
            [{"total": 3.0, "word": "small"}, {"total": 34.0, "word": "big"}],
        ),
        ("uneven", [[1, 2]], {"rows": [[1.0, 2.0]], "count": [1, 0, 0]}),
        ("echo", [{"x": [1, 2.5]}, {"x": [3, 4]}], [[1.0, 2.5], [3.0, 4.0]]),
        (
            "pair",
            [{"x0": 1, "x1": "ü"}, {"x1": "b", "x0": 2.5}],
            [{"x0": 1.0, "x1": "ü"}, {"x0": 2.5, "x1": "b"}],
        ),
        ("pair", [{"x0": [1], "x1": []}], [{"x0": [1.0], "x1": []}]),
        ("pair", [], []),
    ],
    ids=[
        "rows", "one", "none", "3-D", "async", "bytes", "bytes 2-D", "int8",
        "kserve.Model", "kserve.Model text", "two outputs", "no rows in common",
        "by name", "two inputs", "two inputs 2-D", "two inputs none",
    ],
)  # fmt: skip
def test_instances_become_predictions(
    host: Server, model: str, instances: Any, predictions: Any
) -> None:
    """Each instance is a row of the input, and each row of the output a prediction.

    Each instance names its values where there are several inputs. Several outputs are
    named in each row, or are columns where they have no rows in common.
    """
    answer = predict(host, model, {"instances": instances})
    expected = {"predictions": predictions}
    assert (200, expected) == (answer.status_code, answer.json())
    assert "application/json" == answer.headers["content-type"]


@pytest.mark.parametrize(
    ("instances", "told"),
    [
        pytest.param([{"b64": "/wAB"}], ["bytes ff0001"], id="element"),
        pytest.param([{"b64": "/w=="}, {"b64": ""}], ["bytes ff", "bytes "], id="two"),
        pytest.param([{"b64": "/w\nAB "}], ["bytes ff0001"], id="whitespace"),
        pytest.param(["/wAB"], ["text /wAB"], id="text stays text"),
        pytest.param(["a", {"b64": "/w=="}], ["text a", "bytes ff"], id="both"),
        pytest.param(
            [["a", {"b64": "/w=="}]], [["text a", "bytes ff"]], id="in a list"
        ),
        pytest.param([{"x0": {"b64": "/w=="}}], ["bytes ff"], id="by name"),
        pytest.param([{"x0": [{"b64": "/w=="}]}], [["bytes ff"]], id="by name 2-D"),
    ],
)
def test_base64_becomes_bytes(host: Server, instances: Any, told: Any) -> None:
    """`{"b64": …}` is an element's bytes, wherever an element stands in BYTES."""
    answer = predict(host, "hexadecimal", {"instances": instances})
    assert (200, {"predictions": told}) == (answer.status_code, answer.json())


@pytest.mark.parametrize("model", HANDLER_AND_KSERVE)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
    ],
)
def test_the_content_type_may_have_a_charset(
    host: Server, model: str, content_type: str | None
) -> None:
    """A JSON body is one whatever its Content-Type says of the charset."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = host.post(
        f"/v1/models/{model}:predict", content=b'{"instances": [1]}', headers=headers
    )
    expected = {"predictions": [{"echo": 1.0, "explains": 2}[model]]}
    assert (200, expected) == (answer.status_code, answer.json())


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded"]
)
def test_handler_accepts_json_of_any_content_type(
    host: Server, content_type: str
) -> None:
    """A handler accepts curl's default Content-Type, since it reads only JSON."""
    answer = host.post(
        "/v1/models/echo:predict",
        content=b'{"instances": [1]}',
        headers={"Content-Type": content_type},
    )
    assert (200, {"predictions": [1.0]}) == (answer.status_code, answer.json())


def test_the_newest_version_answers(host: Server) -> None:
    """V1 has no versions: the request goes where V2 without a version would go."""
    before = described(host, "rest", "stats", "newest", "2").document["model_stats"][0]
    assert 200 == predict(host, "newest", {"instances": [1]}).status_code
    after = described(host, "rest", "stats", "newest", "2").document["model_stats"][0]
    assert before["inference_count"] + 1 == after["inference_count"]


def test_a_kserve_model_explains(host: Server) -> None:
    """`:explain` is its `explain`."""
    answer = host.post("/v1/models/explains:explain", json={"instances": [1]})
    expected = {"explanations": ["twice 1"]}
    assert (200, expected) == (answer.status_code, answer.json())


# -- errors -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "document", "words"),
    [
        ("echo", {}, "instances"),
        ("echo", [1], "instances"),
        ("echo", "text", "instances"),
        ("echo", {"inputs": [1]}, "instances"),
        ("echo", {"instances": 1}, "instances"),
        ("echo", {"instances": {"x": [1]}}, "instances"),
        ("echo", {"instances": None}, "instances"),
        ("echo", {"instances": ["text"]}, "instances: element 0 is the str 'text'"),
        ("echo", {"instances": [True]}, "instances: element 0 is the bool True"),
        ("echo", {"instances": [None]}, "instances: element 0"),
        ("echo", {"instances": [{"y": 1}]}, "element 0 has no 'x' and has the unknown"),
        ("echo", {"instances": [{}]}, "element 0 has no 'x', expected an object with"),
        (
            "echo",
            {"instances": [{"x": 1}, 2]},
            "element 1 is not an object, expected",
        ),
        ("echo", {"instances": [1, {"x": 2}]}, "element 1 is an object, expected a"),
        ("echo", {"instances": [{"x": {"x": 1}}]}, "element 0 is an object, expected"),
        ("echo", {"instances": [{"b64": "AA=="}]}, "element 0 is an object, expected"),
        (
            "pair",
            {"instances": [1]},
            "element 0 is not an object, expected an",
        ),
        ("pair", {"instances": [{"x0": 1}]}, "element 0 has no 'x1', expected an"),
        (
            "pair",
            {"instances": [{"x0": 1, "x1": "a"}, {"x0": 1, "x1": "a", "z": 1}]},
            "element 1 has the unknown 'z', expected an object with 'x0', 'x1'",
        ),
        ("pair", {"instances": [{"x0": "a", "x1": "a"}]}, "'x0': element 0 is the str"),
        (
            "pair",
            {"instances": [{"x0": 1, "x1": "a"}, {"x0": 1, "x1": {"b64": "?"}}]},
            "instances: 'x1': element 1 is not base64",
        ),
        ("texts", {"instances": ["a", {"b64": "A"}]}, "element 1 is not base64"),
        ("texts", {"instances": [{"b64": "ü"}]}, "element 0 is not base64"),
        ("texts", {"instances": [{"b64": "-_-_"}]}, "element 0 is not base64"),
        ("texts", {"instances": [{"b64": None}]}, "element 0 has no text for 'b64'"),
        ("texts", {"instances": [{"b64": "", "a": 1}]}, "has the unknown 'b64', 'a'"),
        ("texts", {"instances": [["a"], [["b"]]]}, "not rectangular"),
        ("echo", {"instances": [[1], [2, 3]]}, "not rectangular"),
        ("echo", {"instances": [1e40]}, "beyond the range of FP32"),
        ("integers", {"instances": [128]}, "element 0 is the int 128, expected INT8"),
        ("integers", {"instances": [1.5]}, "instances: element 0"),
        ("texts", {"instances": [1]}, "instances: element 0"),
    ],
)
def test_wrong_instances_are_a_client_error(
    host: Server, model: str, document: Any, words: str
) -> None:
    """The handler is not called, and the text says what is wrong."""
    status, text = refused(predict(host, model, document))
    assert 400 == status
    assert words in text


@pytest.mark.parametrize("model", HANDLER_AND_KSERVE)
@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8"]
)
@pytest.mark.parametrize("body", [b"", b"rubbish", b'{"instances": [1', b"\xff\xfe"])
def test_invalid_json_is_a_client_error(
    host: Server, model: str, content_type: str, body: bytes
) -> None:
    """This holds for handlers and kserve.Models, whatever the charset."""
    answer = host.post(
        f"/v1/models/{model}:predict",
        content=body,
        headers={"Content-Type": content_type},
    )
    status, text = refused(answer)
    assert 400 == status
    assert text


def test_a_handler_without_inputs_has_no_v1(host: Server) -> None:
    """The answer names the path that serves the handler."""
    text = (
        "V1 needs a model with an input, 'nothing' has none; "
        "ask POST /v2/models/nothing/infer"
    )
    assert (501, text) == refused(predict(host, "nothing", {"instances": [1]}))


def test_a_handler_without_metadata_has_no_v1(host: Server) -> None:
    """Without metadata the input of a handler is unknown."""
    text = "there is nothing to describe"
    assert (501, text) == refused(predict(host, "undescribed", {"instances": [1]}))


def test_a_handler_does_not_explain(host: Server) -> None:
    """`:explain` is not implemented for handlers, and the text names the handler."""
    answer = host.post("/v1/models/echo:explain", json={"instances": [1]})
    assert (501, "model 'echo' does not explain") == refused(answer)


def test_kserve_model_exception_stays_in_the_log(host: Server) -> None:
    """A client learns that the model failed, and nothing about the program."""
    status, text = refused(predict(host, "explains", {"instances": ["raise"]}))
    assert 500 == status
    assert "secret" not in text
    assert "a secret of the program" in host.log


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("nobody", 404, UNKNOWN),
        ("failed", 503, FAILED),
        (
            "failed-kserve",
            503,
            "model 'failed-kserve' version '1' is not ready: "
            "RuntimeError: no weights here",
        ),
    ],
    ids=["unknown", "handler", "kserve.Model"],
)
def test_missing_or_unready_model(
    host: Server, verb: str, model: str, status: int, text: str
) -> None:
    """V1 has V2's statuses and texts on every route."""
    answer = host.post(f"/v1/models/{model}:{verb}", json={"instances": [1]})
    assert (status, text) == refused(answer)
    if verb == "predict":
        assert text == infer_both(host, model, ONE)[0].error


def test_an_unloaded_model_is_not_ready(host: Server) -> None:
    """V1 follows the repository."""
    assert 200 == predict(host, "gone", {"instances": [1]}).status_code
    change(host, "rest", "unload", "gone")
    text = "model 'gone' version '1' is not ready: unloaded"
    assert (503, text) == refused(predict(host, "gone", {"instances": [1]}))
    assert (503, text) == refused(host.get("/v1/models/gone"))
    change(host, "rest", "load", "gone")
    assert 200 == predict(host, "gone", {"instances": [1]}).status_code
    assert 200 == host.get("/v1/models/gone").status_code


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/models/echo:predict", 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_wrong_route_has_the_usual_error(
    host: Server, method: str, path: str, status: int
) -> None:
    """The text names the method and the path."""
    answer = httpx.request(method, host.url + path, timeout=30)
    found, text = refused(answer)
    assert status == found
    assert f"{method} {path}" in text


# -- models -------------------------------------------------------------------


def test_the_models_are_listed(host: Server) -> None:
    """Each name is listed once, in V2's order, whether ready or not."""
    answer = host.get("/v1/models")
    assert 200 == answer.status_code
    assert {"models": host.get("/v2/models").json()["models"]} == answer.json()
    assert "failed" in answer.json()["models"]
    assert 1 == answer.json()["models"].count("newest")


@pytest.mark.parametrize("model", HANDLER_AND_KSERVE)
def test_a_model_is_ready(host: Server, model: str) -> None:
    """The answer is the one in KServe's documentation."""
    answer = host.get(f"/v1/models/{model}")
    expected = {"name": model, "ready": True}
    assert (200, expected) == (answer.status_code, answer.json())


@pytest.mark.parametrize(
    ("model", "status", "text"), [("nobody", 404, UNKNOWN), ("failed", 503, FAILED)]
)
def test_a_model_that_is_not_ready_says_why(
    host: Server, model: str, status: int, text: str
) -> None:
    """An unready model has the status and the text of V2."""
    assert (status, text) == refused(host.get(f"/v1/models/{model}"))


# -- counting -----------------------------------------------------------------


@pytest.mark.parametrize("model", ["counted", "counted-kserve"])
def test_each_request_is_counted_once(host: Server, model: str) -> None:
    """Metrics and statistics count V1's requests beside V2's.

    KServe's own histogram counts each once, of a handler as of a kserve.Model.
    """
    for _ in range(2):
        assert 200 == predict(host, model, {"instances": [1]}).status_code
    infer_both(host, model, ONE)
    for protocol, count in (("v1", 2), ("rest", 1), ("grpc", 1)):
        labels = {"model_name": model, "protocol": protocol, "outcome": "ok"}
        assert count == metric(host, "oip_requests_total", **labels)
    for name in ("request_predict", "oip_handler", "oip_queue"):
        assert 4 == metric(host, f"{name}_seconds_count", model_name=model)
    stats = described(host, "rest", "stats", model).document["model_stats"][0]
    assert 4 == stats["inference_count"]
    assert 4 == stats["inference_stats"]["success"]["count"]


def test_a_failure_of_v1_is_counted(host: Server) -> None:
    """A request that the model fails to answer counts as V1's, by its kind."""
    before = described(host, "rest", "stats", "explains").document["model_stats"][0]
    labels = {"model_name": "explains", "protocol": "v1", "outcome": "HandlerFault"}
    counted = metric(host, "oip_requests_total", **labels)
    predict(host, "explains", {"instances": ["raise"]})
    assert counted + 1 == metric(host, "oip_requests_total", **labels)
    after = described(host, "rest", "stats", "explains").document["model_stats"][0]
    failures = [one["inference_stats"]["fail"]["count"] for one in (before, after)]
    assert failures[0] + 1 == failures[1]


def test_v1_and_v2_give_the_same_numbers(host: Server) -> None:
    """The rows of V1 are the elements of V2."""
    rows = [[0.1, -2.5], [3e38, 1e-40]]
    flat = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": flat}
    over_v2 = host.post(
        "/v2/models/echo/infer", content=json.dumps({"inputs": [tensor]})
    )
    found = predict(host, "echo", {"instances": rows}).json()["predictions"]
    assert over_v2.json()["outputs"][0]["data"] == pytest.approx(
        [value for row in found for value in row], rel=1e-6, abs=1e-44
    )
