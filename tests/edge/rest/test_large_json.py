"""Large JSON bodies have a parser of their own, and always the same outcome."""

from __future__ import annotations

import itertools
import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest
import simdjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oip_handler.errors import InvalidRequest
from oip_handler.messages import as_dict
from oip_host.edge.rest import codec as rest_codec
from oip_host.edge.rest import large_json
from support.carriers import DTYPES, Named, json_input

T = TypeVar("T")

MANY = settings(max_examples=200)
FEW = settings(max_examples=40)
NUMERIC = [name for name in DTYPES if name not in ("BOOL", "BYTES")]


@contextmanager
def only_orjson() -> Iterator[None]:
    """Read every body with orjson inside this context, as if none were large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_json, "LARGE", sys.maxsize)
        yield


def outcome(body: bytes, length: int | None = None) -> Any:
    """Return all that a request says, to the last bit, or the error's text."""
    try:
        request = rest_codec.decode(body, length)
    except InvalidRequest as error:
        return str(error)
    tensors = []
    for tensor in request.inputs:
        array = tensor.data.array
        assert array is not None
        assert array.flags.c_contiguous
        assert array.flags.aligned
        content = array.tolist() if array.dtype == object else array.tobytes()
        form = (array.dtype, array.shape, array.flags.writeable, content)
        parameters = exact(as_dict(tensor.parameters))
        shape = exact(tensor.shape)
        tensors.append((tensor.name, tensor.datatype, shape, parameters, form))
    outputs = [(o.name, exact(as_dict(o.parameters))) for o in request.outputs or ()]
    return request.id, exact(as_dict(request.parameters)), tensors, outputs


def exact(value: Any) -> str:
    """Return a value in which 1 is neither True nor 1.0, and 0.0 is not -0.0."""
    return repr(value)


def same(body: bytes, length: int | None = None) -> None:
    """Compare both ways of reading a body."""
    with only_orjson():
        expected = outcome(body, length)
    assert len(body) >= large_json.LARGE
    assert expected == outcome(body, length)


def padded(body: bytes) -> bytes:
    """Return the same document, made large."""
    return body.ljust(large_json.LARGE)


def one(data: str, datatype: str = "FP32", shape: str = "[1]", more: str = "") -> bytes:
    """A large request of one input, its parts as they stand in JSON."""
    text = f'"name": "x", "datatype": "{datatype}", "shape": {shape}, "data": {data}'
    return padded(f'{{"inputs": [{{{text}{more}}}]}}'.encode())


def parsed(body: bytes) -> Any:
    return large_json.loads(body, len(body))


def is_quick(body: bytes) -> bool:
    """Return whether the first input's numbers were read without a list."""
    return isinstance(parsed(body)["inputs"][0]["data"], np.ndarray)


QUICK = one(str([0.5] * 100), shape="[100]")


# -- whatever comes -----------------------------------------------------------

ODD = [
    "-0", "-0.0", "0e5", "1E5", "1e+05", "1E-5", "1.0", "1e2", "1e-400", "-1e-400",
    "65504", "65519.99", "65520", "3.4028235677973366e38", "3.5e38", "5e-324",
    "2.2250738585072011e-308", "1.7976931348623157e308", "9007199254740993",
    "16777217", "127", "128", "-128", "-129", "255", "256", "32768", "65536",
    "2147483648", "-2147483649", "4294967296", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "18446744073709551615", "18446744073709551616", "1" * 40, "0." + "1" * 40,
]  # fmt: skip
WRONG = [
    "01", "-01", "1.", ".5", "+1", "-", "1e", "0x1", "NaN", "Infinity", "1e400",
    "-1e400", "nul", "True", '"\\ud800"', '"\\udc00x"', '"\\x"', '"\x1f"', '"', "[1",
    "[1,]", "[,]", "{1:2}", '{"a" 1}', "1 2", "1]", "/**/1",
]  # fmt: skip


