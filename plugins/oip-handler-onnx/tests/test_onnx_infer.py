"""Requests to a loaded model: inputs, outputs, and what is computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import parser

from oip_handler import (
    DataplaneHandler,
    Datatype,
    HandlerFault,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from oip_handler_onnx import OnnxHandler
from oip_handler_onnx.convert import to_array, to_output

HEADER = '<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
SUM_AND_PRODUCT = """g (float[N] a, float[N] b) => (float[N] total, float[N] product) {
    total = Add(a, b)
    product = Mul(a, b)
}"""


def loaded(tmp_path: Path, graph: str) -> OnnxHandler:
    """Return a handler that has loaded this graph, given in ONNX's own text format."""
    path = tmp_path / "model.onnx"
    path.write_bytes(parser.parse_model(HEADER + graph).SerializeToString())
    handler = OnnxHandler(settings=OnnxHandler.Settings(path=path))
    assert handler.model_load("m")
    return handler


def identity(tmp_path: Path, kind: str) -> OnnxHandler:
    """Return a model that gives its input `x` of this type back as `y`."""
    return loaded(tmp_path, f"g ({kind} x) => ({kind} y) {{ y = Identity(x) }}")


def tensor(name: str, array: NDArray[Any]) -> RequestInput:
    """Return an input as the host passes it on."""
    return RequestInput.model_validate(dict(ResponseOutput.from_numpy(name, array)))


def ask(
    handler: OnnxHandler, outputs: Sequence[str] | None = None, **arrays: NDArray[Any]
) -> InferenceResponse:
    """Return the answer to a request with these inputs, checked like the host's."""
    names = None if outputs is None else [RequestOutput(name=name) for name in outputs]
    tensors = [tensor(name, array) for name, array in arrays.items()]
    request = InferenceRequest(inputs=tensors, outputs=names)
    return DataplaneHandler(handler).infer(request, "m", "3")


def zipmap(tmp_path: Path, key: str, labels: str) -> OnnxHandler:
    """Return a model that gives its scores `p` back as maps by class label."""
    return loaded(
        tmp_path,
        f"g (float[N, 2] p) => (seq(map({key}, float)) maps) "
        f"{{ maps = ai.onnx.ml.ZipMap <{labels}> (p) }}",
    )


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_affine_model_answers_batches_of_any_size(tmp_path: Path, rows: int) -> None:
    """A free first dimension of the model is free in the request."""
    handler = loaded(
        tmp_path,
        "g (float[N, 2] x) => (float[N, 1] y)"
        "<float[2, 1] w = {2, 3}, float[1] c = {5}> { y = Gemm(x, w, c) }",
    )
    x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    response = ask(handler, x=x)
    assert (response.model_name, response.model_version) == ("m", "3")
    assert [output.name for output in response.outputs] == ["y"]
    y = response.outputs[0].as_numpy()
    assert y.shape == (rows, 1)
    np.testing.assert_array_equal(y, x @ [[2], [3]] + 5)


