"""The same requests by REST and gRPC have the same answers, texts and codes."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from oip_handler import errors
from oip_host.edge.grpc.messages import message
from support.carriers import (
    CONTENTS,
    DTYPES,
    LENGTH,
    Named,
    plain,
    rest_outputs,
    same,
    unplain,
    wire_outputs,
)
from support.process import Server
from support.wire import Reply, rpc

MODELS = [
    "echo=fakes:Echo",
    "raises=fakes:Raises",
    "lists=fakes:Lists",
    "many@1=fakes:Tells",
    "many@10=fakes:Tells",
    "ill=fakes:LoadFalse?",
    "checked=fakes:Echo",
]


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    with Server(
        f"--handlers={','.join(MODELS)}", "--models.checked.check_metadata=true"
    ) as server:
        yield server.wait_until_ready()


@dataclass(frozen=True)
class Case:
    """A request in REST's JSON; with `raw`, its data are these bytes."""

    name: str
    inputs: list[dict[str, Any]]
    status: int = 200
    text: str = ""
    model: str = "echo"
    version: str | None = None
    raw: list[bytes] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def given(data: list[Any], shape: list[int], datatype: str = "FP32") -> Any:
    return {"name": "x", "shape": shape, "datatype": datatype, "data": data}


X = given([1.0], [1])


def good() -> Iterator[Case]:
    """Yield the cases that are answered."""
    rng = np.random.default_rng(5)
    for datatype in CONTENTS:
        for shape in ([], [0], [3], [2, 2], [1, 2, 3]):
            count = int(np.prod(shape))
            if datatype == "BYTES":
                data: list[Any] = ["", "text", "ü", "a\x00b", '"', "\\"][:count]
            elif datatype == "BOOL":
                data = rng.integers(0, 2, count).astype(bool).tolist()
            elif "FP" in datatype:
                data = rng.normal(size=count).astype(DTYPES[datatype]).tolist()
            else:
                info = np.iinfo(DTYPES[datatype])
                ends = [info.min, info.max, 0, 1, info.max - 1, info.min + 1]
                data = [int(end) for end in ends[:count]]
            yield Case(f"{datatype} {shape}", [given(data, shape, datatype)])
    for datatype in DTYPES:
        array = np.arange(6).astype(DTYPES[datatype]).reshape(2, 3)
        if datatype != "BYTES":
            described = given([], [2, 3], datatype)
            yield Case(f"raw {datatype}", [described], raw=[array.tobytes()])
    raw_bytes = b"\x02\0\0\0\xff\x00\0\0\0\0"
    yield Case("raw BYTES", [given([], [2], "BYTES")], raw=[raw_bytes])
    yield Case("raw and empty", [given([], [0])], raw=[b""])
    yield Case("raw scalar", [given([], [], "INT8")], raw=[b"\xff"])
    yield Case(
        "two raw",
        [given([], [1]), {**given([], [2], "UINT8"), "name": "y"}],
        raw=[b"\0\0\x80\x3f", b"\x01\xff"],
    )
    yield Case("id", [X], more={"id": "42"})
    yield Case("id of any text", [X], more={"id": "ü 😀 \x00"})
    for value in (True, False, 1, -1, 2**63 - 1, 0.5, 1e300, "", "text", "ü"):
        parameters = {"p": value, "content_type": "np"}
        inputs = [{**X, "parameters": parameters}]
        outputs = [{"name": "x", "parameters": parameters}]
        yield Case(
            f"parameter {value!r}",
            inputs,
            more={"parameters": parameters, "outputs": outputs},
        )
    abc = [{**given([n], [1]), "name": name} for n, name in enumerate("abc")]
    yield Case("three inputs", abc)
    for names in ("a", "c", "ba", "cab", "abc"):
        outputs = [{"name": name} for name in names]
        yield Case(f"outputs {names}", abc, more={"outputs": outputs})
    yield Case("an empty name", [{**X, "name": ""}])
    yield Case("a strange name", [{**X, "name": "ü \x00 😀"}])
    for version in (None, "1", "10"):
        yield Case(f"version {version}", [X], model="many", version=version)
    yield Case("list handler", [given([1.0, 2.0], [2])], model="lists")
    yield Case("32 dimensions", [given([1.0], [1] * 32)])
    yield Case("as its metadata say", [given([1.0, 2.0], [1, 2])], model="checked")


