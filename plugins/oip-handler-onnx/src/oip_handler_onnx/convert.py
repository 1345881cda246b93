"""Conversion of tensors into what onnxruntime takes, and of what it returns."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oip_handler import (
    Datatype,
    HandlerFault,
    InvalidRequest,
    MetadataTensor,
    Parameters,
    RequestInput,
    ResponseOutput,
)

__all__ = ["to_array", "to_output"]

Array = NDArray[Any]


def to_array(tensor: RequestInput, expected: MetadataTensor) -> Array:
    """Return the array to feed, in the request's own memory if that is aligned.

    BYTES become text. An expected shape of `[]` is not checked: it may stand for any
    rank. Raises InvalidRequest if the tensor is not as expected.
    """
    if tensor.datatype != expected.datatype:
        raise InvalidRequest(
            f"input '{tensor.name}' has the datatype {tensor.datatype.value}, "
            f"expected {expected.datatype.value}"
        )
    if expected.shape and not _fits(tensor.shape, expected.shape):
        raise InvalidRequest(
            f"input '{tensor.name}' has the shape {tensor.shape}, "
            f"expected {expected.shape}"
        )
    if tensor.datatype == Datatype.BYTES:
        return _decode(tensor)
    # onnxruntime reads the memory as it is; its vectorised loops rely on alignment
    return np.require(tensor.as_numpy(), requirements=["C", "A"])


def _fits(shape: list[int], expected: list[int]) -> bool:
    return len(shape) == len(expected) and all(
        want in (-1, have) for have, want in zip(shape, expected, strict=True)
    )


def _decode(tensor: RequestInput) -> Array:
    """Decode BYTES to `str` objects; onnxruntime would feed the repr of bytes."""
    array = tensor.as_numpy()
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [value.decode() for value in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"input '{tensor.name}' holds bytes that are not UTF-8, "
            f"expected text: {error}"
        ) from error
    return text.reshape(array.shape)


def to_output(name: str, value: Any) -> ResponseOutput:
    """Make an output from what onnxruntime returned: an array or ZipMap's maps."""
    if isinstance(value, list):
        return _make_scores(name, value)
    return ResponseOutput.from_numpy(name, value)


def _make_scores(name: str, rows: list[dict[Any, float]]) -> ResponseOutput:
    """Return FP32 scores of shape [examples, classes].

    Columns ascend by class label; the parameter `classes` holds the labels as a JSON
    list. Raises HandlerFault if two examples have different classes.
    """
    classes = sorted(rows[0]) if rows else []
    if any(sorted(row) != classes for row in rows):
        raise HandlerFault(f"output '{name}' has other classes in some examples")
    scores = np.array([[row[label] for label in classes] for row in rows], np.float32)
    labels = json.dumps(classes, ensure_ascii=False)
    return ResponseOutput.from_numpy(
        name,
        scores.reshape(len(rows), len(classes)),
        Parameters.model_validate({"classes": labels}),
    )
