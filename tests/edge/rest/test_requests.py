"""Every REST endpoint and every failure: fields, types, statuses, and one sentence."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from oip_host.edge.grpc.messages import SERVICE, message
from support.process import Server
from support.wire import ONE, infer_both, request, rpc, tensor

ECHO = "/v2/models/echo/infer"
X = tensor([1.0], [1])


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    models = ("echo=fakes:Echo", "many@1=fakes:Tells", "many@2=fakes:Tells")
    with Server(f"--handlers={','.join(models)}") as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="module")
def client(host: Server) -> Iterator[httpx.Client]:
    """One connection for all tests, so that anything an error leaves behind is seen."""
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(base_url=host.url, limits=limits, timeout=30) as connected:
        yield connected


def assert_error(answer: httpx.Response, status: int, text: str = "") -> None:
    """The whole body is one sentence: no page, no stack trace, no list of faults."""
    assert status == answer.status_code, answer.text
    assert "application/json" == answer.headers["content-type"]
    document = answer.json()
    assert ["error"] == list(document)
    shown = document["error"]
    assert text in shown
    assert 0 < len(shown) <= 500
    assert "Traceback" not in shown
    assert "\n" not in shown


def assert_works(client: httpx.Client) -> None:
    """The connection is still good for a right request."""
    answer = client.post(ECHO, json=ONE)
    assert [1.0] == answer.json()["outputs"][0]["data"]


# -- answers ------------------------------------------------------------------

STRING, FLAG = str, bool
TENSOR = {"name": STRING, "datatype": STRING, "shape": [int]}
ANSWERS: dict[str, Any] = {
    "/v2": {"name": STRING, "version": STRING, "extensions": [STRING]},
    "/v2/": {"name": STRING, "version": STRING, "extensions": [STRING]},
    "/v2/health/live": {"live": FLAG},
    "/v2/health/ready": {"ready": FLAG},
    **{
        f"/v2/models/many{version}{action}": schema
        for version in ("", "/versions/1")
        for action, schema in {
            "": {
                "name": STRING,
                "versions": [STRING],
                "platform": STRING,
                "inputs": [TENSOR],
                "outputs": [TENSOR],
            },
            "/ready": {"name": STRING, "ready": FLAG},
        }.items()
    },
}


def assert_schema(value: Any, schema: Any, where: str = "$") -> None:
    """Exactly these fields, each of exactly this type."""
    if isinstance(schema, dict):
        assert list(schema) == list(value), where
        for name, inner in schema.items():
            assert_schema(value[name], inner, f"{where}.{name}")
    elif isinstance(schema, list):
        assert list is type(value), where
        assert value, where
        for inner in value:
            assert_schema(inner, schema[0], f"{where}[]")
    else:
        assert schema is type(value), where


@pytest.mark.parametrize("path", ANSWERS)
def test_an_answer_has_exactly_its_fields(client: httpx.Client, path: str) -> None:
    """Nothing is missing, null or of another type, and nothing is added."""
    answer = client.get(path)
    assert (200, "application/json") == (
        answer.status_code,
        answer.headers["content-type"],
    )
    assert_schema(answer.json(), ANSWERS[path])


def output(**more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1], "datatype": "FP32", **more, "data": [1.0]}


NOTE = {"note": "n"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param({}, {"outputs": [output()]}, id="least"),
        pytest.param({"id": "7"}, {"id": "7", "outputs": [output()]}, id="id"),
        pytest.param({"id": ""}, {"id": "", "outputs": [output()]}, id="empty id"),
        pytest.param({"id": "ü"}, {"id": "ü", "outputs": [output()]}, id="id text"),
        pytest.param(
            {"id": None, "parameters": None, "outputs": None},
            {"outputs": [output()]},
            id="nulls for what is optional",
        ),
        pytest.param(
            {"parameters": {}, "outputs": []}, {"outputs": [output()]}, id="empties"
        ),
        pytest.param(
            {"parameters": {"a": None}}, {"outputs": [output()]}, id="null parameter"
        ),
        pytest.param(
            {"parameters": NOTE},
            {"parameters": NOTE, "outputs": [output()]},
            id="parameters",
        ),
        pytest.param(
            {"inputs": [{**X, "parameters": NOTE}]},
            {"outputs": [output(parameters=NOTE)]},
            id="input parameters",
        ),
        pytest.param(
            {"outputs": [{"name": "x", "parameters": NOTE}]},
            {"outputs": [output()]},
            id="output parameters",
        ),
        pytest.param(
            {"model_name": "other", "unknown": {"a": [None]}},
            {"outputs": [output()]},
            id="unknown fields",
        ),
    ],
)
def test_an_inference_has_exactly_its_fields(
    client: httpx.Client, more: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Optional fields stand in the answer where they say something, never as null."""
    answer = client.post(ECHO, json={**ONE, **more})
    whole = {"model_name": "echo", "model_version": "1", **expected}
    assert 200 == answer.status_code
    assert json.dumps(whole, ensure_ascii=False) == json.dumps(
        answer.json(), ensure_ascii=False
    )