def mostly(usual: st.SearchStrategy[T], rare: st.SearchStrategy[T]) -> Any:
    """The usual, and the rare one time in forty."""
    return st.sampled_from([usual] * 39 + [rare]).flatmap(lambda chosen: chosen)


NUMBERS = st.one_of(
    st.integers(-130, 300).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(ODD),
)
TEXTS = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.sampled_from(
        ['"[[]"', '"]"', '"\\u005b"', '"\\ud83d\\ude00"', '"\x7f"', '"ü€"']
    ),
    st.sampled_from(['"a\\u0000b"', '"\\/"', '""', '"FP32"', '"INT8"']),
)
WORDS = st.sampled_from(["true", "false", "null"])
KEYS = st.sampled_from(
    [
        '"name"', '"shape"', '"datatype"', '"data"', '"parameters"', '"inputs"',
        '"outputs"', '"id"', '"binary_data_size"', '"content_type"', '"x"', '""',
        '"d\\u0061ta"', '"data\\u0000"', '"data\\u0000x"', '"inputs\\u0000"',
    ]
)  # fmt: skip
GAPS = st.sampled_from(["", "", "", " ", "\n\t\r "])


def array_of(items: Sequence[str], gap: str = "") -> str:
    return f"[{gap}{f'{gap},{gap}'.join(items)}{gap}]"


def object_of(members: Iterable[tuple[str, str]], gap: str = "") -> str:
    """An object; one of its names may occur twice."""
    inside = ",".join(f"{gap}{name}{gap}:{gap}{value}{gap}" for name, value in members)
    return f"{{{inside}}}"


ANYTHING = st.recursive(
    mostly(NUMBERS | TEXTS | WORDS, st.sampled_from(WRONG)),
    lambda inner: (
        st.builds(array_of, st.lists(inner, max_size=5), GAPS)
        | st.builds(object_of, st.lists(st.tuples(KEYS, inner), max_size=4), GAPS)
    ),
    max_leaves=6,
)


@st.composite
def tensors(draw: st.DrawFn) -> str:
    """Data of a rectangular nesting, often with a thing that is out of place."""
    width = draw(mostly(st.integers(4, 17), st.integers(0, 3)))
    rows = draw(st.lists(mostly(st.integers(1, 4), st.just(0)), max_size=3))
    plain = st.integers(0, 100).map(str)
    element = draw(st.sampled_from([plain, plain | st.just("0.5"), NUMBERS]))
    elements = draw(st.lists(element, min_size=1, max_size=4))
    strange = draw(st.lists(ANYTHING, max_size=1))
    place = draw(st.integers(0, 100)) if strange else None
    gap = draw(GAPS)
    count = itertools.count()

    def nested(sizes: list[int]) -> str:
        at = next(count)
        if at == place:
            return str(strange[0])
        if not sizes:
            return elements[at % len(elements)]
        return array_of([nested(sizes[1:]) for _ in range(sizes[0])], gap)

    return nested([*rows, width])


@st.composite
def some_of(draw: st.DrawFn, /, **members: st.SearchStrategy[str]) -> str:
    """An object of these members in any order; now and then one is missing or odd."""
    usual = [
        (f'"{name}"', draw(mostly(value, ANYTHING))) for name, value in members.items()
    ]
    usual = usual[draw(mostly(st.just(0), st.just(1))) :]
    more = draw(mostly(st.just([]), st.lists(st.tuples(KEYS, ANYTHING), max_size=2)))
    return object_of(draw(st.permutations(usual + more)), draw(GAPS))