def bad() -> Iterator[Case]:
    """Yield the cases that are refused, each with its error text."""
    for shape, count in (([], 2), ([1], 0), ([1], 2), ([2, 3], 5), ([0, 3], 1)):
        needed = int(np.prod(shape))
        for datatype in ("FP32", "INT64", "BOOL", "BYTES"):
            element = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)
            yield Case(
                f"{count} {datatype} for {shape}",
                [given([element] * count, shape, datatype)],
                400,
                f"input 'x': shape {shape} needs {needed} elements, found {count}",
            )
    for datatype in ("INT8", "INT16", "UINT8", "UINT16"):
        info = np.iinfo(DTYPES[datatype])
        for value in (int(info.min) - 1, int(info.max) + 1):
            if datatype[0] == "U" and value < 0:
                continue
            yield Case(
                f"{value} for {datatype}",
                [given([0, value], [2], datatype)],
                400,
                f"input 'x': element 1 is the int {value}, "
                f"expected {datatype}: {info.min} to {info.max}",
            )
    for name in ("fp32", "FP8", "", "STRING", "TYPE_FP32", "float", "D" * 9000):
        yield Case(
            f"datatype {name[:9]}",
            [given([1.0], [1], name)],
            400,
            f"inputs[0].datatype: unknown datatype '{name[:100]}",
        )
    for shape in ([-1], [1, -1], [-(2**63)]):
        i = len(shape) - 1
        text = f"shape[{i}]: found the int {shape[i]}, expected an integer of 0 or more"
        yield Case(f"shape {shape}", [given([1.0], shape)], 400, f"inputs[0].{text}")
    absurd = "has too many dimensions, or too large ones"
    yield Case("100 dimensions", [given([1.0], [1] * 100)], 400, absurd)
    yield Case("9000 dimensions", [given([1.0], [1] * 9000)], 400, absurd)
    yield Case("absurd and empty", [given([], [0, 2**62])], 400, absurd)
    yield Case("absurd", [given([1.0], [2**62])], 400, f"needs {2**62} elements")
    yield Case("more absurd", [given([1.0], [2**62] * 9)], 400, "more than 2**64")
    yield Case("no inputs", [], 400, "inputs: found none, expected at least one")
    yield Case("a name twice", [X, X], 400, "inputs: duplicate name 'x'")
    twice = [{"name": "x"}, {"name": "x"}]
    text = "outputs: duplicate name 'x'"
    yield Case("an output twice", [X], 400, text, more={"outputs": twice})
    for name in ("y", "X", "", "ü"):
        yield Case(
            f"output {name}",
            [X],
            400,
            f"model 'echo' has no output '{name}', expected one of x",
            more={"outputs": [{"name": name}]},
        )
    for kind in (1, True, 0.5):
        wrong = {"content_type": kind}
        text = "parameters.content_type: found the "
        yield Case(
            f"content_type {kind} of input",
            [{**X, "parameters": wrong}],
            400,
            f"inputs[0].{text}",
        )
        yield Case(
            f"content_type {kind} of request", [X], 400, text,
            more={"parameters": wrong},
        )  # fmt: skip
        yield Case(
            f"content_type {kind} of output",
            [X],
            400,
            f"outputs[0].{text}",
            more={"outputs": [{"name": "x", "parameters": wrong}]},
        )
    yield Case(
        "wrong twice",
        [{**given([1.0], [2], "fp8"), "parameters": {"content_type": 1}}],
        400,
        "inputs[0].datatype",
    )
    yield Case(
        "wrong parameter and data",
        [{**given([300], [1], "INT8"), "parameters": {"content_type": 1}}],
        400,
        "inputs[0].parameters.content_type",
    )
    yield Case("second is wrong", [X, {**X, "name": "y", "datatype": "x"}], 400, "s[1]")
    yield from bad_raw()
    for model, version, status, text in (
        ("nobody", None, 404, "model 'nobody' is not on this server"),
        ("nobody", "1", 404, "model 'nobody' is not on this server"),
        ("Echo", None, 404, "model 'Echo' is not on this server"),
        ("ü", None, 404, "model 'ü' is not on this server"),
        ("many", "2", 404, "model 'many' has no version '2', only 1, 10"),
        ("echo", "2", 404, "model 'echo' has no version '2', only 1"),
        ("ill", None, 503, "is not ready: model_load returned False"),
        ("ill", "1", 503, "is not ready: model_load returned False"),
    ):
        yield Case(f"{model} {version}", [X], status, text, model, version)
    words = "the handler's own words"
    hidden = "model 'raises' failed; the server's log has the reason"
    for name in ("ValueError", "TypeError", "UnicodeError"):
        yield raising(name, 400, words)
    for name in ("RuntimeError", "ZeroDivisionError", "OSError", "MemoryError"):
        yield raising(name, 500, hidden)
    yield raising("NotImplementedError", 501, words)
    for name in ("InvalidRequest", "ModelNotFound", "ModelNotReady", "HandlerFault"):
        yield raising(name, getattr(errors, name).http_status, words)
    text = (
        "model 'raises' returned an invalid response: "
        "output 'y': shape [3] needs 3 elements"
    )
    yield raising("wrong output", 500, text)
    for name, inputs, text in (
        ("name", [{**given([1.0, 2.0], [1, 2]), "name": "z"}], "inputs: found z"),
        ("datatype", [given([1.0, 2.0], [1, 2], "FP64")], "datatype FP64, expected"),
        ("shape", [given([1.0], [1, 1])], "shape [1, 1], expected [-1, 2]"),
        ("rank", [given([1.0, 2.0], [2])], "shape [2], expected [-1, 2]"),
    ):
        yield Case(f"metadata: {name}", inputs, 400, text, "checked")


