"""From a request to one batch of images, or to what is wrong with the request."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oip_handler import Datatype, InferenceRequest, InvalidRequest, RequestInput
from oip_handler_alexnet.images import SIZE, prepare

__all__ = ["read"]


def read(
    payload: InferenceRequest, name: str, max_images: int, max_pixels: int
) -> NDArray[np.float32]:
    """Return the images of the input `name` as FP32 [n, 3, 224, 224], normalised.

    Images are decoded one after the other, so that only one is in memory in full size.
    Raises InvalidRequest, naming the row, for the first element that is not an image.
    """
    elements = _read_elements(payload, name)
    if len(elements) > max_images:
        raise InvalidRequest(
            f"input '{name}' has {len(elements)} images, expected up to {max_images} "
            "(max_images)"
        )
    batch = np.empty((len(elements), 3, SIZE, SIZE), np.float32)
    for row, element in enumerate(elements):
        try:
            batch[row] = prepare(_decode_file(element), max_pixels)
        except ValueError as error:
            raise InvalidRequest(f"image {row}: {error}") from error
    return batch


def _read_elements(payload: InferenceRequest, name: str) -> list[Any]:
    """Return the elements of the one input: `bytes`, or `str` if they came as JSON."""
    names = [tensor.name for tensor in payload.inputs]
    if names != [name]:
        quoted = ", ".join(f"'{each}'" for each in names) or "none"
        raise InvalidRequest(f"inputs: found {quoted}, expected '{name}'")
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


def _decode_file(element: str | bytes) -> bytes:
    """Return the bytes of an image's file; text is their base64, as from JSON."""
    if isinstance(element, bytes):
        return element
    try:
        return base64.b64decode("".join(element.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"text that is no base64 ({error})") from error