@pytest.mark.parametrize(
    "value",
    [True, False, 0, -1, 2**63 - 1, -(2**63), 0.5, -0.0, 1e300, 5e-324, "", "ü\x00"],
    ids=repr,
)
def test_a_parameter_keeps_its_type_and_value(host: Server, value: Any) -> None:
    """Parameters go through unchanged on the request's and the input's level."""
    asked = {"inputs": [{**X, "parameters": {"p": value}}], "parameters": {"p": value}}
    for reply in infer_both(host, "echo", asked):
        for level in (reply.document, reply.document["outputs"][0]):
            assert {"p": value} == level["parameters"]
            assert type(value) is type(level["parameters"]["p"])


@pytest.mark.parametrize("name", ["", "a b", "ü", "model_config", "self", "__class__"])
def test_a_parameter_may_have_any_name(host: Server, name: str) -> None:
    """No name is taken by the host's own classes."""
    asked = {**ONE, "parameters": {name: 1}}
    for reply in infer_both(host, "echo", asked):
        assert {name: 1} == reply.document["parameters"]


def test_a_uint64_parameter_keeps_its_value(host: Server) -> None:
    """An integer beyond int64 travels as uint64_param."""
    wire = message("ModelInferRequest")(model_name="echo")
    wire.inputs.add(name="x", datatype="FP32", shape=[0])
    wire.parameters["p"].uint64_param = 2**64 - 1
    answer = rpc(host, "ModelInfer", wire).parameters["p"]
    assert ("uint64_param", 2**64 - 1) == (
        answer.WhichOneof("parameter_choice"),
        answer.uint64_param,
    )
    rest = host.post(ECHO, json={**ONE, "parameters": {"p": 2**64 - 1}})
    assert {"p": 2**64 - 1} == rest.json()["parameters"]


@pytest.mark.parametrize(
    "kind",
    [
        None, "", "application/json", "application/json; charset=utf-8", "text/plain",
        "application/octet-stream", "application/x-www-form-urlencoded", "nonsense",
        "multipart/form-data",
    ],
)  # fmt: skip
def test_a_json_body_may_have_any_content_type(
    client: httpx.Client, kind: str | None
) -> None:
    """The Content-Type is not checked."""
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post(ECHO, content=json.dumps(ONE), headers=headers)
    assert 200 == answer.status_code


@pytest.mark.parametrize("wanted", [["a", "b"], ["c", "a"], ["b"], ["c", "b", "a"]])
def test_outputs_select_and_order(host: Server, wanted: list[str]) -> None:
    """The answer has exactly the requested outputs, in the requested order."""
    asked = {
        "inputs": [tensor([i], [1], name=name) for i, name in enumerate("abc")],
        "outputs": [{"name": name} for name in wanted],
    }
    expected = [(name, [float("abc".index(name))]) for name in wanted]
    for reply in infer_both(host, "echo", asked):
        outputs = reply.document["outputs"]
        assert expected == [(output["name"], output["data"]) for output in outputs]