def raising(name: str, status: int, text: str) -> Case:
    """Return a case whose handler raises `name`."""
    return Case(name, [given([name], [1], "BYTES")], status, text, "raises")


def bad_raw() -> Iterator[Case]:
    """Yield cases whose raw bytes do not fit."""
    for datatype in DTYPES:
        size = 4 if datatype == "BYTES" else np.dtype(DTYPES[datatype]).itemsize
        if size > 1 and datatype != "BYTES":
            text = f"input 'x': {size + 1} bytes are no whole number of {datatype}"
            octets = b"\0" * (size + 1)
            yield Case(
                f"raw {datatype} and a byte", [given([], [1], datatype)], 400, text,
                raw=[octets],
            )  # fmt: skip
        yield Case(
            f"two raw {datatype} for one",
            [given([], [1], datatype)],
            400,
            "input 'x': shape [1] needs 1 elements, found 2",
            raw=[b"\0" * size * 2],
        )
        yield Case(
            f"no raw {datatype} for one",
            [given([], [1], datatype)],
            400,
            "input 'x': shape [1] needs 1 elements, found 0",
            raw=[b""],
        )
    for octets in (b"\x01", b"\x01\0\0\0", b"\xff\xff\xff\xffabc", b"\0\0\0\0\x01"):
        yield Case(
            f"raw BYTES {octets!r}",
            [given([], [1], "BYTES")],
            400,
            f"reaches beyond the {len(octets)} bytes given",
            raw=[octets],
        )


def send_rest(host: Server, case: Case) -> tuple[Reply, list[Named]]:
    """Send the case over REST; with `raw`, in binary both ways."""
    document: dict[str, Any] = {**case.more, "inputs": case.inputs}
    path = f"/versions/{case.version}" if case.version else ""
    headers: dict[str, str] = {}
    body = b""
    if case.raw is not None:
        document["inputs"] = []
        for entry, octets in zip(case.inputs, case.raw, strict=True):
            parameters = {"binary_data_size": len(octets)}
            bare = {name: entry[name] for name in ("name", "shape", "datatype")}
            document["inputs"].append({**bare, "parameters": parameters})
        document["outputs"] = [
            {"name": entry["name"], "parameters": {"binary_data": True}}
            for entry in case.inputs
        ]
        body = b"".join(case.raw)
    head = json.dumps(document).encode()
    if case.raw is not None:
        headers[LENGTH] = str(len(head))
    answer = host.post(
        f"/v2/models/{case.model}{path}/infer", content=head + body, headers=headers
    )
    if answer.status_code != 200:
        return Reply(answer.status_code, answer.json()), []
    length = answer.headers.get(LENGTH, len(answer.content))
    shown = json.loads(answer.content[: int(length)])
    for output in shown["outputs"]:
        output.pop("data", None)
        if output.get("parameters", {}).pop("binary_data_size", None) is not None:
            output.pop("parameters")
    return Reply(200, shown), rest_outputs(answer)


