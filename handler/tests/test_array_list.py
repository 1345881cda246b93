"""A list that numpy need not read element by element is still a list."""

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
def test_numpy_reads_the_same_values(dtype: str, wanted: Any) -> None:
    """Values and dtype are those of a plain list, in a writable array."""
    array = np.arange(100).astype(dtype)
    array.flags.writeable = False
    expected = np.array(array.tolist(), dtype=wanted)
    found = np.asarray(to_list(array), dtype=wanted)
    assert expected.dtype == found.dtype
    assert np.array_equal(expected, found)
    assert found.flags.writeable


def test_numpy_checks_the_range_as_in_a_plain_list() -> None:
    """A number that does not fit raises, or is a warning in an older numpy."""
    for elements in (made("i8", 1000), [*made("i8", 1000)]):
        with pytest.raises((OverflowError, DeprecationWarning)):
            np.asarray(elements, dtype=np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_code_reads_a_plain_list(dtype: str) -> None:
    """This includes C code that reads the elements directly."""
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
def test_numpy_sees_changes(change: Callable[[Any], Any]) -> None:
    """A list that was changed is read like any other."""
    elements = made()
    plain = list(elements)
    change(elements)
    change(plain)
    assert plain == elements
    assert np.array_equal(np.array(plain), np.asarray(elements))


def test_other_arrays_become_plain_lists() -> None:
    """Small, nested and non-numeric arrays would gain nothing."""
    nested = np.arange(200.0).reshape(2, 100)
    text = np.array([b"a"] * 100, dtype=object)
    for array in (np.arange(5.0), nested, text):
        assert list is type(to_list(array))
        assert array.tolist() == to_list(array)
    assert 3.0 == to_list(np.float32(3.0).reshape(()))