# -- routes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/model"),
        ("GET", "/v2/models/"),
        ("GET", "/v2/models/echo/"),
        ("GET", "/v2/models/echo/versions/"),
        ("GET", "/v2/models/echo/versions/1/"),
        ("GET", "/v2/models/echo/ready/now"),
        ("POST", "/v2/models/echo/versions/1/infer/"),
        ("POST", "/v2/models/echo/versions//infer"),
        ("POST", "/v2/models/echo/infer/1"),
        ("POST", "/v2/models/echo/Infer"),
        ("POST", "/v2/infer"),
        ("GET", "/v2/health"),
        ("GET", "/v2/health/"),
        ("GET", "/v2/health/lively"),
        ("GET", "/v2//health/live"),
        ("GET", "/v2/%2e%2e/x"),
        ("GET", "/v2/models/%ff"),
        ("GET", "/v2/models/%00"),
        ("GET", "/v2/models/echo%2Finfer%2Fx"),
        ("GET", "/v2/models/" + "x" * 5000),
        ("GET", "/v3"),
        ("GET", "/V2"),
    ],
)
def test_unknown_path_or_model_is_not_found(
    client: httpx.Client, method: str, path: str
) -> None:
    """An unknown path or model is a 404 with a text, and the connection goes on."""
    assert_error(client.request(method, path), 404)
    assert_works(client)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2", "GET, HEAD"),
        ("/v2/health/live", "GET, HEAD"),
        ("/v2/health/ready", "GET, HEAD"),
        ("/v2/models/echo", "GET, HEAD"),
        ("/v2/models/echo/ready", "GET, HEAD"),
        ("/v2/models/echo/versions/1", "GET, HEAD"),
        (ECHO, "POST"),
        ("/v2/models/echo/versions/1/infer", "POST"),
        ("/v2/models/nobody/infer", "POST"),
    ],
)
def test_another_method_is_not_allowed(
    client: httpx.Client, path: str, allowed: str
) -> None:
    """A 405 names what was found and expected, and Allow says it to programs."""
    methods = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    for method in sorted(methods - set(allowed.split(", "))):
        answer = client.request(method, path)
        assert_error(answer, 405, f"{path}: found method {method}, expected ")
        assert allowed == answer.headers["allow"]
    assert_works(client)


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/echo"])
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    """Probes that ask with HEAD get the status and the length."""
    head, get = client.head(path), client.get(path)
    assert (200, b"") == (head.status_code, head.content)
    assert get.headers["content-length"] == head.headers["content-length"]
    assert_works(client)


# -- failures -----------------------------------------------------------------


def raw_json(data: str = "[1]", shape: str = "[1]", datatype: str = "FP32") -> bytes:
    """A request whose parts are JSON texts, right or wrong."""
    return (
        f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}",'
        f'"data":{data}}}]}}'
    ).encode()


WHOLE = raw_json()
KINDS: dict[str, Any] = {
    "null": None, "a bool": True, "an int": 1, "a float": 1.5, "text": "text",
    "an array": [], "an object": {},
}  # fmt: skip
TAKES = {
    "inputs": ("an array",),
    "outputs": ("an array", "null"),
    "id": ("text", "null"),
    "parameters": ("an object", "null"),
    "inputs[0]": ("an object",),
    "inputs[0].name": ("text",),
    "inputs[0].shape": ("an array",),
    "inputs[0].datatype": ("text",),
    "inputs[0].data": ("an array",),
    "inputs[0].parameters": ("an object", "null"),
    "inputs[0].parameters.p": ("text", "a bool", "an int", "a float", "null"),
    "inputs[0].parameters.content_type": ("text", "null"),
    "outputs[0]": ("an object",),
    "outputs[0].name": ("text",),
    "outputs[0].parameters": ("an object", "null"),
    "outputs[0].parameters.p": ("text", "a bool", "an int", "a float", "null"),
    "parameters.p": ("text", "a bool", "an int", "a float", "null"),
    "parameters.content_type": ("text", "null"),
}


def replaced(place: str, value: Any) -> Any:
    """A right request with another value at one place."""
    document: Any = {
        "id": "1",
        "parameters": {"p": 1},
        "inputs": [{**X, "parameters": {"p": 1}}],
        "outputs": [{"name": "x", "parameters": {"p": 1}}],
    }
    *way, last = place.replace("[0]", ".0").split(".")
    target = document
    for step in way:
        target = target[int(step) if step == "0" else step]
    target[int(last) if last == "0" else last] = value
    return document


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        pytest.param(place, kind, id=f"{place} is {kind}")
        for place, takes in TAKES.items()
        for kind in KINDS
        if kind not in takes
    ],
)
def test_field_of_the_wrong_type_is_refused_by_place(
    client: httpx.Client, place: str, kind: str
) -> None:
    """The text names the field, in the form in which a program would reach it."""
    answer = client.post(ECHO, json=replaced(place, KINDS[kind]))
    assert_error(answer, 400, f"{place}: ")
    assert_works(client)


