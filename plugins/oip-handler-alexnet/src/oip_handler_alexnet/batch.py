"""The images of a request as one batch, and what is wrong with the request."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oip_handler import Datatype, InferenceRequest, InvalidRequest, RequestInput
from oip_handler_alexnet.images import SIZE, prepared

__all__ = ["read"]


def read(
    payload: InferenceRequest, name: str, max_images: int, max_pixels: int
) -> NDArray[np.float32]:
    """The images of the input of this name as FP32 [n, 3, 224, 224], normalised.

    One image is decoded after the other, so that only one is in memory in full size.
    Raises InvalidRequest, naming the image by its row, for the first that is none.
    """
    elements = _elements(payload, name)
    if len(elements) > max_images:
        raise InvalidRequest(
            f"input '{name}' has {len(elements)} images, expected up to {max_images} "
            "(max_images)"
        )
    batch = np.empty((len(elements), 3, SIZE, SIZE), np.float32)
    for row, element in enumerate(elements):
        try:
            batch[row] = prepared(_file(element), max_pixels)
        except ValueError as error:
            raise InvalidRequest(f"image {row}: {error}") from error
    return batch


def _elements(payload: InferenceRequest, name: str) -> list[Any]:
    """The elements of the one input: `bytes`, or `str` where they came as JSON."""
    names = [tensor.name for tensor in payload.inputs]
    if names != [name]:
        found = ", ".join(f"'{each}'" for each in names) or "none"
        raise InvalidRequest(f"inputs: found {found}, expected '{name}'")
    tensor = payload.inputs[0]
    if tensor.datatype != Datatype.BYTES or not _is_column(tensor):
        raise InvalidRequest(
            f"input '{name}' is {tensor.datatype.value} of the shape {tensor.shape}, "
            "expected BYTES of the shape [-1] or [-1, 1]"
        )
    elements: list[Any] = tensor.data.elements(tensor.datatype).ravel().tolist()
    return elements


def _is_column(tensor: RequestInput) -> bool:
    return len(tensor.shape) > 0 and tensor.shape[1:] in ([], [1])


def _file(element: str | bytes) -> bytes:
    """The bytes of an image's file; JSON has no bytes, so text is base64 of them."""
    if isinstance(element, bytes):
        return element
    try:
        return base64.b64decode("".join(element.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"text that is no base64 ({error})") from error