@pytest.mark.parametrize(
    "datatype",
    [each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES)],
)
def test_every_numeric_datatype_passes_unchanged(
    tmp_path: Path, datatype: Datatype
) -> None:
    """A tensor reaches the model and comes back in its own datatype, bit by bit."""
    dtype = np.dtype(datatype.value.lower().replace("fp", "float"))
    kind = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    handler = identity(tmp_path, f"{kind}[N, 2]")
    x = np.array([[0, 1], [1, 0], [100, 7]]).astype(dtype)
    output = ask(handler, x=x).outputs[0]
    assert output.datatype == datatype
    assert handler.model_metadata("m").inputs[0].datatype == datatype
    np.testing.assert_array_equal(output.as_numpy(), x)


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        pytest.param("float", np.array(2.5, np.float32), id="number"),
        pytest.param("string", np.array("é", object), id="text"),
    ],
)
def test_scalar_stays_a_scalar(tmp_path: Path, kind: str, array: NDArray[Any]) -> None:
    """A tensor of shape [] is answered with the shape []."""
    output = ask(identity(tmp_path, kind), x=array).outputs[0]
    assert output.shape == []
    assert output.as_numpy() == ResponseOutput.from_numpy("x", array).as_numpy()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_input_of_unknown_rank_accepts_any_shape(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """If the model does not fix the rank, the handler does not either."""
    x = np.ones(shape, np.float32)
    assert list(shape) == ask(identity(tmp_path, "float[]"), x=x).outputs[0].shape


@pytest.mark.parametrize(
    "texts",
    [["é", "", "a\0b", "long" * 100], [b"\xc3\xa9", b"plain"], []],
    ids=["text", "bytes", "empty"],
)
def test_strings_are_utf8_in_and_out(tmp_path: Path, texts: list[Any]) -> None:
    """BYTES become text for the model and UTF-8 bytes in the answer."""
    output = ask(identity(tmp_path, "string[N]"), x=np.array(texts, object)).outputs[0]
    assert output.datatype == Datatype.BYTES
    expected = [text.encode() if isinstance(text, str) else text for text in texts]
    assert output.as_numpy().tolist() == expected


def test_outputs_are_in_the_requested_order(tmp_path: Path) -> None:
    """The answer has each requested output once, in the order of the request."""
    a = np.array([2, 3], np.float32)
    handler = loaded(tmp_path, SUM_AND_PRODUCT)
    both = ask(handler, ["product", "total", "product"], a=a, b=a * 2).outputs
    assert [output.name for output in both] == ["product", "total"]
    assert [output.as_numpy().tolist() for output in both] == [[8, 18], [6, 9]]


@pytest.mark.parametrize("outputs", [None, []], ids=["unset", "empty"])
def test_all_outputs_come_by_default(tmp_path: Path, outputs: list[str] | None) -> None:
    """A request without outputs gets all of them, in the model's order."""
    a = np.ones(2, np.float32)
    response = ask(loaded(tmp_path, SUM_AND_PRODUCT), outputs, a=a, b=a)
    assert [output.name for output in response.outputs] == ["total", "product"]


def test_input_with_a_default_is_optional(tmp_path: Path) -> None:
    """An overridable initializer has its value unless the request overrides it."""
    handler = loaded(
        tmp_path,
        "g (float[N] x, float[1] b = {5}) => (float[N] y) { y = Add(x, b) }",
    )
    assert [tensor.name for tensor in handler.model_metadata("m").inputs] == ["x"]
    x = np.array([1, 2], np.float32)
    assert ask(handler, x=x).outputs[0].as_numpy().tolist() == [6, 7]
    b = np.array([10], np.float32)
    assert ask(handler, x=x, b=b).outputs[0].as_numpy().tolist() == [11, 12]


@pytest.mark.parametrize(
    ("key", "labels", "classes"),
    [
        pytest.param("int64", "classlabels_int64s = [7, 3]", [3, 7], id="integers"),
        pytest.param(
            "string", 'classlabels_strings = ["é", "a"]', ["a", "é"], id="text"
        ),
    ],
)
def test_maps_of_scores_become_one_table(
    tmp_path: Path, key: str, labels: str, classes: list[Any]
) -> None:
    """ZipMap's maps become FP32 [examples, classes], columns ascending by label."""
    handler = zipmap(tmp_path, key, labels)
    described = MetadataTensor(name="maps", datatype=Datatype.FP32, shape=[-1, -1])
    assert handler.model_metadata("m").outputs == [described]
    scores = np.array([[0.25, 0.75], [0.5, 0.125], [1, 0]], np.float32)
    output = ask(handler, p=scores).outputs[0]
    assert output.datatype == Datatype.FP32
    np.testing.assert_array_equal(output.as_numpy(), scores[:, ::-1])
    assert output.parameters is not None
    assert json.loads(output.parameters.model_dump()["classes"]) == classes


def test_no_maps_become_an_empty_table(tmp_path: Path) -> None:
    """No examples give no scores, and no error."""
    handler = zipmap(tmp_path, "int64", "classlabels_int64s = [3, 7]")
    output = ask(handler, p=np.empty((0, 2), np.float32)).outputs[0]
    assert (output.shape, output.datatype) == ([0, 0], Datatype.FP32)


def test_order_within_a_map_does_not_matter() -> None:
    """A score is in its label's column, whatever the order of the maps."""
    output = to_output("maps", [{"b": 0.25, "a": 0.75}, {"a": 1.0, "b": 0.0}])
    assert output.as_numpy().tolist() == [[0.75, 0.25], [1, 0]]


def test_maps_with_different_classes_are_a_handler_fault() -> None:
    """Maps that do not form a table are refused."""
    with pytest.raises(HandlerFault, match="'maps' has other classes"):
        to_output("maps", [{1: 0.5, 2: 0.5}, {1: 1.0}])


def test_converted_scikit_learn_classifier_is_served(tmp_path: Path) -> None:
    """Labels and probabilities are those of scikit-learn's own classifier."""
    skl2onnx = pytest.importorskip("skl2onnx")
    linear = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    labels = np.where(x[:, 0] > 0, "up", "down")
    model = linear.LogisticRegression().fit(x, labels)
    path = tmp_path / "classifier.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, x[:1]).SerializeToString())
    handler = OnnxHandler(settings=OnnxHandler.Settings(path=path))
    assert handler.model_load("m")
    label, scores = ask(handler, X=x).outputs
    assert [text.decode() for text in label.as_numpy()] == model.predict(x).tolist()
    np.testing.assert_allclose(scores.as_numpy(), model.predict_proba(x), atol=1e-5)


def test_aligned_tensor_is_not_copied() -> None:
    """onnxruntime reads the request's own memory, even if it is read-only."""
    x = np.ones(4, np.float32)
    x.flags.writeable = False
    expected = MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1])
    assert np.shares_memory(to_array(tensor("x", x), expected), x)


def test_read_only_tensor_is_answered(tmp_path: Path) -> None:
    """The request's memory is read, and left unchanged."""
    handler = loaded(tmp_path, "g (float[N] x) => (float[N] y) { y = Neg(x) }")
    x = np.frombuffer(np.array([1, 2], np.float32).tobytes(), np.float32)
    assert ask(handler, x=x).outputs[0].as_numpy().tolist() == [-1, -2]
    assert x.tolist() == [1, 2]


def test_unaligned_tensor_is_aligned() -> None:
    """The model gets an aligned copy of the same values."""
    x = np.frombuffer(b"\0" + np.arange(4, dtype=np.float32).tobytes(), "<f4", offset=1)
    expected = MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1])
    array = to_array(tensor("x", x), expected)
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2, 3]


def test_requests_may_run_concurrently(tmp_path: Path) -> None:
    """`max_concurrency` may be raised: each caller gets the answer to its request."""
    handler = loaded(tmp_path, SUM_AND_PRODUCT)

    def total(number: int) -> float:
        a = np.full(1000, number, np.float32)
        return float(ask(handler, ["total"], a=a, b=a).outputs[0].as_numpy().max())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(total, range(40))) == [2 * n for n in range(40)]