@pytest.mark.parametrize(
    "place", [p for p in TAKES if "inputs" in p and "par" not in p and p[-1] != "]"]
)
def test_missing_field_is_reported(client: httpx.Client, place: str) -> None:
    """Only optional fields may be left out."""
    whole = json.dumps(replaced(place, "LEFT OUT"))
    name = place.rpartition(".")[2]
    content = whole.replace(f'"{name}": "LEFT OUT"', '"other": 1')
    assert_error(client.post(ECHO, content=content), 400, f"{place}: missing")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(b" \n", "not valid JSON", id="white space"),
        pytest.param(b"null", "the body is null", id="null"),
        pytest.param(b'"{}"', "the body is the str '{}'", id="text"),
        pytest.param(b"1", "the body is the int 1", id="number"),
        pytest.param(WHOLE[:-1], "not valid JSON", id="cut"),
        pytest.param(WHOLE + b"}", "not valid JSON", id="one brace more"),
        pytest.param(WHOLE + WHOLE, "not valid JSON", id="twice"),
        pytest.param(WHOLE + b"\0", "not valid JSON", id="NUL behind"),
        pytest.param(b"\xef\xbb\xbf" + WHOLE, "not valid JSON", id="BOM"),
        pytest.param(WHOLE.decode().encode("utf-16"), "not valid JSON", id="UTF-16"),
        pytest.param(WHOLE.replace(b'"', b"'"), "not valid JSON", id="quotes"),
        pytest.param(b"inputs=1&x=2", "not valid JSON", id="form"),
        pytest.param(raw_json("[1,]"), "not valid JSON", id="comma"),
        pytest.param(raw_json("[1 // one\n]"), "not valid JSON", id="comment"),
        pytest.param(raw_json("[NaN]"), "not valid JSON", id="NaN"),
        pytest.param(raw_json("[Infinity]"), "not valid JSON", id="Infinity"),
        pytest.param(raw_json("[-Infinity]"), "not valid JSON", id="-Infinity"),
        pytest.param(raw_json("[1e999]"), "not valid JSON", id="1e999"),
        pytest.param(raw_json("[01]"), "not valid JSON", id="leading zero"),
        pytest.param(raw_json("[+1]"), "not valid JSON", id="plus"),
        pytest.param(raw_json("[0x1]"), "not valid JSON", id="hexadecimal"),
        pytest.param(
            raw_json(f"[{'9' * 100_000}]"), "not valid JSON", id="100,000 digits"
        ),
        pytest.param(
            raw_json(f"[{'9' * 100_000}]", datatype="INT64"),
            "not valid JSON",
            id="100,000 digits of INT64",
        ),
        pytest.param(
            raw_json(shape=f"[{'9' * 100_000}]"), "not valid JSON", id="in shape"
        ),
        pytest.param(
            raw_json('["\xff"]', datatype="BYTES").decode().encode("latin-1"),
            "not valid JSON",
            id="invalid UTF-8",
        ),
        pytest.param(
            raw_json('["\\ud800"]', datatype="BYTES"), "not valid JSON", id="surrogate"
        ),
        pytest.param(
            raw_json('["\\udc00\\ud800"]', datatype="BYTES"),
            "not valid JSON",
            id="surrogates in the wrong order",
        ),
        pytest.param(
            raw_json("[" * 100_000 + "]" * 100_000), "not valid JSON", id="arrays bomb"
        ),
        pytest.param(
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            "not valid JSON",
            id="objects bomb",
        ),
        pytest.param(
            raw_json("[" * 200 + "1" + "]" * 200), "input 'x': ", id="200 dimensions"
        ),
        pytest.param(raw_json("[[1],[2,3]]", "[3]"), "not rectangular", id="ragged"),
        pytest.param(raw_json("[[1],2]", "[2]"), "not rectangular", id="mixed"),
        pytest.param(raw_json("[1,[2]]", "[2]"), "not rectangular", id="mixed later"),
        pytest.param(raw_json("[[1,2],[3,4]]", "[4,1]"), "nested", id="other nesting"),
        pytest.param(raw_json("[[1,2,3]]", "[3,1]"), "nested", id="transposed"),
        pytest.param(raw_json("[[]]", "[1,1]"), "found 0", id="nested and empty"),
        pytest.param(raw_json("[]", "[1]"), "found 0", id="no data"),
        pytest.param(raw_json("[]", "[]"), "found 0", id="no data for a scalar"),
        pytest.param(raw_json("[1]", "[0]"), "needs 0 elements", id="data for none"),
        pytest.param(raw_json("[1,2]", "[]"), "needs 1 elements", id="two for scalar"),
        pytest.param(raw_json("[1]", "[-1]"), "shape[0]: found the int -1", id="-1"),
        pytest.param(raw_json("[1]", "[1,-7]"), "shape[1]: found the int -7", id="-7"),
        pytest.param(
            raw_json("[1]", "[-1,-1]"), "shape[0]: found the int -1", id="twice -1"
        ),
        pytest.param(raw_json("[1]", "[1.0]"), "shape[0]: found the float", id="1.0"),
        pytest.param(raw_json("[1]", "[true]"), "shape[0]: found the bool", id="true"),
        pytest.param(raw_json("[1]", '["1"]'), "shape[0]: found the str '1'", id='"1"'),
        pytest.param(raw_json("[1]", "[null]"), "shape[0]: found null", id="null size"),
        pytest.param(raw_json("[1]", "[[1]]"), "shape[0]: found an array", id="[[1]]"),
        pytest.param(
            raw_json("[1]", "[18446744073709551615]"),
            "needs 18446744073709551615 elements, found 1",
            id="largest dimension",
        ),
        pytest.param(
            raw_json("[1]", "[18446744073709551616]"),
            "shape[0]: found the float",
            id="beyond 64 bits",
        ),
        pytest.param(
            raw_json("[1]", f"[{','.join(['4294967296'] * 64)}]"),
            "... needs more than 2**64 elements, found 1",
            id="absurd product",
        ),
        pytest.param(
            raw_json("[]", "[0,18446744073709551615]"),
            "too many dimensions, or too large ones",
            id="absurd and empty",
        ),
        pytest.param(
            raw_json("[1]", f"[{','.join(['1'] * 100_000)}]"),
            "... has too many dimensions, or too large ones",
            id="100,000 dimensions",
        ),
        *(
            pytest.param(
                raw_json(datatype=name), "datatype: unknown datatype", id=f"<{name}>"
            )
            for name in ("fp32", "Fp32", "FP8", "STRING", "TYPE_FP32", "", "FP32 ")
        ),
        pytest.param(
            json.dumps({"inputs": [X, {**X, "shape": [1]}]}).encode(),
            "inputs: duplicate name 'x'",
            id="a name twice",
        ),
        pytest.param(
            json.dumps({**ONE, "outputs": [{"name": "x"}, {"name": "x"}]}).encode(),
            "outputs: duplicate name 'x'",
            id="an output twice",
        ),
        pytest.param(
            json.dumps({**ONE, "outputs": [{"name": "X"}]}).encode(),
            "model 'echo' has no output 'X', expected one of x",
            id="unknown output",
        ),
        pytest.param(
            json.dumps({"inputs": []}).encode(), "inputs: found none", id="no inputs"
        ),
        pytest.param(
            json.dumps({"inputs": [{**X, "name": "n" * 99_999, "data": []}]}).encode(),
            "input 'nnn",
            id="a name of 100,000 letters",
        ),
        pytest.param(
            json.dumps({"inputs": [{**X, "datatype": "D" * 100_000}]}).encode(),
            "unknown datatype 'DDD",
            id="a datatype of 100,000 letters",
        ),
    ],
)  # fmt: skip
def test_invalid_request_is_refused(
    client: httpx.Client, body: bytes, text: str
) -> None:
    """A 400 with one sentence that names what is wrong; the connection goes on."""
    assert_error(client.post(ECHO, content=body), 400, text)
    assert_works(client)


