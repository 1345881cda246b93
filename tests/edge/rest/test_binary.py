"""The binary tensor data extension, and compressed bodies in both directions."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from support.carriers import (
    LENGTH,
    Named,
    binary_input,
    json_input,
    octets,
    raw,
    rest_outputs,
    same,
)
from support.process import Server
from support.wire import ONE

MAX_BODY = 1 << 20
ECHO = "/v2/models/echo/infer"
A = Named("a", "FP32", np.array([[1.5, -2.0]], "<f4"))
B = Named("b", "INT64", np.array([2**62, -1, 3], "<i8"))
C = Named("c", "BYTES", octets(b"\xff\x00", b"", b"text"))
LARGE = Named("large", "FP32", np.zeros(5000, "<f4"))


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    models = [
        "echo=fakes:Echo",
        *(f"{name}=fakes:{name.title()}" for name in ("free", "two", "words")),
    ]
    with Server(
        f"--handlers={','.join(models)}", f"--max_body_bytes={MAX_BODY}"
    ) as server:
        yield server.wait_until_ready()


def send(
    host: Server,
    inputs: list[dict[str, Any]],
    rest: bytes = b"",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Any:
    """Send a request whose binary data are `rest`."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    given = {LENGTH: str(len(head)), **(headers or {})}
    return host.post(ECHO, content=head + rest, headers=given)


def refused(answer: Any, status: int = 400) -> str:
    """Return the text of a refusal, whose body has nothing else."""
    assert status == answer.status_code, answer.text
    document = answer.json()
    assert ["error"] == list(document)
    assert document["error"]
    assert LENGTH not in answer.headers
    return str(document["error"])


def binary_names(answer: Any) -> list[str]:
    """Return the names of the outputs that an answer gives in binary."""
    assert 200 == answer.status_code, answer.text
    length = answer.headers.get(LENGTH)
    head = answer.content if length is None else answer.content[: int(length)]
    outputs = json.loads(head)["outputs"]
    assert all(
        ("data" in output) != ("binary_data_size" in output.get("parameters", {}))
        for output in outputs
    )
    return [output["name"] for output in outputs if "data" not in output]


# -- requests -----------------------------------------------------------------

FORMS = {"json": json_input, "binary": binary_input}


@pytest.mark.parametrize(
    "forms",
    [
        ("binary", "binary", "binary"),
        ("json", "binary", "binary"),
        ("binary", "json", "binary"),
        ("json", "json", "binary"),
    ],
    ids="-".join,
)
def test_each_input_may_be_binary(host: Server, forms: tuple[str, ...]) -> None:
    """Binary data follow the JSON in the order of the inputs that have them."""
    tensors = [A, B, C]
    pairs = list(zip(tensors, forms, strict=True))
    rest = b"".join(raw(tensor.array) for tensor, form in pairs if form == "binary")
    wanted: dict[str, Any] = {"parameters": {"binary_data_output": True}}
    answer = send(host, [FORMS[form](t) for t, form in pairs], rest, **wanted)
    assert all(map(same, tensors, rest_outputs(answer)))


def test_a_header_without_binary_data_is_the_whole_body(host: Server) -> None:
    """The header may be given for a request that is JSON alone."""
    answer = send(host, [json_input(A)])
    assert same(A, rest_outputs(answer)[0])
    assert LENGTH not in answer.headers


def test_an_empty_tensor_has_no_binary_data(host: Server) -> None:
    """A size of 0 is valid, and takes nothing from the tensor behind it."""
    empty = Named("e", "FP32", np.zeros((0, 2), "<f4"))
    answer = send(host, [binary_input(empty), binary_input(A)], raw(A.array))
    assert all(map(same, [empty, A], rest_outputs(answer)))


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", ""])
def test_a_binary_request_is_known_by_its_header(host: Server, kind: str) -> None:
    """Whatever the Content-Type, the length tells where the tensors begin."""
    answer = send(host, [binary_input(A)], raw(A.array), {"content-type": kind})
    assert same(A, rest_outputs(answer)[0])


# -- answers ------------------------------------------------------------------


def output(name: str, binary: bool | None = None) -> dict[str, Any]:
    parameters = {} if binary is None else {"parameters": {"binary_data": binary}}
    return {"name": name, **parameters}