CHOICES: dict[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}


def set_parameters(target: Any, entry: dict[str, Any]) -> None:
    for name, value in entry.get("parameters", {}).items():
        setattr(target[name], CHOICES[type(value)], value)


def parameters_of(entry: Any) -> dict[str, Any]:
    shown = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in entry.parameters.items()
    }
    return {"parameters": shown} if shown else {}


def send_grpc(host: Server, case: Case) -> tuple[Reply, list[Named]]:
    """Send the case over gRPC; with `raw`, in raw contents."""
    wire = message("ModelInferRequest")(
        model_name=case.model,
        model_version=case.version or "",
        id=case.more.get("id", ""),
        raw_input_contents=case.raw or [],
    )
    set_parameters(wire.parameters, case.more)
    for entry in case.inputs:
        bare = {name: entry[name] for name in ("name", "shape", "datatype")}
        added = wire.inputs.add(**bare)
        set_parameters(added.parameters, entry)
        values = [v.encode() if isinstance(v, str) else v for v in entry["data"]]
        contents = CONTENTS.get(entry["datatype"], "fp32_contents")
        getattr(added.contents, contents).extend(values)
    for entry in case.more.get("outputs", []):
        set_parameters(wire.outputs.add(name=entry["name"]).parameters, entry)
    try:
        answer = rpc(host, "ModelInfer", wire)
    except grpc.RpcError as error:
        return Reply(error.code().name, {"error": error.details()}), []
    shown: dict[str, Any] = {
        "model_name": answer.model_name,
        "model_version": answer.model_version,
    }
    if answer.id:
        shown["id"] = answer.id
    outputs = [
        {
            "name": output.name,
            "shape": list(output.shape),
            "datatype": output.datatype,
            **parameters_of(output),
        }
        for output in answer.outputs
    ]
    shown |= {**parameters_of(answer), "outputs": outputs}
    return Reply("OK", shown), wire_outputs(answer)


@pytest.mark.parametrize("case", list(good()), ids=str)
def test_a_good_request_gets_the_same_answer(host: Server, case: Case) -> None:
    """Names, version, id, parameters, outputs and elements are equal on both."""
    rest, rest_tensors = send_rest(host, case)
    wire, wire_tensors = send_grpc(host, case)
    assert (200, "OK") == (rest.status, wire.status), (rest.document, wire.document)
    assert rest.document == wire.document
    assert len(rest_tensors) == len(wire_tensors)
    assert all(map(same, rest_tensors, wire_tensors))
    assert case.model == rest.document["model_name"]
    assert case.more.get("id") == rest.document.get("id")
    if case.model == "echo" and case.raw is None and "outputs" not in case.more:
        for entry, tensor in zip(case.inputs, rest_tensors, strict=True):
            sent = unplain(entry["data"], entry["shape"], entry["datatype"])
            assert plain(sent) == plain(tensor.array)


def leaves(kind: type[errors.OIPError]) -> Iterator[type[errors.OIPError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from leaves(below)


PAIRS = {(kind.http_status, kind.grpc_status) for kind in leaves(errors.OIPError)}


@pytest.mark.parametrize("case", list(bad()), ids=str)
def test_a_bad_request_gets_the_same_error(host: Server, case: Case) -> None:
    """The text is the same, and the two codes belong to one class of errors."""
    rest, _ = send_rest(host, case)
    wire, _ = send_grpc(host, case)
    assert case.status == rest.status, rest.document
    assert (rest.status, wire.status) in PAIRS
    assert rest.error == wire.error
    assert case.text in rest.error


def test_there_are_enough_of_both() -> None:
    """There are enough cases of both kinds, with unique names.

    A case whose handler raises is named after the exception.
    """
    for cases, least in ((list(good()), 80), (list(bad()), 100)):
        assert len(cases) >= least
        assert len(cases) == len({case.name for case in cases})
    raised = [case.name for case in bad() if case.model == "raises"][:-1]
    assert all(hasattr(builtins, name) or hasattr(errors, name) for name in raised)


def test_the_host_is_ready_after_all_cases(host: Server) -> None:
    """No request harms the host: it is live, and its models answer."""
    assert {"ready": True} == host.get("/v2/health/ready").json()
    assert rpc(host, "ServerReady").ready is True
