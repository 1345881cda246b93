"""Choosing among the installed handlers, and importing the chosen ones."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from oip_host.config.selection import Item, parse
from oip_host.hookspecs import HandlerEntry, hookimpl
from oip_host.plugins.choice import Choice, choose
from oip_host.plugins.discovery import (
    canonical,
    create_manager,
    import_handler,
    list_handlers,
)


class Imported(Exception):
    """Raised by the handlers of these tests when they are imported."""


def entry(name: str, distribution: str | None = "one", version: str = "1.0") -> Any:
    """Return a handler whose import raises."""

    def refuse() -> Any:
        raise Imported(name)

    return HandlerEntry(name, f"{name}:Handler", refuse, distribution, version)


A, B, C = entry("alpha"), entry("beta"), entry("gamma")
TWIN_1, TWIN_2 = entry("twin", "dist-one"), entry("twin", "Dist_Two", "2.0")


def chosen(
    text: str | None, entries: Iterable[HandlerEntry]
) -> tuple[list[Choice], list[str]]:
    """Return the choices and faults for a selection text that parses."""
    selection, malformed = parse(text)
    assert malformed == []
    return choose(selection, list(entries))


def models(choices: Iterable[Choice]) -> dict[str, str]:
    """Return each model with its version, and the target of its handler."""
    return {
        f"{choice.item.model}@{choice.item.version}": choice.entry.target
        for choice in choices
    }


# -- choosing ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "*"], ids=["unset", "star"])
def test_everything_chooses_every_handler_by_name(text: str | None) -> None:
    """An unset selection and `*` choose each handler once, as a model of its name."""
    choices, faults = chosen(text, [A, B])
    assert faults == []
    assert choices == [
        Choice(Item("alpha", "alpha"), A, named=False),
        Choice(Item("beta", "beta"), B, named=False),
    ]


def test_only_named_handlers_are_chosen() -> None:
    """A selection of names chooses only those, in its own order."""
    choices, faults = chosen("beta,m@2=alpha?", [A, B, C])
    assert faults == []
    assert choices == [
        Choice(Item("beta", "beta"), B, named=True),
        Choice(Item("alpha", "m", "2", optional=True), A, named=True),
    ]


def test_one_handler_serves_several_models() -> None:
    """A handler may be chosen for several models or versions."""
    choices, faults = chosen("fraud=alpha,churn=alpha,churn@2=alpha", [A, B])
    assert faults == []
    expected = dict.fromkeys(["fraud@1", "churn@1", "churn@2"], A.target)
    assert models(choices) == expected


def test_star_adds_the_handlers_that_are_not_named() -> None:
    """With `*`, a named handler serves only under the names given for it."""
    choices, faults = chosen("m=alpha,*", [A, B])
    assert faults == []
    assert models(choices) == {"m@1": A.target, "beta@1": B.target}
    assert [choice.named for choice in choices] == [True, False]


@pytest.mark.parametrize("text", ["-alpha", "*,-alpha", "-one/alpha", "-ONE/alpha"])
def test_excluded_handler_is_not_chosen(text: str) -> None:
    """`-handler` excludes a handler by name, with or without its distribution."""
    choices, faults = chosen(text, [A, B])
    assert faults == []
    assert models(choices) == {"beta@1": B.target}


def test_unknown_name_is_a_fault_with_nearest_names() -> None:
    """The fault lists the nearest names and all installed handlers."""
    choices, faults = chosen("alhpa,beta", [A, B, C])
    assert faults == [
        "OIP_HANDLERS: no installed handler is named 'alhpa', nearest: 'alpha'; "
        "installed: alpha, beta, gamma"
    ]
    assert models(choices) == {"beta@1": B.target}


def test_unknown_distribution_is_a_fault_with_nearest_names() -> None:
    """The nearest names include the distribution if the unknown name has one."""
    _, faults = chosen("two/alpha", [A, TWIN_1])
    assert faults == [
        "OIP_HANDLERS: no installed handler is named 'two/alpha', "
        "nearest: 'one/alpha'; installed: one/alpha, dist-one/twin"
    ]


def test_unknown_name_without_any_handlers() -> None:
    """If no handler is installed, the fault says so."""
    _, faults = chosen("alpha", [])
    expected = "OIP_HANDLERS: no installed handler is named 'alpha'; installed: none"
    assert faults == [expected]


def test_unknown_exclusion_is_a_fault() -> None:
    """An excluded handler must be installed: a misspelt name would exclude nothing."""
    _, faults = chosen("-alhpa", [A, B])
    assert len(faults) == 1
    assert "no installed handler is named 'alhpa', nearest: 'alpha'" in faults[0]


def test_selection_of_everything_needs_a_handler() -> None:
    """If no handler is installed, the fault says how to get one."""
    choices, faults = chosen(None, [])
    assert choices == []
    assert len(faults) == 1
    assert faults[0].startswith("no handler is installed: pip install a package")


# -- distributions ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["twin", "m=twin", "m@2=twin?", "*", "-twin", "twin,*"]
)
def test_name_in_two_distributions_is_a_fault(text: str) -> None:
    """The fault names both distributions and says what to write."""
    _, faults = chosen(text, [A, TWIN_1, TWIN_2])
    expected = (
        "OIP_HANDLERS: handler 'twin' is offered by dist-one 1.0 and Dist_Two 2.0; "
        "write dist-one/twin or Dist_Two/twin"
    )
    assert expected in faults


def test_ambiguous_names_not_selected_are_not_a_fault() -> None:
    """A name in two distributions is not a fault if it is not selected."""
    choices, faults = chosen("alpha", [A, TWIN_1, TWIN_2])
    assert faults == []
    assert models(choices) == {"alpha@1": A.target}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dist-one/twin", [TWIN_1]),
        ("dist_two/twin", [TWIN_2]),
        ("a=dist-one/twin,b=Dist.Two/twin", [TWIN_1, TWIN_2]),
        ("-dist-one/twin", [TWIN_2]),
        ("*,-Dist_Two/twin", [TWIN_1]),
    ],
)
def test_distribution_resolves_an_ambiguous_name(
    text: str, expected: list[HandlerEntry]
) -> None:
    """`distribution/name` selects one of two handlers; both may be served."""
    choices, faults = chosen(text, [TWIN_1, TWIN_2])
    assert faults == []
    assert [choice.entry for choice in choices] == expected


@pytest.mark.parametrize(
    "name", ["my-dist", "My-Dist", "my_dist", "my.dist", "MY__DIST", "my-_.dist"]
)
def test_distribution_names_are_compared_like_pip(name: str) -> None:
    """Case, and the kind and number of `-`, `_` and `.`, do not matter (PEP 503)."""
    assert canonical(name) == "my-dist"
    choices, faults = chosen(f"{name}/twin", [entry("twin", "My.Dist"), TWIN_1])
    assert faults == []
    assert [choice.entry.distribution for choice in choices] == ["My.Dist"]


def test_handler_without_a_distribution() -> None:
    """An extension's handler without a distribution is chosen by its name."""
    loose = entry("loose", None)
    choices, faults = chosen("loose", [A, loose])
    assert faults == []
    assert [choice.entry for choice in choices] == [loose]
    assert loose.origin == "no distribution"