@pytest.mark.parametrize(
    ("everything", "outputs", "expected"),
    [
        pytest.param(None, None, [], id="none asked"),
        pytest.param(True, None, ["a", "b"], id="all"),
        pytest.param(False, None, [], id="all false"),
        pytest.param(None, [output("a", True)], ["a"], id="one alone"),
        pytest.param(None, [output("a", True), output("b")], ["a"], id="one of two"),
        pytest.param(None, [output("b"), output("a", True)], ["a"], id="the second"),
        pytest.param(True, [output("a", False), output("b")], ["b"], id="all but one"),
        pytest.param(False, [output("b", True), output("a")], ["b"], id="overruled"),
        pytest.param(None, [output("a", False)], [], id="one false"),
    ],
)
def test_outputs_are_binary_where_the_request_says_so(
    host: Server, everything: bool | None, outputs: Any, expected: list[str]
) -> None:
    """binary_data decides for its output, binary_data_output for all others."""
    more: dict[str, Any] = {} if outputs is None else {"outputs": outputs}
    if everything is not None:
        more["parameters"] = {"binary_data_output": everything}
    answer = send(host, [json_input(A), json_input(B)], **more)
    assert expected == binary_names(answer)
    order = ["a", "b"] if outputs is None else [entry["name"] for entry in outputs]
    by_name = {"a": A, "b": B}
    assert all(map(same, [by_name[name] for name in order], rest_outputs(answer)))
    kind = "application/octet-stream" if expected else "application/json"
    assert kind == answer.headers["content-type"]
    assert bool(expected) == (LENGTH in answer.headers)
    assert len(answer.content) == int(answer.headers["content-length"])


def test_a_binary_size_is_an_inputs_and_not_its_outputs(host: Server) -> None:
    """An output in JSON has no binary_data_size, also where its input had one."""
    answer = send(host, [binary_input(A)], raw(A.array))
    assert "parameters" not in answer.json()["outputs"][0]
    assert same(A, rest_outputs(answer)[0])


@pytest.mark.parametrize("value", ["true", 1, 0.0, [], {}])
def test_binary_data_parameters_are_booleans(host: Server, value: Any) -> None:
    """Another kind of value is refused with its place, for one output and for all."""
    one = send(
        host,
        [json_input(A)],
        outputs=[{"name": "a", "parameters": {"binary_data": value}}],
    )
    everything = send(host, [json_input(A)], parameters={"binary_data_output": value})
    assert "outputs[0].parameters.binary_data: found" in refused(one)
    assert "parameters.binary_data_output: found" in refused(everything)


# -- raw binary requests ------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        pytest.param(
            "echo",
            np.arange(4, dtype="<f4").tobytes(),
            Named("x", "FP32", np.arange(4, dtype="<f4").reshape(2, 2)),
            id="one free dimension",
        ),
        pytest.param(
            "echo", b"", Named("x", "FP32", np.zeros((0, 2), "<f4")), id="empty"
        ),
        pytest.param(
            "words", b"\xffany\x00", Named("x", "BYTES", octets(b"\xffany\x00")),
            id="bytes",
        ),
        pytest.param("words", b"", Named("x", "BYTES", octets(b"")), id="no bytes"),
    ],
)  # fmt: skip
def test_body_may_be_a_bare_tensor(
    host: Server, model: str, body: bytes, expected: Named
) -> None:
    """With a header length of 0 the metadata give the rest, and outputs are binary."""
    answer = host.post(f"/v2/models/{model}/infer", content=body, headers={LENGTH: "0"})
    assert ["x"] == binary_names(answer)
    assert same(expected, rest_outputs(answer)[0])


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        ("two", b"1234", "with one input, but 'two' has 2"),
        ("free", b"1234", "with one dimension of any size at most"),
        ("echo", b"123", "3 bytes are no whole number of FP32 elements"),
        ("echo", b"1234", "shape [0, 2] needs 0 elements, found 1"),
    ],
    ids=["two inputs", "two free dimensions", "half an element", "half a row"],
)
def test_a_raw_body_that_does_not_fit_is_refused(
    host: Server, model: str, body: bytes, text: str
) -> None:
    """A raw body that the metadata leave unclear or contradict is a 400."""
    answer = host.post(f"/v2/models/{model}/infer", content=body, headers={LENGTH: "0"})
    assert text in refused(answer)


# -- lies ---------------------------------------------------------------------