ENDS = {
    "BOOL": None,
    **{
        f"{sign}INT{size}": (
            (0, 2**size - 1) if sign else (-(2 ** (size - 1)), 2 ** (size - 1) - 1)
        )
        for sign in ("U", "")
        for size in (8, 16, 32, 64)
    },
    "FP16": (-65504, 65504),
    "BF16": (-3.3895e38, 3.3895e38),
    "FP32": (-3.4028e38, 3.4028e38),
    "FP64": (-1.7976e308, 1.7976e308),
    "BYTES": None,
}
FITS = {"BOOL": ["true"], "BYTES": ['"a"']}


def wrong_elements(datatype: str) -> list[str]:
    """JSON texts of elements that the datatype does not take."""
    wrong = ["null", "{}", '"1"', "true", "1.5", "1.0", "1e3", "1"]
    if datatype == "BOOL":
        wrong = [element for element in wrong if element != "true"]
    elif datatype == "BYTES":
        wrong = [element for element in wrong if element != '"1"']
    elif "INT" in datatype:
        wrong.remove("1")
        low, high = ENDS[datatype]  # type: ignore[misc]
        wrong += [str(low - 1), str(high + 1), "1e30", "-1e30"]
    else:
        wrong = ["null", "{}", '"1"', "true"]
        wrong += {"FP16": ["65520", "-1e5"], "FP64": []}.get(
            datatype, ["3.5e38", "-1e300"]
        )
    return wrong


