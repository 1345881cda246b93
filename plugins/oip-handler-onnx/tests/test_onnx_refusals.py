"""Requests that do not fit the model, and failed runs: whose fault each one is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import parser

from oip_handler import (
    DataplaneHandler,
    HandlerFault,
    InferenceRequest,
    InvalidRequest,
    OIPError,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from oip_handler_onnx import OnnxHandler

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'
ONE = np.ones(1, np.float32)
SUM = (
    "g (float[N] a, float[N] b, float[1] w = {1}) => (float[N] y) { y = Sum(a, b, w) }"
)


def loaded(tmp_path: Path, graph: str) -> OnnxHandler:
    """Return a handler that has loaded this graph, given in ONNX's own text format."""
    path = tmp_path / "model.onnx"
    path.write_bytes(parser.parse_model(HEADER + graph).SerializeToString())
    handler = OnnxHandler(settings=OnnxHandler.Settings(path=path))
    assert handler.model_load("m")
    return handler


def ask(
    handler: OnnxHandler,
    *arrays: tuple[str, NDArray[Any]],
    outputs: Sequence[str] | None = None,
) -> list[str]:
    """Return the names of the outputs that answer a request with these inputs."""
    tensors = [
        RequestInput.model_validate(dict(ResponseOutput.from_numpy(name, array)))
        for name, array in arrays
    ]
    names = None if outputs is None else [RequestOutput(name=name) for name in outputs]
    request = InferenceRequest(inputs=tensors, outputs=names)
    response = DataplaneHandler(handler).infer(request, "m")
    return [output.name for output in response.outputs]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param("a", "missing 'b': found 'a'", id="missing"),
        pytest.param("abq", "unknown 'q': found 'a', 'b', 'q'", id="unknown"),
        pytest.param("abb", "repeated 'b': found 'a', 'b', 'b'", id="repeated"),
        pytest.param("aaq", "missing 'b', unknown 'q', repeated 'a'", id="all three"),
    ],
)
def test_inputs_are_matched_by_name(tmp_path: Path, names: str, said: str) -> None:
    """Each required input comes once and no unknown one; the error lists all faults."""
    handler = loaded(tmp_path, SUM)
    with pytest.raises(InvalidRequest, match=said) as refusal:
        ask(handler, *((name, ONE) for name in names))
    assert str(refusal.value).endswith("expected 'a', 'b', optional 'w'")


def test_model_without_inputs_expects_none(tmp_path: Path) -> None:
    """Its refusal of an input says that it expects none."""
    handler = loaded(
        tmp_path, "g () => (float[1] y) { y = Constant<value_floats=[1]>() }"
    )
    with pytest.raises(InvalidRequest, match="unknown 'x': found 'x', expected none"):
        ask(handler, ("x", ONE))


@pytest.mark.parametrize("name", ["b", "w"], ids=["required", "optional"])
def test_other_datatypes_are_refused(tmp_path: Path, name: str) -> None:
    """No input is cast silently."""
    handler = loaded(tmp_path, SUM)
    arrays: dict[str, NDArray[Any]] = {"a": ONE, "b": ONE}
    arrays[name] = ONE.astype(np.float64)
    with pytest.raises(
        InvalidRequest, match=f"'{name}' has the datatype FP64, expected FP32"
    ):
        ask(handler, *arrays.items())


@pytest.mark.parametrize(
    "shape", [(2,), (1, 2, 1), (1, 3), ()], ids=["rank 1", "rank 3", "size", "scalar"]
)
def test_rank_and_fixed_dimensions_must_match(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """An input must match each dimension of the model that is not free."""
    handler = loaded(tmp_path, "g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) }")
    with pytest.raises(InvalidRequest) as refusal:
        ask(handler, ("x", np.ones(shape, np.float32)))
    assert str(refusal.value) == (
        f"input 'x' has the shape {list(shape)}, expected [-1, 2]"
    )


def test_bytes_for_a_string_must_be_utf8(tmp_path: Path) -> None:
    """The model gets the client's exact text, or the request is refused."""
    handler = loaded(tmp_path, "g (string[N] x) => (string[N] y) { y = Identity(x) }")
    with pytest.raises(InvalidRequest, match="'x' holds bytes that are not UTF-8"):
        ask(handler, ("x", np.array([b"fine", b"\xff"], object)))


def test_unknown_output_is_refused(tmp_path: Path) -> None:
    """The error names the output, and the available ones."""
    handler = loaded(tmp_path, SUM)
    with pytest.raises(
        InvalidRequest, match="outputs: unknown 'z', expected names among 'y'"
    ):
        ask(handler, ("a", ONE), ("b", ONE), outputs=["y", "z"])


def test_untransportable_output_is_left_out(tmp_path: Path) -> None:
    """It is neither described nor computed; a request for it gets the reason."""
    handler = loaded(
        tmp_path,
        "g (float[N] x) => (seq(float[N]) all, float[N] y)"
        "{ all = SequenceConstruct(x) y = Neg(x) }",
    )
    assert [output.name for output in handler.model_metadata("m").outputs] == ["y"]
    assert ask(handler, ("x", ONE)) == ["y"]
    with pytest.raises(InvalidRequest) as refusal:
        ask(handler, ("x", ONE), outputs=["all"])
    assert str(refusal.value) == (
        "output 'all' is a seq(tensor(float)), which the protocol cannot carry: "
        "expected outputs among 'y'"
    )


def test_value_refused_by_an_operator_is_the_clients_fault(tmp_path: Path) -> None:
    """An index out of range is explained, without onnxruntime's own framing."""
    handler = loaded(
        tmp_path,
        "g (int64[N] i) => (int64[N] y) <int64[2] t = {1, 2}> { y = Gather(t, i) }",
    )
    with pytest.raises(
        InvalidRequest, match=r"^the model rejected the inputs: indices element out of"
    ):
        ask(handler, ("i", np.array([9])))


def test_other_graph_failures_are_not_the_clients_fault(
    tmp_path: Path,
) -> None:
    """An exception that onnxruntime calls a failure reaches the host unchanged."""
    handler = loaded(
        tmp_path,
        "g (float[N] a, float[M] b) => (float[K] y) { y = Add(a, b) }",
    )
    with pytest.raises(Exception, match="broadcast") as failure:
        ask(handler, ("a", np.ones(2, np.float32)), ("b", np.ones(3, np.float32)))
    assert not isinstance(failure.value, (OIPError, ValueError, TypeError))


def model_of_bad_text(tmp_path: Path) -> OnnxHandler:
    """Return a model whose output `bad` is a byte that is not UTF-8."""
    handler = loaded(
        tmp_path,
        "g (float[N] x) => (string[1] bad, float[N] y)"
        '{ bad = Constant<value_strings = ["~"]>() y = Neg(x) }',
    )
    path = handler.settings.path
    path.write_bytes(path.read_bytes().replace(b"~", b"\xff"))
    assert handler.model_load("m")
    return handler


def test_models_invalid_utf8_is_a_handler_fault(tmp_path: Path) -> None:
    """Python's ValueError for it must not blame the client."""
    with pytest.raises(HandlerFault, match="not UTF-8"):
        ask(model_of_bad_text(tmp_path), ("x", ONE))


def test_unrequested_outputs_are_not_fetched(tmp_path: Path) -> None:
    """An unreadable output does not disturb a request for another one."""
    assert ask(model_of_bad_text(tmp_path), ("x", ONE), outputs=["y"]) == ["y"]