def lying(size: Any) -> dict[str, Any]:
    return {**binary_input(A), "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("inputs", "rest", "headers", "text"),
    [
        pytest.param([lying(7)], b"1234567", {}, "7 bytes are no whole", id="partial"),
        pytest.param([lying(4)], b"1234", {}, "needs 2 elements, found 1", id="few"),
        pytest.param([lying(12)], b"1" * 12, {}, "elements, found 3", id="many"),
        pytest.param([lying(0)], b"", {}, "needs 2 elements, found 0", id="nothing"),
        pytest.param([lying(8)], b"1234567", {}, "only 7 bytes are left", id="cut"),
        pytest.param([lying(8)], b"1" * 9, {}, "1 bytes after its last", id="excess"),
        pytest.param([json_input(A)], b"1", {}, "1 bytes after", id="none binary"),
        pytest.param([lying(2**63)], b"", {}, "only 0 bytes are left", id="huge"),
        pytest.param([lying(2**70)], b"", {}, "expected a size", id="absurd"),
        pytest.param([lying(8.0)], b"1" * 8, {}, "the float 8.0", id="float"),
        pytest.param([lying(True)], b"1", {}, "the bool True", id="bool"),
        pytest.param([lying([8])], b"1" * 8, {}, "an array", id="array"),
        pytest.param(
            [binary_input(A), lying(8)], b"1" * 8, {}, "inputs[1]", id="second is cut"
        ),
        pytest.param(
            [binary_input(A)], b"1" * 8, {LENGTH: "1"}, "not valid JSON", id="short"
        ),
        pytest.param(
            [binary_input(A)], b"1" * 8, {LENGTH: "200"}, "expected 0 to", id="long"
        ),
        pytest.param(
            [binary_input(A)], b"1" * 8, {LENGTH: "-1"}, "found '-1'", id="negative"
        ),
        pytest.param(
            [binary_input(A)], b"1" * 8, {LENGTH: "1.0"}, "found '1.0'", id="decimal"
        ),
        pytest.param(
            [binary_input(A)], b"1" * 8, {LENGTH: ""}, "found ''", id="no length"
        ),
        pytest.param(
            [binary_input(A)], b"1" * 8, {LENGTH: "9" * 99}, "found '99", id="digits"
        ),
        pytest.param(
            [binary_input(C)],
            b"\x05\0\0\0abc" + b"\0" * (len(raw(C.array)) - 7),
            {},
            "BYTES",
            id="bytes that do not add up",
        ),
        pytest.param(
            [{**binary_input(C), "parameters": {"binary_data_size": 3}}],
            b"\x00\0\0",
            {},
            "BYTES element 0 reaches beyond the 3 bytes given",
            id="half a length",
        ),
    ],
)  # fmt: skip
def test_wrong_binary_sizes_are_refused(
    host: Server,
    inputs: list[dict[str, Any]],
    rest: bytes,
    headers: dict[str, str],
    text: str,
) -> None:
    """A wrong size is a client error, whose text names the input."""
    assert text in refused(send(host, inputs, rest, headers))


def test_binary_data_need_the_header(host: Server) -> None:
    """Without the header the whole body is JSON, so no tensor can follow it."""
    body = json.dumps({"inputs": [binary_input(A)]}).encode()
    assert "only 0 bytes are left" in refused(host.post(ECHO, content=body))
    with_data = host.post(ECHO, content=body + raw(A.array))
    assert "not valid JSON" in refused(with_data)


# -- compressed bodies --------------------------------------------------------

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


def body_of(tensor: Named) -> tuple[bytes, int]:
    """Return a binary request for a binary answer, and the length of its JSON."""
    document = {
        "inputs": [binary_input(tensor)],
        "outputs": [output(tensor.name, True)],
    }
    head = json.dumps(document).encode()
    return head + raw(tensor.array), len(head)


@pytest.mark.parametrize("name", ["gzip", "deflate", "GZIP", "Deflate"])
def test_a_request_may_be_compressed(host: Server, name: str) -> None:
    """The header's length is that of the JSON before compression."""
    body, head = body_of(LARGE)
    encoded = ENCODERS[name.lower()](body)
    headers = {"content-encoding": name, LENGTH: str(head)}
    answer = host.post(ECHO, content=encoded, headers=headers)
    assert same(LARGE, rest_outputs(answer)[0])
    plain = json.dumps({"inputs": [json_input(A)]}).encode()
    encoded = ENCODERS[name.lower()](plain)
    answer = host.post(ECHO, content=encoded, headers={"content-encoding": name})
    assert same(A, rest_outputs(answer)[0])


