"""Tensors on their way into onnxruntime and out of it."""

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

__all__ = ["answer", "fed"]

Array = NDArray[Any]


def fed(tensor: RequestInput, expected: MetadataTensor) -> Array:
    """The array to feed, in the request's own memory where that is aligned.

    BYTES become text. An expected shape of `[]` is not held against the tensor: it may
    stand for any rank. Raises InvalidRequest where the tensor is not as expected.
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
        return _text(tensor)
    # onnxruntime reads the memory as it is; its vectorised loops rely on alignment
    return np.require(tensor.as_numpy(), requirements=["C", "A"])


def _fits(shape: list[int], expected: list[int]) -> bool:
    return len(shape) == len(expected) and all(
        want in (-1, have) for have, want in zip(shape, expected, strict=True)
    )


def _text(tensor: RequestInput) -> Array:
    """The BYTES elements as `str` objects; onnxruntime would feed the repr of bytes."""
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


def answer(name: str, value: Any) -> ResponseOutput:
    """An output from what onnxruntime returned: an array, or ZipMap's list of maps."""
    if isinstance(value, list):
        return _scores(name, value)
    return ResponseOutput.from_numpy(name, value)


def _scores(name: str, rows: list[dict[Any, float]]) -> ResponseOutput:
    """FP32 scores of shape [examples, classes].

    Columns ascend by class label; the parameter `classes` holds the labels as a JSON
    list. Raises HandlerFault where two examples have different classes.
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