PARAMETERS = st.just("{}") | some_of(p=NUMBERS | TEXTS | WORDS)
DIMENSIONS = st.integers(0, 20).map(str)
INPUTS = some_of(
    name=st.sampled_from([f'"{c}"' for c in "xyzabcdefgh["]),
    datatype=st.sampled_from([f'"{name}"' for name in [*NUMERIC, *DTYPES]]),
    shape=st.builds(array_of, st.lists(DIMENSIONS, max_size=3), GAPS),
    data=tensors(),
    parameters=PARAMETERS,
)
SEVERAL = st.lists(mostly(INPUTS, ANYTHING), min_size=1, max_size=3)
DOCUMENTS = some_of(
    id=TEXTS,
    inputs=st.builds(array_of, mostly(SEVERAL, st.just([])), GAPS),
    parameters=PARAMETERS,
    outputs=st.just("[]") | st.builds(array_of, st.lists(some_of(name=TEXTS))),
)
VALID = json.dumps(
    {
        "id": "1",
        "inputs": [
            {
                "name": name,
                "shape": [2, 4],
                "datatype": datatype,
                "data": [[1, 2, 3, 4], [5, 6, 7, 8]],
                "parameters": {"p": "ü"},
            }
            for name, datatype in (("a", "FP32"), ("b", "INT64"))
        ],
        "outputs": [{"name": "y"}],
    },
    ensure_ascii=False,
).encode()


@st.composite
def large(draw: st.DrawFn, documents: st.SearchStrategy[bytes]) -> bytes:
    """A document with blanks before, behind or around it, or with a long text in it."""
    body = draw(documents)
    size = large_json.LARGE + draw(st.integers(0, 3))
    where = draw(st.sampled_from(["behind", "before", "around", "within"]))
    if where == "within" and b"{" in body:
        return body.replace(b"{", b'{"%s": "[%s",' % (b"k" * 9, b"v" * size), 1)
    blank = draw(st.sampled_from([b" ", b"\n"]))
    if where == "before":
        return body.rjust(size, blank)
    return (blank * 500 * (where == "around") + body).ljust(size, blank)


def mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one stretch of them replaced by other bytes."""
    by = st.binary(max_size=4) | st.sampled_from([b"[", b"]", b",", b'"', b"[1]", b"0"])
    return st.builds(
        lambda at, size, by: whole[:at] + by + whole[at + size :],
        st.integers(0, len(whole)), st.integers(0, 6), by,
    )  # fmt: skip


@MANY
@given(large(DOCUMENTS.map(str.encode)))
def test_documents_have_one_outcome(body: bytes) -> None:
    """A large request means the same as a small one, or fails with the same text."""
    same(body)


@MANY
@given(large(mutations(VALID)))
def test_damaged_bodies_have_one_outcome(body: bytes) -> None:
    """Damage anywhere gives the same error text."""
    same(body)


@FEW
@given(large(DOCUMENTS.map(str.encode)), st.binary(max_size=9), st.integers(0, 3))
@example(padded(VALID), b"[[[[", 0)
def test_a_header_length_has_one_outcome(body: bytes, rest: bytes, cut: int) -> None:
    """Bytes behind the JSON part do not belong to it."""
    same(body + rest, len(body) - min(cut, len(body) - large_json.LARGE))


@FEW
@given(large(st.binary(max_size=40) | ANYTHING.map(str.encode)))
def test_other_bodies_have_one_outcome(body: bytes) -> None:
    """Arbitrary bytes, and JSON that is no request, give the same error text."""
    same(body)


@MANY
@given(tensors(), st.sampled_from(NUMERIC))
def test_tensors_have_one_outcome(data: str, datatype: str) -> None:
    """Rectangular, ragged or interrupted nesting is the same tensor, or error."""
    same(one(data, datatype))


@MANY
@given(st.lists(NUMBERS, min_size=1, max_size=8), st.sampled_from(NUMERIC))
def test_numbers_have_one_outcome(numbers: list[str], datatype: str) -> None:
    """Every spelling of a number is the same element of every datatype, or error."""
    same(one(array_of(numbers), datatype))


@pytest.mark.parametrize("number", [*ODD, *WRONG])
def test_an_odd_number_has_one_outcome(number: str) -> None:
    """Each end of a range, each spelling, for each datatype."""
    for datatype in NUMERIC:
        same(one(f"[{number}]", datatype))


# -- differences between the two parsers --------------------------------------

ROWS = "[[1, 2, 3, 4], [5, 6, 7, 8]]"
HIDDEN = "[[0, [0], [0], [0]], [0, 0, 0, 0]]"
NOT_RECTANGULAR = "input 'x': nested lists are not rectangular"


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + one("[1]"),
        one("[1]") + b"\0",
        one("[1]") + b"[",
        one("[1]") + b"\x0c",
        one("[1]")[:60].ljust(large_json.LARGE),
        b"\xa0" + one("[1]"),
        one("[1]").replace(b'"x"', b'"\xff"'),
        one("[1]").replace(b'"x"', b'"\xed\xa0\x80"'),
        one("[1]", more=', "data": [2]'),
        one("[1]", more=', "d\\u0061ta": [2]'),
        one("[[1, 2, 3, 4]]", more=', "data": 5'),
        one("[1]", more=', "datatype": "INT8"'),
        one("[1]", more=', "parameters": {"p": 1, "p": 2}'),
        one("[1]", more=', "parameters": {"p": [1]}'),
        one("[1]", more=', "parameters": {"binary_data_size": 4}'),
        one("[1]", more=', "parameters": [[[1]]]'),
        one("[]"),
        one("[[]]"),
        one("[[], []]"),
        one("[[1, 2, 3, 4], []]"),
        one("[[], [1, 2, 3, 4]]"),
        one("[[1, 2, 3, 4], [5, 6, 7, 8, 9], [1, 2, 3]]"),
        one("[[1, 2, 3, 4], 5]"),
        one('[[1, 2, 3, 4], "1234"]'),
        one('[[1, 2, 3, 4], {"a": 1, "b": 1, "c": 1, "d": 1}]'),
        one("[[[1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2, 3, 4]]]"),
        one("[[1, 2, 3, 4], [1, 2, 3, [4]]]"),
        one("[1, [2], 3]"),
        one("[[1], 2, 3]"),
        one("[true]"),
        one("[null]"),
        one('["1"]'),
        one("{}"),
        one("5"),
        one("[1]", "BOOL"),
        one("[1]", "fp32"),
        one("[1]", "FP33"),
        one("[1]", shape="[[1]]"),
        one("[1]", shape="[1.0]"),
        one("[1]", shape="[18446744073709551615]"),
        padded(b'{"inputs": {"datatype": "FP32"}}'),
        padded(b'{"inputs": "FP32"}'),
        padded(b'{"inputs": ["FP32", {}]}'),
        padded(b'[{"inputs": [{"datatype": "FP32"}]}]'),
        padded(b'"FP32"'),
        padded(b'{"x": "FP32"}'),
        padded(b'{"inputs": [], "datatype": "FP32"}'),
        padded(b'{"inputs": [], "inputs": [{"datatype": "FP32"}]}'),
    ],
    ids=lambda body: body.strip().decode(errors="backslashreplace")[-60:],
)
def test_differences_of_parsers_have_one_outcome(body: bytes) -> None:
    """A mark of the byte order, names that stand twice, ragged and empty nesting."""
    same(body)


@pytest.mark.parametrize("depth", [1000, *range(1018, 1027)])
@pytest.mark.parametrize("value", ["1", "[]", "{}"])
@pytest.mark.parametrize("kind", ["array", "object"])
def test_depth_has_one_outcome(kind: str, value: str, depth: int) -> None:
    """At any depth of nesting, both parsers read a document or neither does."""
    start, end = {"array": ("[", "]"), "object": ('{"a":', "}")}[kind]
    deep = start * depth + value + end * depth
    same(one("[1]", more=f', "deep": {deep}'))
    same(one(deep))


def test_no_name_hides_a_ragged_nesting() -> None:
    """simdjson looks for a name up to its first NUL, and would count `data` twice.

    The brackets of the twin would make up for those that a flat row may not have.
    """
    for name in ("twin", "data\\u0000", "data\\u0000x"):
        body = one(HIDDEN, shape="[2, 4]", more=f', "{name}": 1')
        assert NOT_RECTANGULAR == outcome(body)


def test_brackets_in_texts_hide_no_ragged_nesting() -> None:
    """Only brackets that are arrays are counted against brackets."""
    body = one(HIDDEN, shape="[2, 4]", more=', "parameters": {"[[[": "[[["}')
    assert NOT_RECTANGULAR == outcome(body)


@pytest.mark.timeout(20)
def test_an_object_of_many_members_is_read_at_once() -> None:
    """A body of some MB with nothing but names does not keep the server busy."""
    names = ", ".join(f'"{n}": 0' for n in range(200_000))
    same(one("[1]", more=f", {names}"))
    same(padded(f'{{{names}, "inputs": [], "datatype": "FP32"}}'.encode()))


LONGEST = 0xFFFFFF
"""Elements up to which simdjson knows the length of an array."""


@pytest.mark.parametrize(
    ("place", "count", "quick"),
    [
        ("data", LONGEST - 1, True),
        ("data", LONGEST + 1, False),
        ("shape", LONGEST, False),
        ("shape", LONGEST + 1, False),
        ("parameters", LONGEST + 1, False),
    ],
)
def test_the_longest_arrays_are_read_whole(place: str, count: int, quick: bool) -> None:
    """Beyond 16,777,215 elements simdjson's length of an array is wrong.

    pysimdjson would write the elements behind the end of a list of that length.
    """
    numbers = b"[" + b"0," * (count - 1) + b"0]"
    body = b'{"inputs": [{"datatype": "FP32", "%s": %s}]}' % (place.encode(), numbers)
    (found,) = parsed(body)["inputs"]
    value = found[place]
    assert quick == isinstance(value, np.ndarray)
    assert count == len(value)
    assert not np.any(value) if quick else value.count(0) == count


# -- the quick way ------------------------------------------------------------


@pytest.mark.parametrize("shape", [[1000], [64, 16], [100, 4], [2, 2, 2, 64]], ids=str)
@pytest.mark.parametrize("datatype", NUMERIC)
def test_ordinary_numbers_come_without_a_list(datatype: str, shape: list[int]) -> None:
    """Numbers of every datatype become an array directly, flat or nested."""
    array = np.arange(np.prod(shape)).reshape(shape) % 100
    tensor = Named("x", datatype, array.astype(DTYPES[datatype]))
    for nested in (False, True):
        body = padded(json.dumps({"inputs": [json_input(tensor, nested)]}).encode())
        data = parsed(body)["inputs"][0]["data"]
        assert isinstance(data, np.ndarray)
        assert (shape if nested else [array.size]) == list(data.shape)
        assert np.array_equal(array.ravel(), data.ravel())
        same(body)


@pytest.mark.parametrize("pad", [bytes.ljust, bytes.rjust])
def test_a_datatype_at_either_end_is_found(pad: Any) -> None:
    """The datatype may come before or after the data."""
    small = QUICK.strip()
    assert is_quick(pad(small, large_json.LARGE))
    numbers = [0.5] * 2000
    for order in (["datatype", "data"], ["data", "datatype"]):
        members = {name: {"datatype": "FP32", "data": numbers}[name] for name in order}
        assert is_quick(orjson.dumps({"inputs": [members], "parameters": {}}))


def test_binary_tensors_do_not_slow_the_json_part() -> None:
    """Binary tensors that look like JSON do not slow the reading of the JSON part."""
    found = large_json.loads(QUICK + b"[[[", len(QUICK))
    assert isinstance(found["inputs"][0]["data"], np.ndarray)


def test_texts_are_left_to_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads BYTES and BOOL faster, so the other parser does not see them."""

    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("asked for a parser")

    expected = parsed(one('["a"]', "BYTES")), parsed(one("[true]", "BOOL"))
    monkeypatch.setattr(large_json, "_own", Untouchable())
    assert expected == (parsed(one('["a"]', "BYTES")), parsed(one("[true]", "BOOL")))
    with pytest.raises(AssertionError, match="parser"):
        parsed(QUICK)


