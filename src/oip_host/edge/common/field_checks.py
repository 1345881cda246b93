"""Checks of a request's fields that both codecs make, with one text for both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from oip_handler.datatypes import Datatype, numpy_dtype
from oip_handler.errors import InvalidRequest
from oip_handler.messages import Parameters

__all__ = ["datatype", "dimensions", "found", "parameters", "some", "unique"]

_KINDS: dict[type[Any], str] = {str: "a string", list: "an array", dict: "an object"}
_PLAIN = (str, bool, int, float)
_DATATYPES = {member.value: member for member in Datatype}


def found(value: Any) -> str:
    """A value as an error text shows it: its kind, and itself where it is short."""
    if value is None:
        return "null"
    if type(value) in _KINDS:
        return _KINDS[type(value)]
    text = str(value)
    shown = text if len(text) <= 40 else text[:37] + "..."
    return f"the {type(value).__name__} {shown}"


def some(tensors: Sequence[Any]) -> None:
    """Refuse a request without inputs."""
    if not tensors:
        raise InvalidRequest("inputs: found none, expected at least one")


def unique(names: Iterable[str], where: str) -> None:
    """Refuse a name that stands twice among the inputs, or the outputs."""
    seen = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{where}: the name '{name}' stands there twice")
        seen.add(name)


def dimensions(shape: Iterable[Any], where: str) -> list[int]:
    """A shape of integers of 0 or more."""
    sizes = list(shape)
    for i, size in enumerate(sizes):
        if type(size) is not int or size < 0:
            raise InvalidRequest(
                f"{where}.shape[{i}]: found {found(size)}, "
                "expected an integer of 0 or more"
            )
    return sizes


def datatype(name: str, where: str) -> Datatype:
    """A datatype of the protocol, in capitals."""
    if name not in _DATATYPES:
        try:
            numpy_dtype(name)
        except ValueError as error:
            raise InvalidRequest(f"{where}.datatype: {error}") from None
    return _DATATYPES[name]


def parameters(plain: dict[str, Any] | None, where: str) -> Parameters | None:
    """Parameters from their names and values; None where there are none."""
    if not plain:
        return None
    content_type = plain.get("content_type")
    if content_type is not None and type(content_type) is not str:
        raise InvalidRequest(
            f"{where}parameters.content_type: found {found(content_type)}, "
            "expected a string"
        )
    for name, value in plain.items():
        if value is not None and type(value) not in _PLAIN:
            raise InvalidRequest(
                f"{where}parameters.{name}: found {found(value)}, "
                "expected a string, a number or a boolean"
            )
    return Parameters.model_validate(plain)
