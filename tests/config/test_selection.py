"""The grammar of `OIP_HANDLERS`, form by form, and the positions of its faults."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oip_host.config.selection import DEFAULT_VERSION, Item, Selection, parse

EXPECTED = "expected [model[@version]=]handler[?], -handler or *"


def fault(position: int, found: str) -> str:
    return f"OIP_HANDLERS: at character {position}: found {found}, {EXPECTED}"


# -- forms ------------------------------------------------------------------------

# the handler as written, and the default name of its model
HANDLERS = {
    "sklearn": "sklearn",
    "my-handler_2.x": "my-handler_2.x",
    "7b": "7b",
    "dist/name": "name",
    "My.Dist-1_x/name.v2": "name.v2",
    "module:Class": "Class",
    "pkg.module:Class": "Class",
    "pkg.module:Outer.Inner": "Outer.Inner",
    "_private:make_handler": "make_handler",
}
each_handler = pytest.mark.parametrize("handler", HANDLERS)


@each_handler
def test_handler_alone_names_its_model(handler: str) -> None:
    """A handler without a model name gives the model its last name, in version 1."""
    expected = Item(handler, model=HANDLERS[handler], version="1", optional=False)
    assert parse(handler) == (Selection((expected,)), [])


@each_handler
@pytest.mark.parametrize("optional", ["", "?"], ids=["required", "optional"])
@pytest.mark.parametrize("version", ["", "2", "1.5", "v2-rc.1", "2024+a_b"])
@pytest.mark.parametrize("model", ["fraud", "my-model.v2", "7_b"])
def test_model_version_handler_and_mark(
    model: str, version: str, optional: str, handler: str
) -> None:
    """`model@version=handler?` parses into its parts, each of which is optional."""
    text = f"{model}{'@' + version if version else ''}={handler}{optional}"
    expected = Item(handler, model, version or DEFAULT_VERSION, bool(optional))
    assert parse(text) == (Selection((expected,)), [])


@each_handler
def test_optional_handler_without_a_model(handler: str) -> None:
    """`handler?` is optional and named after the handler."""
    selection, faults = parse(f"{handler}?")
    assert faults == []
    assert [(item.model, item.optional) for item in selection.items] == [
        (HANDLERS[handler], True)
    ]


@each_handler
def test_exclusion_alone_selects_all_others(handler: str) -> None:
    """`-handler` alone selects every other handler."""
    assert parse(f"-{handler}") == (Selection((), (handler,), everything=True), [])


def test_one_handler_for_several_models() -> None:
    """A handler may serve several models, and several versions of one model."""
    selection, faults = parse("fraud=sklearn,churn=sklearn,churn@2=sklearn")
    assert faults == []
    assert selection == Selection(
        (
            Item("sklearn", "fraud"),
            Item("sklearn", "churn"),
            Item("sklearn", "churn", "2"),
        )
    )


@pytest.mark.parametrize("text", [None, "*", " * ", "*,*"])
def test_unset_or_star_selects_everything(text: str | None) -> None:
    """An unset value and `*` both select every handler."""
    assert parse(text) == (Selection(everything=True), [])


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u3000"])
def test_empty_is_a_fault(text: str) -> None:
    """An empty value is a fault that says what to write."""
    selection, faults = parse(text)
    assert selection == Selection()
    expected = "OIP_HANDLERS is empty, expected handler names, or * for all"
    assert faults == [expected]


@pytest.mark.parametrize(
    ("text", "everything"),
    [("*,m=a,-b", True), ("m=a,-b,*", True), ("-b,m=a", False), ("m=a,-b", False)],
)
def test_star_named_and_excluded_together(text: str, everything: bool) -> None:
    """`*` adds the handlers that are not named; without it, they are not chosen."""
    expected = Selection((Item("a", "m"),), ("b",), everything)
    assert parse(text) == (expected, [])


def test_order_is_kept() -> None:
    """Items and exclusions keep the order in which they are written."""
    selection, _ = parse("c,-z,a,-y,b")
    assert [item.handler for item in selection.items] == ["c", "a", "b"]
    assert selection.excluded == ("z", "y")


@pytest.mark.parametrize(
    "text",
    [
        "a,m=b?,-c,*",
        " a , m=b? , -c , * ",
        "a,\n  m=b?,\n  -c,\n  *\n",
        "\ta,m=b?,-c,*",
    ],
    ids=["none", "spaces", "lines", "tab"],
)
def test_whitespace_around_items_is_ignored(text: str) -> None:
    """Items may be surrounded by spaces or be on separate lines, as in a manifest."""
    items = (Item("a", "a"), Item("b", "m", optional=True))
    assert parse(text) == (Selection(items, ("c",), everything=True), [])


# -- faults -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "position", "found"),
    [
        ("a,,b", 3, "nothing"),
        (",a", 1, "nothing"),
        ("a,", 3, "nothing"),
        ("a, ,b", 3, "nothing"),
        ("=a", 1, "'=' in '=a'"),
        ("m=", 2, "'=' in 'm='"),
        ("m=*", 2, "'=' in 'm=*'"),
        ("m=a=b", 4, "'=' in 'm=a=b'"),
        ("m@=a", 2, "'@' in 'm@=a'"),
        ("m@1", 2, "'@' in 'm@1'"),
        ("m@1@2=a", 2, "'@' in 'm@1@2=a'"),
        ("a b", 2, "' ' in 'a b'"),
        ("m = a", 2, "' ' in 'm = a'"),
        ("a ?", 2, "' ' in 'a ?'"),
        ("a??", 3, "'?' in 'a??'"),
        ("?a", 1, "'?' in '?a'"),
        ("a/b/c", 4, "'/' in 'a/b/c'"),
        ("/a", 1, "'/' in '/a'"),
        ("d/", 2, "'/' in 'd/'"),
        ("mod:", 4, "':' in 'mod:'"),
        (":C", 1, "':' in ':C'"),
        ("m.n:C:D", 6, "':' in 'm.n:C:D'"),
        ("d/m.n:C", 6, "':' in 'd/m.n:C'"),
        ("*?", 1, "'*' in '*?'"),
        ("-", 1, "'-' in '-'"),
        ("-*", 1, "'-' in '-*'"),
        ("--a", 1, "'-' in '--a'"),
        ("-a?", 3, "'?' in '-a?'"),
        ("-m=a", 3, "'=' in '-m=a'"),
        ("a;b", 2, "';' in 'a;b'"),
        ("é", 1, "'é' in 'é'"),
    ],
)
def test_fault_names_its_position(text: str, position: int, found: str) -> None:
    """A fault gives its character position in the whole text and what was found.

    The same item gives the same fault at any position.
    """
    assert fault(position, found) in parse(text)[1]
    assert fault(position + 4, found) in parse(f"  x,{text}")[1]


def test_faults_are_reported_together() -> None:
    """Each invalid item has a line, in order; the valid items are selected."""
    selection, faults = parse("good, b?d, x=,, -good?, m@2=fine?")
    assert selection == Selection((Item("good", "good"), Item("fine", "m", "2", True)))
    assert faults == [
        fault(9, "'d' in 'b?d'"),
        fault(13, "'=' in 'x='"),
        fault(15, "nothing"),
        fault(22, "'?' in '-good?'"),
    ]


@pytest.mark.parametrize("text", [",", "=", "-a?,"])
def test_only_faults_select_nothing(text: str) -> None:
    """A text without any valid item selects nothing, and never everything."""
    selection, faults = parse(text)
    assert selection == Selection()
    assert faults


# -- any text ---------------------------------------------------------------------

PIECES = st.sampled_from(list("am=@?-*,/:. é"))
TEXTS = st.text() | st.lists(PIECES, max_size=12).map("".join)


@given(text=TEXTS)
@example(text="\x1f,a")
@example(text="a\u2028=b")
def test_any_text_parses_or_has_faults(text: str) -> None:
    """Any text gives a selection, or faults at positions within it; nothing raises."""
    selection, faults = parse(text)
    asked = bool(selection.items or selection.excluded or selection.everything)
    assert asked or faults
    for line in faults:
        if line.startswith("OIP_HANDLERS is empty"):
            assert not text.strip()
            continue
        found = re.match(r"OIP_HANDLERS: at character (\d+): found (.)", line)
        assert found, line
        position = int(found[1])
        assert 1 <= position <= len(text) + 1
        if found[2] in "'\"":
            assert f"found {text[position - 1]!r} in " in line


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,5}", fullmatch=True)
WORDS = st.from_regex(r"[a-z_][a-z0-9_]{0,4}", fullmatch=True)
REFERENCES = st.one_of(
    NAMES,
    st.tuples(NAMES, NAMES).map("/".join),
    st.tuples(WORDS, WORDS).map(":".join),
)
ITEMS = st.builds(
    Item,
    handler=REFERENCES,
    model=NAMES,
    version=st.from_regex(r"[A-Za-z0-9_.+\-]{1,5}", fullmatch=True),
    optional=st.booleans(),
)


@given(items=st.lists(ITEMS, max_size=4), excluded=st.lists(REFERENCES, max_size=2))
def test_selection_round_trips(items: list[Item], excluded: list[str]) -> None:
    """Every selection that can be written parses back to itself."""
    words = [
        f"{item.model}@{item.version}={item.handler}{'?' if item.optional else ''}"
        for item in items
    ]
    text = ",".join([*words, *(f"-{name}" for name in excluded), "*"])
    assert parse(text) == (Selection(tuple(items), tuple(excluded), True), [])


def test_fault_lists_the_whole_grammar() -> None:
    """A fault shows the whole grammar, and each of its forms is accepted."""
    forms = ["handler", "model=handler", "model@version=handler"]
    written = [form + mark for form, mark in product(forms, ["", "?"])]
    for text in [*written, "-handler", "*"]:
        assert parse(text)[1] == [], text
    assert parse("=")[1][0].endswith(EXPECTED)