@pytest.mark.parametrize(
    ("datatype", "element"),
    [(datatype, element) for datatype in ENDS for element in wrong_elements(datatype)],
)
def test_element_outside_the_datatype_is_refused(
    client: httpx.Client, datatype: str, element: str
) -> None:
    """Nothing is wrapped, cut or guessed; the text says which element it is."""
    good = FITS.get(datatype, ["1"])[0]
    body = raw_json(f"[{good},{element}]", "[2]", datatype)
    assert_error(client.post(ECHO, content=body), 400, "input 'x': element 1 is ")


@pytest.mark.parametrize("datatype", [name for name, ends in ENDS.items() if ends])
def test_extreme_values_of_a_datatype_are_accepted(
    client: httpx.Client, datatype: str
) -> None:
    """The smallest and the largest value of a datatype are accepted."""
    low, high = ENDS[datatype]  # type: ignore[misc]
    body = raw_json(f"[{low},{high}]", "[2]", datatype)
    assert 200 == client.post(ECHO, content=body).status_code


# -- connections --------------------------------------------------------------


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """The status line and the body of one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    (length,) = (int(line[15:]) for line in lines if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    assert length == len(body)
    return head.split(b"\r\n")[0], body


def http_request(body: bytes, path: str = ECHO) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (ECHO, b"rubbish", b"400"),
        (ECHO, raw_json("[1,2]"), b"400"),
        ("/v2/models/nobody/infer", b"x" * 300_000, b"404"),
        ("/v2/nothing", b"x" * 300_000, b"404"),
        ("/v2/health/live", b"x" * 300_000, b"405"),
    ],
    ids=["no JSON", "wrong tensor", "unknown model", "unknown path", "wrong method"],
)
def test_a_connection_goes_on_after_an_error(
    host: Server, path: str, body: bytes, status: bytes
) -> None:
    """On one socket: an error, whose body may not have been read, then an answer."""
    address = ("127.0.0.1", host.http_port)
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(2):
            connection.sendall(http_request(body, path))
            line, document = read_answer(connection)
            assert status == line.split()[1]
            assert ["error"] == list(json.loads(document))
            connection.sendall(http_request(WHOLE))
            line, document = read_answer(connection)
            assert b"200" == line.split()[1]
            assert [1.0] == json.loads(document)["outputs"][0]["data"]


def test_a_body_may_come_in_pieces(client: httpx.Client) -> None:
    """A body of unknown length, in chunks of one byte, is a body."""
    body = json.dumps(ONE).encode()
    pieces = (body[i : i + 1] for i in range(len(body)))
    answer = client.post(ECHO, content=pieces)
    assert [1.0] == answer.json()["outputs"][0]["data"]


# -- gRPC messages that are none ----------------------------------------------


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata"])
def test_malformed_message_is_an_invalid_argument(host: Server, method: str) -> None:
    """Malformed bytes are a client error, on every RPC."""
    import grpc

    with grpc.insecure_channel(host.grpc_address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        for body in (b"\xff\xff", b"\x0a\x05ab", b"\x0a\x01\xff"):
            with pytest.raises(grpc.RpcError) as caught:
                call(body, timeout=30, wait_for_ready=True)
            assert "INVALID_ARGUMENT" == caught.value.code().name
            assert (
                f"the message is not a valid {method}Request" == caught.value.details()
            )


def test_unknown_rpc_is_unimplemented(host: Server) -> None:
    """An RPC that the service does not have is UNIMPLEMENTED."""
    import grpc

    with grpc.insecure_channel(host.grpc_address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelTrain")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=30, wait_for_ready=True)
        assert "UNIMPLEMENTED" == caught.value.code().name


@pytest.mark.parametrize("letter", ["n", "ü", "😀"])
def test_a_long_error_is_cut_alike_on_both_protocols(host: Server, letter: str) -> None:
    """A text is no longer than a gRPC trailer can be, whatever is quoted in it."""
    asked = request([1.0], [2])
    asked["inputs"][0]["name"] = letter * 20_000
    rest, grpc = infer_both(host, "echo", asked)
    assert (400, "INVALID_ARGUMENT") == (rest.status, grpc.status)
    assert rest.error == grpc.error
    assert rest.error.startswith(f"input '{letter * 10}")
    assert rest.error.endswith("...")