@pytest.mark.parametrize("name", ["identity", ""])
def test_a_request_may_say_that_it_is_not_compressed(host: Server, name: str) -> None:
    """`identity` is the encoding of a body as it is."""
    answer = send(host, [json_input(A)], headers={"content-encoding": name})
    assert same(A, rest_outputs(answer)[0])


@pytest.mark.parametrize("name", ENCODERS)
def test_bomb_is_refused(host: Server, name: str) -> None:
    """The body limit holds for the expanded body, and one byte more is too large."""
    over = b" " * (MAX_BODY + 1)
    text = f"the body expands to more than {MAX_BODY} bytes, which is max_body_bytes"
    for size in (1, 50):
        encoded = ENCODERS[name](over * size)
        answer = host.post(ECHO, content=encoded, headers={"content-encoding": name})
        assert text == refused(answer, 413)
    just = json.dumps({"inputs": [json_input(A)]}).encode().ljust(MAX_BODY)
    answer = host.post(
        ECHO, content=ENCODERS[name](just), headers={"content-encoding": name}
    )
    assert same(A, rest_outputs(answer)[0])


def damaged(name: str) -> dict[str, bytes]:
    good = ENCODERS[name](body_of(LARGE)[0])
    flipped = bytearray(good)
    flipped[-1] ^= 0xFF
    return {
        "empty": b"",
        "plain": b'{"inputs": []}',
        "cut": good[:-1],
        "half": good[: len(good) // 2],
        "head alone": good[:2],
        "checksum": bytes(flipped),
        "trailing": good + b"more",
    }


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("damage", damaged("gzip"))
def test_a_damaged_stream_is_refused(host: Server, name: str, damage: str) -> None:
    """An incomplete stream is no request, whatever its beginning contains."""
    body = damaged(name)[damage]
    answer = host.post(ECHO, content=body, headers={"content-encoding": name})
    assert f"the body is not valid {name}: " in refused(answer)


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, deflate", "compress", "*", "x"])
def test_an_unknown_encoding_is_refused_by_name(host: Server, name: str) -> None:
    """A 415 names the encoding that was found and those that the host reads."""
    answer = host.post(ECHO, content=b"{}", headers={"content-encoding": name})
    text = f"Content-Encoding: found {name!r}, expected gzip or deflate"
    assert text == refused(answer, 415)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, gzip;q=0.5", "gzip"),
        ("GZIP", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip ; q=0.000 , deflate;q=0.001", "deflate"),
        ("gzip;q=0", None),
        ("gzip; q=0.00", None),
        ("identity", None),
        ("br", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_an_answer_is_compressed_on_request(
    host: Server, asked: str, expected: str | None, binary: bool
) -> None:
    """An encoding of weight 0 is not used; the length of the JSON is that before."""
    answer = send(
        host,
        [binary_input(LARGE)],
        raw(LARGE.array),
        {"accept-encoding": asked},
        outputs=[output("large", binary)],
    )
    assert expected == answer.headers.get("content-encoding")
    assert binary == (LENGTH in answer.headers)
    plain = len(raw(LARGE.array))
    assert (expected is not None) == (int(answer.headers["content-length"]) < plain)
    assert same(LARGE, rest_outputs(answer)[0])  # httpx decompresses


def test_a_small_answer_is_not_compressed(host: Server) -> None:
    """Compressing a few bytes costs more than it saves."""
    answer = send(host, [json_input(A)], headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers


def test_a_gzip_of_several_members_is_one_body(host: Server) -> None:
    """RFC 1952: the members of a gzip file are read one after the other."""
    plain = json.dumps(ONE).encode()
    parts = gzip.compress(plain[:10]) + gzip.compress(plain[10:])
    answer = host.post(
        "/v2/models/echo/infer", content=parts, headers={"content-encoding": "gzip"}
    )
    assert 200 == answer.status_code


def test_null_data_beside_a_size_are_no_data(host: Server) -> None:
    """A field that is null counts as absent, for binary tensors too."""
    raw = np.array([1.5, 2.5], np.float32).tobytes()
    tensor = {
        "name": "x", "shape": [1, 2], "datatype": "FP32", "data": None,
        "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    head = json.dumps(
        {"inputs": [tensor], "parameters": {"binary_data_output": False}}
    ).encode()
    answer = host.post(
        ECHO,
        content=head + raw,
        headers={"inference-header-content-length": str(len(head))},
    )
    assert [1.5, 2.5] == answer.json()["outputs"][0]["data"]
    assert "parameters" not in answer.json()
