"""Checks of nested lists under upstream's names, for handlers that call them.

They are the functions of aiSSEMBLE's `types.dataplane`. The host itself checks arrays,
in `oip_handler.tensors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oip_handler.datatypes import from_list, numpy_dtype, unnest
from oip_handler.tensors import element_count

__all__ = [
    "DYNAMIC_SHAPE_SPECIFIER",
    "flatten",
    "get_actual_shape",
    "shape_is_valid",
    "validate_datatype",
    "validate_shape",
]

DYNAMIC_SHAPE_SPECIFIER = -1
"""A dimension of any size: legal in metadata, never in a request or a response."""


def _unnest_rectangular(data: Any) -> tuple[list[Any], list[int]]:
    flat, shape = unnest(data)
    if not {list, tuple}.isdisjoint(map(type, flat)):
        raise ValueError("nested lists are not rectangular")
    return flat, shape


def flatten(data: Any) -> list[Any]:
    """Return the elements of a list, nested or not, or of one bare element, in a row.

    Raises ValueError if the nesting is not rectangular.
    """
    return _unnest_rectangular(data)[0]


def get_actual_shape(data: Any) -> list[int]:
    """Return the length at each level of nesting of a rectangular list."""
    return _unnest_rectangular(data)[1]


def validate_datatype(expected_datatype: str, flat_data: list[Any]) -> None:
    """Raise TypeError or ValueError if an element is not a value of the datatype."""
    numpy_dtype(expected_datatype)
    from_list(flat_data, expected_datatype)


def shape_is_valid(expected_shape: Sequence[int], tensor_data: Any) -> bool:
    """Return whether a list fits a shape, in which -1 fits any length."""
    flat, actual = _unnest_rectangular(tensor_data)
    if DYNAMIC_SHAPE_SPECIFIER not in expected_shape:
        return len(flat) == element_count(expected_shape)
    return len(actual) == len(expected_shape) and all(
        want in (have, DYNAMIC_SHAPE_SPECIFIER)
        for have, want in zip(actual, expected_shape, strict=True)
    )


def validate_shape(expected_shape: Sequence[int], data: Any) -> None:
    """Raise ValueError if a list does not fit a shape, in number or in nesting."""
    actual = get_actual_shape(data)
    nested = len(actual) > 1 and DYNAMIC_SHAPE_SPECIFIER not in expected_shape
    if not shape_is_valid(expected_shape, data) or (
        nested and actual != list(expected_shape)
    ):
        raise ValueError(
            f"shape mismatch: declared {list(expected_shape)}, found {actual}"
        )