# -- conflicts --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["alpha,-alpha", "m=alpha,-one/alpha", "-alpha,one/alpha"]
)
def test_selected_and_excluded_is_a_fault(text: str) -> None:
    """A handler both selected and excluded is a fault, however the two are written."""
    _, faults = chosen(text, [A, B])
    assert len(faults) == 1
    assert faults[0].startswith("OIP_HANDLERS: ")
    assert faults[0].endswith("alpha' is selected and excluded")


def test_unpackaged_selected_and_excluded_is_a_fault() -> None:
    """Selecting and excluding the same `module:Class` is a fault too."""
    _, faults = chosen("some.module:Class,-some.module:Class", [A])
    expected = "OIP_HANDLERS: 'some.module:Class' is selected and excluded"
    assert faults == [expected]


@pytest.mark.parametrize(
    ("text", "model", "first", "second"),
    [
        ("m=alpha,m=beta", "model 'm' version '1'", "alpha", "beta"),
        ("m@2=alpha,m@2=alpha", "model 'm' version '2'", "alpha", "alpha"),
        ("alpha,alpha=beta", "model 'alpha' version '1'", "alpha", "beta"),
        ("m=alpha,m@1=beta", "model 'm' version '1'", "alpha", "beta"),
        ("beta=alpha,*", "model 'beta' version '1'", "alpha", "beta"),
    ],
)
def test_model_selected_twice_is_a_fault(
    text: str, model: str, first: str, second: str
) -> None:
    """A version of a model is served by one handler; the fault names both."""
    _, faults = chosen(text, [A, B])
    assert faults == [
        f"OIP_HANDLERS: {model} is selected twice, from {first!r} and {second!r}"
    ]


