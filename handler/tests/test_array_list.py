"""A list that numpy does not read again is a list all the same."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from oip_handler.array_list import to_list

DTYPES = ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u4", "u8", "?"]
WANTED = [None, "f4", "f8", "i8", "u1", "?", object]


def made(dtype: str = "f4", size: int = 100) -> Any:
    return to_list(np.arange(size).astype(dtype))


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_makes_the_same_of_it(dtype: str, wanted: Any) -> None:
    """The same values and dtype as of a plain list, and an array to write to."""
    array = np.arange(100).astype(dtype)
    array.flags.writeable = False
    expected = np.array(array.tolist(), dtype=wanted)
    found = np.asarray(to_list(array), dtype=wanted)
    assert expected.dtype == found.dtype
    assert np.array_equal(expected, found)
    assert found.flags.writeable


def test_numpy_checks_the_range_as_with_a_plain_list() -> None:
    """A number that does not fit is refused, or warned of by an older numpy."""
    for elements in (made("i8", 1000), [*made("i8", 1000)]):
        with pytest.raises((OverflowError, DeprecationWarning)):
            np.asarray(elements, dtype=np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_everybody_else_reads_a_list(dtype: str) -> None:
    """Also code in C that takes the elements without asking."""
    elements = made(dtype)
    plain = np.arange(100).astype(dtype).tolist()
    assert isinstance(elements, list)
    assert plain == elements
    assert orjson.dumps(plain) == orjson.dumps(elements)
    assert json.dumps(plain) == json.dumps(elements)
    assert plain + plain == plain + elements == elements + plain
    for copied in (pickle.loads(pickle.dumps(elements)), copy.deepcopy(elements)):
        assert list is type(copied)
        assert plain == copied


CHANGES: dict[str, Callable[[Any], Any]] = {
    "setitem": lambda x: x.__setitem__(0, 7.0),
    "slice": lambda x: x.__setitem__(slice(2), [1.0]),
    "delitem": lambda x: x.__delitem__(0),
    "append": lambda x: x.append(1.0),
    "extend": lambda x: x.extend([1.0]),
    "iadd": lambda x: x.__iadd__([1.0]),
    "imul": lambda x: x.__imul__(2),
    "insert": lambda x: x.insert(0, 1.0),
    "pop": lambda x: x.pop(),
    "remove": lambda x: x.remove(3.0),
    "clear": lambda x: x.clear(),
    "sort": lambda x: x.sort(reverse=True),
    "reverse": lambda x: x.reverse(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_by_numpy(change: Callable[[Any], Any]) -> None:
    """A list that somebody changed is read as any other."""
    elements = made()
    plain = list(elements)
    change(elements)
    change(plain)
    assert plain == elements
    assert np.array_equal(np.array(plain), np.asarray(elements))


def test_what_is_small_nested_or_no_number_is_a_plain_list() -> None:
    """There is nothing to gain."""
    nested = np.arange(200.0).reshape(2, 100)
    text = np.array([b"a"] * 100, dtype=object)
    for array in (np.arange(5.0), nested, text):
        assert list is type(to_list(array))
        assert array.tolist() == to_list(array)
    assert 3.0 == to_list(np.float32(3.0).reshape(()))