def test_small_body_skips_the_second_parser() -> None:
    """`LARGE` is the smallest body that the second parser reads."""
    for size, quick in ((large_json.LARGE - 1, False), (large_json.LARGE, True)):
        document = rest_codec._load_object(QUICK[:size].ljust(size), size)
        assert quick == isinstance(document["inputs"][0]["data"], np.ndarray)


# -- the parser ---------------------------------------------------------------


def own_parser() -> Any:
    """The parser that this thread keeps for its next body."""
    return getattr(large_json._own, "parser", None)


def functions(error: BaseException | None) -> Iterator[str]:
    """The names of all functions that an exception and its causes hold on to."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            yield frame.f_code.co_name
        error = error.__context__


FAILING = {
    "not JSON": QUICK[:-2],
    "trailing": QUICK + b"]",
    "not UTF-8": QUICK.replace(b'"x"', b'"\xff"'),
    "ragged": one("[[1, 2, 3, 4], [1, 2, 3, [4]]]"),
    "mixed": one('[1, "a"]'),
    "text in a row": one('[[1, 2, 3, 4], "1234"]'),
    "out of range": one("[-1]", "UINT8"),
    "too wide": one("[18446744073709551616]", "UINT64"),
    "names twice": one("[1]", more=', "data": [2]'),
    "no object": padded(b'["FP32"]'),
    "too deep": one("[" * 2000 + "]" * 2000),
}


@pytest.mark.parametrize("bad", FAILING.values(), ids=list(FAILING))
def test_a_failure_does_not_poison_the_next_body(bad: bytes) -> None:
    """A body that simdjson cannot or should not read leaves no trace.

    An exception whose traceback is kept does not keep the parser either.
    """
    kept: list[BaseException] = []
    for _ in range(3):
        try:
            rest_codec.decode(bad)
        except InvalidRequest as error:
            kept.append(error)
        assert is_quick(QUICK)
        assert is_quick(QUICK)
    assert not [error for error in kept if "_read" in functions(error)]


def test_the_parser_is_kept_for_the_next_body() -> None:
    """Its memory is used again, since nothing of a document is left in it."""
    assert is_quick(QUICK)
    parser = own_parser()
    assert isinstance(parser, simdjson.Parser)
    first, again = parsed(QUICK), parsed(one(ROWS))
    assert parser is own_parser()
    assert np.array_equal([0.5] * 100, first["inputs"][0]["data"])
    assert json.loads(ROWS) == again["inputs"][0]["data"].tolist()


def test_the_parser_is_not_kept_after_a_very_large_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory of a very large body is released."""
    assert is_quick(QUICK)
    monkeypatch.setattr(large_json, "_KEPT", len(QUICK))
    assert is_quick(QUICK + b" ")
    assert own_parser() is None
    assert is_quick(QUICK)
    assert own_parser() is not None


def test_a_parser_that_is_in_use_is_left_alone() -> None:
    """A parser whose last document is still in use is not used again."""
    parser = simdjson.Parser()
    looking: Any = parser.parse(b"[1, 2, 3]")
    large_json._own.parser = parser
    assert [0.5] * 100 == parsed(QUICK)["inputs"][0]["data"]
    assert own_parser() is None
    assert is_quick(QUICK)
    assert [1, 2, 3] == looking.as_list()


def test_each_thread_has_its_own_parser() -> None:
    """Each thread uses a separate parser, for good and bad bodies at once."""

    def told(body: bytes) -> tuple[Any, Any]:
        return outcome(body), own_parser()

    assert is_quick(QUICK)
    bodies = [one(str([float(n)] * 200), shape="[200]") for n in range(6)]
    bodies += list(FAILING.values())
    with only_orjson():
        expected = [outcome(body) for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(told, body) for _ in range(40) for body in bodies]
        results = [job.result() for job in jobs]
    assert expected * 40 == [result for result, _ in results]
    assert own_parser() not in [parser for _, parser in results]
