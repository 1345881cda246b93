"""Checks of a request's fields for both codecs, with the same texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from oip_handler.datatypes import Datatype, describe_value, numpy_dtype
from oip_handler.errors import InvalidRequest
from oip_handler.messages import Parameters

__all__ = [
    "check_datatype",
    "check_inputs",
    "check_names",
    "check_parameters",
    "check_shape",
]

_PLAIN = (str, bool, int, float)
_DATATYPES = {member.value: member for member in Datatype}


def check_inputs(tensors: Sequence[Any]) -> None:
    """Reject a request without inputs."""
    if not tensors:
        raise InvalidRequest("inputs: found none, expected at least one")


def check_names(names: Iterable[str], where: str) -> None:
    """Reject a duplicate name among the inputs, or among the outputs."""
    seen = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{where}: duplicate name '{name}'")
        seen.add(name)


def check_shape(shape: Iterable[Any], where: str) -> list[int]:
    """Return a shape as a list; reject one that is not of integers of 0 or more."""
    sizes = list(shape)
    for i, size in enumerate(sizes):
        if type(size) is not int or size < 0:
            raise InvalidRequest(
                f"{where}.shape[{i}]: found {describe_value(size)}, "
                "expected an integer of 0 or more"
            )
    return sizes


def check_datatype(name: str, where: str) -> Datatype:
    """Return the datatype of a name; reject one that the protocol does not have."""
    if name not in _DATATYPES:
        try:
            numpy_dtype(name)
        except ValueError as error:
            raise InvalidRequest(f"{where}.datatype: {error}") from None
    return _DATATYPES[name]


def check_parameters(plain: dict[str, Any] | None, where: str) -> Parameters | None:
    """Return parameters from names and values, or None where there are none.

    Rejects a value that is no string, number or boolean.
    """
    if not plain:
        return None
    content_type = plain.get("content_type")
    if content_type is not None and type(content_type) is not str:
        raise InvalidRequest(
            f"{where}parameters.content_type: found {describe_value(content_type)}, "
            "expected a string"
        )
    for name, value in plain.items():
        if value is not None and type(value) not in _PLAIN:
            raise InvalidRequest(
                f"{where}parameters.{name}: found {describe_value(value)}, "
                "expected a string, a number or a boolean"
            )
    return Parameters.model_validate(plain)