def test_faults_of_a_selection_are_reported_together() -> None:
    """Each kind of fault has its own line."""
    _, faults = chosen(
        "alhpa,twin,beta,-beta,m=alpha,m=gamma", [A, B, C, TWIN_1, TWIN_2]
    )
    assert len(faults) == 4
    for part in (
        "is named 'alhpa'",
        "'twin' is offered by",
        "'beta' is selected and excluded",
        "'m' version '1' is selected twice",
    ):
        assert sum(part in fault for fault in faults) == 1, part


# -- offering ---------------------------------------------------------------------


class Offers:
    """An extension that offers entries."""

    def __init__(self, *entries: HandlerEntry) -> None:
        self.entries = entries

    @hookimpl
    def oip_handlers(self) -> Iterable[HandlerEntry]:
        return iter(self.entries)


class Silent:
    """An extension that offers nothing."""

    @hookimpl
    def oip_handlers(self) -> None:
        return None


def test_extensions_offer_handlers() -> None:
    """The handlers of all extensions are listed by name and distribution."""
    fresh = create_manager([Offers(TWIN_2, A), Offers(TWIN_1), Silent()])
    mine = [e for e in list_handlers(fresh) if e in (A, TWIN_1, TWIN_2)]
    assert mine == [A, TWIN_1, TWIN_2]


def test_listing_and_choosing_import_nothing() -> None:
    """Listing and choosing handlers does not import them."""
    choices, faults = chosen("*", list_handlers(create_manager([Offers(A, B)])))
    assert faults == []
    assert {A, B} <= {choice.entry for choice in choices}
    with pytest.raises(Imported):
        A.load()


def test_each_manager_is_independent() -> None:
    """Extensions registered with one manager are unknown to another."""
    create_manager([Offers(A)])
    assert A not in list_handlers(create_manager())


# -- importing --------------------------------------------------------------------

Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[Module]:
    """Write an importable module with the given text, and unload it after the test."""
    names: list[str] = []

    def write(text: str) -> str:
        names.append(f"oip_test_module_{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(text)
        return names[-1]

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in names:
        sys.modules.pop(name, None)


def unpackaged(reference: str) -> HandlerEntry:
    """Return the entry of `module:Class`."""
    (choice,), faults = chosen(reference, [])
    assert faults == []
    return choice.entry


def test_unpackaged_handler_is_imported_on_load(module: Module) -> None:
    """`module:Class`, or a nested class, is imported only when it is loaded."""
    name = module("class Outer:\n    class Inner:\n        marker = 7\n")
    found = unpackaged(f"{name}:Outer.Inner")
    assert name not in sys.modules
    handler, reason = import_handler(found)
    assert reason is None
    assert handler.marker == 7
    assert (found.name, found.origin) == ("Outer.Inner", "no distribution")


def test_models_of_one_unpackaged_handler_share_its_entry() -> None:
    """The same reference is the same handler."""
    choices, _ = chosen("a=some.module:Class,b=some.module:Class", [])
    assert choices[0].entry == choices[1].entry


def test_unpackaged_code_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is not packaged is imported from the working directory."""
    (tmp_path / "oip_test_local.py").write_text("class Local:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    handler, reason = import_handler(unpackaged("oip_test_local:Local"))
    del sys.modules["oip_test_local"]
    assert reason is None
    assert handler.__name__ == "Local"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import oip_no_such_module", "ModuleNotFoundError: No module named"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("1 +", "SyntaxError: "),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("", "AttributeError: module"),
    ],
    ids=["import error", "raises", "syntax", "exit", "no such class"],
)
def test_failed_import_is_a_reason_and_is_logged(
    text: str, expected: str, module: Module, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason gives the exception; the log adds the traceback and distribution."""
    name = module(text)
    loose = unpackaged(f"{name}:Handler")
    broken = HandlerEntry("broken", loose.target, loose.load, "broken-dist", "3.2.1")
    with caplog.at_level(logging.ERROR, logger="oip_host"):
        handler, reason = import_handler(broken)
    assert handler is None
    assert reason is not None
    assert reason.startswith(f"{name}:Handler failed to import: {expected}")
    logged = caplog.text
    assert f"handler 'broken' ({name}:Handler, broken-dist 3.2.1)" in logged
    assert "Traceback (most recent call last)" in logged
    assert expected.split(":")[0] in logged


def test_interrupt_during_an_import_propagates() -> None:
    """Ctrl-C during an import ends the host."""

    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_handler(HandlerEntry("slow", "slow:Handler", interrupted))
