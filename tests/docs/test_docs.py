"""Tests of the documentation: what it lists is complete, and what it shows runs."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import oip_handler
import oip_host
from oip_handler import handler
from oip_host import hookspecs
from oip_host.cli import app as cli
from oip_host.config import selection as grammar
from oip_host.config.model_options import ModelOptions
from oip_host.config.settings import MODELS_DESCRIPTION, Settings
from oip_host.config.sources import MODELS, flag
from oip_host.hookspecs import HandlerEntry, Inference, StateChange
from oip_host.kserve.api import kserve
from oip_host.plugins.choice import choose
from support import pictures
from support.documents import (
    PAGES,
    ROOT,
    TEXTS,
    Reader,
    anchors,
    blocks,
    cases,
    name_of,
    page,
    plain,
    quoted,
    tables,
)
from support.process import Server, clean_environment, run
from support.process import oip_host as command


@pytest.fixture
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules are importable, and unloaded afterwards."""
    for name in clean_environment().keys() ^ os.environ.keys():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_blocks_of_a_document_work_as_shown(
    path: Path, in_directory: Path, serve: Callable[..., Server]
) -> None:
    """Following a document block by block gives the output that it shows."""
    if path.name == "tracing.md":  # missing beside Ray with the oldest kserve
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    reader = Reader(path, in_directory, serve)
    for block in blocks(path):
        reader.follow(block)
    assert reader.server is not None or path.name != "README.md"


# -- what the tables list -----------------------------------------------------


def option_rows(model: type[BaseModel], prefixes: tuple[str, str]) -> Any:
    """Yield the rows of the table of a class of options."""
    argument, variable = prefixes
    for name, option in model.model_fields.items():
        default = option.get_default(call_default_factory=True)
        below = ".<setting>" if name == "settings" else ""
        yield [
            f"`{name}`",
            f"`{argument}{name}{below}`" if argument else f"`{flag(name)}`",
            f"`{variable}{name.upper()}{below.replace('.', '__').upper()}`",
            f"`{default}`",
            option.description,
        ]


def test_every_option_is_listed_as_declared() -> None:
    """Names, defaults and descriptions of the options are those in the code."""
    of_a_model = ("--models.<name>.", "OIP_MODELS__<NAME>__")
    assert tables("configuration.md")["option|argument"] == [
        *option_rows(Settings, ("", "")),
        [
            f"`{MODELS}`",
            f"`{flag(MODELS)}`",
            f"`{MODELS.upper()}`",
            "`{}`",
            MODELS_DESCRIPTION,
        ],
        *option_rows(ModelOptions, of_a_model),
    ]


def test_kserve_arguments_have_the_defaults_shown() -> None:
    """The listed defaults of KServe's arguments are those of the installed KServe."""
    defaults = {
        name: action.default
        for action in kserve.model_server.parser._actions
        for name in action.option_strings
    }
    for arguments, default, _ in tables("configuration.md")["argument|default"]:
        for name in quoted(arguments):
            if name in defaults and default:
                assert plain(default) == str(defaults[name] or "none"), name


def test_every_hook_has_a_section_with_its_signature() -> None:
    """Each hook of `hookspecs` has a section with its signature and an example."""
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("oip_")}
    text = page("extensions.md")
    assert re.findall(r"^## (oip_\w+)$", text, re.MULTILINE) == list(hooks)
    for name, hook in hooks.items():
        signature = str(inspect.signature(hook)).replace("'", "")
        assert f"```text\n{name}{signature}\n```" in text
        assert re.search(rf"@hookimpl\s+def {name}\(", text), f"no example of {name}"


def test_every_field_of_a_record_is_listed() -> None:
    """The tables of the records list each field with its type, in order."""
    expected = [
        [f"`{part.name}`", " or ".join(f"`{kind}`" for kind in part.type.split(" | "))]
        for record in (HandlerEntry, StateChange, Inference)
        for part in fields(record)
    ]
    rows = tables("extensions.md")["field|type"]
    assert [row[:2] for row in rows] == expected


def test_every_command_is_listed() -> None:
    """Each command has a section and a table row on its page."""
    app = typer.Typer()
    cli.Commands().oip_commands(app)
    names = [
        f"oip-host {c.name or c.callback.__name__}"
        for c in app.registered_commands
        if c.callback is not None
    ]
    text = page("commands.md")
    assert [plain(row[0]) for row in tables("commands.md")["command|does"]] == names
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == names


@pytest.mark.parametrize("name", ["list", "check"])
def test_every_key_of_the_json_output_is_listed(name: str) -> None:
    """The output of `--json` has exactly the keys in the table."""
    document = json.loads(command(name, "--json", "--handlers=fakes:Echo").stdout)
    printed = {
        f"{outer}[].{key}"
        for outer, rows in document.items()
        for row in rows
        for key in row
    }
    listed = {k for row in tables("commands.md")["key|type"] for k in quoted(row[0])}
    assert {k for k in listed if k.split("[]")[0] in {*document} - {k}} == printed


def test_every_public_name_is_listed() -> None:
    """The table lists exactly the names in `oip_host.__all__`."""
    rows = tables("architecture.md")["names|are"]
    assert sorted(name for row in rows for name in quoted(row[0])) == oip_host.__all__


def test_public_names_match_and_resolve() -> None:
    """The exported names are those that type checkers see, and all of them resolve."""
    tree = ast.parse(inspect.getsource(oip_host))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [
        alias.name
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(imported) == oip_host.__all__
    for name in oip_host.__all__:
        home = import_module(oip_host._HOME_OF[name])
        assert getattr(oip_host, name) is getattr(home, name)
        assert name in home.__all__


@pytest.mark.parametrize("path", [p for p in TEXTS if p.name != "migration.md"])
def test_handler_examples_import_only_the_contract(path: Path) -> None:
    """Examples import the names of `oip_handler` from there, as plugins have to."""
    for block in blocks(path):
        if block.language != "python" or block.note.startswith("not run"):
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module == "oip_host":
                names = {alias.name for alias in node.names}
                assert names.isdisjoint(oip_handler.__all__), f"{path}:{block.line}"


def test_tutorial_mentions_every_method_of_a_handler() -> None:
    """The tutorial mentions each method of the contract."""
    names = [name for name in vars(handler.ModelHandler) if not name.startswith("_")]
    assert names
    assert [name for name in names if name not in page("first-handler.md")] == []


def test_layers_listed_match_the_import_contract() -> None:
    """The page lists the layers that `lint-imports` enforces, in their order."""
    text = (ROOT / "pyproject.toml").read_text()
    contract, edge, *_ = re.findall(r"^layers = \[\n(.*?)^\]", text, re.M | re.S)
    rows = tables("architecture.md")["layer|folders"]
    assert re.findall(r"\w+", contract) == [n for row in rows for n in quoted(row[1])]
    rows = tables("architecture.md")["layer of the edge|folders"]
    assert re.findall(r"\w+", edge) == [n for row in rows for n in quoted(row[1])]


# -- what the page on selection says ------------------------------------------

OFFERED = [
    HandlerEntry("iris", "x:Iris", dict, "oip-handler-sklearn", "0.1.0"),
    HandlerEntry("onnx", "x:Onnx", dict, "oip-handler-onnx", "0.1.0"),
    HandlerEntry("sklearn", "x:Sklearn", dict, "oip-handler-sklearn", "0.1.0"),
]


def selected(cell: str) -> tuple[list[str], list[str]]:
    """Return the models and faults of a selection as written on the page."""
    offered = OFFERED
    if "flowers 2.0" in cell:
        offered = [HandlerEntry("iris", "y:Iris", dict, "flowers", "2.0"), *OFFERED]
    text = {"*unset*": None, "*empty*": ""}.get(cell, "".join(quoted(cell)[:1]))
    wanted, malformed = grammar.parse(text)
    choices, wrong = choose(wanted, offered)
    return [str(choice.item) for choice in choices], malformed + wrong


@cases("selection.md", "`OIP_HANDLERS`|models")
def test_selection_selects_the_models_shown(cell: str, shown: str) -> None:
    """Each example selects its models, without a fault."""
    assert selected(cell) == (quoted(shown), [])


@cases("selection.md", "`OIP_HANDLERS`|fault")
def test_invalid_selection_has_the_fault_shown(cell: str, shown: str) -> None:
    """Each invalid example gives exactly its fault."""
    assert selected(cell)[1] == [plain(shown)]


def test_grammar_shown_matches_the_code() -> None:
    """The page shows the grammar in the module's docstring."""
    shown = re.search(r"    selection.*?Class\n", grammar.__doc__ or "", re.DOTALL)
    assert shown is not None
    assert inspect.cleandoc(" \n" + shown[0]) in page("selection.md")


MODELS_WITH_FAULTS = """
class NoDevice:
    def __init__(self): raise RuntimeError("no device")
class Empty: pass
class Raises:
    def infer(self, *_): return None
    def model_metadata(self, *_): return None
    def model_load(self, name): raise FileNotFoundError("no weights here")
class LoadFalse(Raises):
    def model_load(self, name): return False
WEIGHTS = {}
"""


def test_model_fault_has_the_reason_shown(in_directory: Path) -> None:
    """Each model fault in the table has the reason that `check` gives."""
    (in_directory / "models.py").write_text(MODELS_WITH_FAULTS)
    names = ["nowhere:Fraud", "WEIGHTS", "NoDevice", "Empty", "Raises", "LoadFalse"]
    handlers = ",".join(n if ":" in n else f"models:{n}" for n in names)
    program = str(Path(sys.executable).parent / "oip-host")
    done = run(program, "check", "--json", f"--handlers={handlers}", cwd=in_directory)
    reasons = [model["reason"] for model in json.loads(done.stdout)["models"]]
    rows = tables("selection.md")["fault|reason"]
    assert [plain(reason) for _, reason in rows] == reasons


# -- the pages themselves -----------------------------------------------------


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_within_the_repository_resolve(path: Path) -> None:
    """Each link leads to an existing file and to a heading in it."""
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text()):
        target, _, heading = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert not heading or heading in anchors(file), link


ROOTS = [ROOT, ROOT / "src" / "oip_host", ROOT / "handler" / "src"]


def test_contributing_names_only_what_exists() -> None:
    """The table of additions names files that exist, and names that are in them."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## To add")[2]
    rows = re.findall(r"^\| (?!what|---)(.*) \|$", text, re.MULTILINE)
    assert len(rows) > 8
    for cell in (cell for row in rows for cell in row.split(" | ")):
        names = [name for name in quoted(cell) if re.fullmatch(r"[\w./]+", name)]
        files = {n for n in names if n.endswith((".py", ".md", ".toml", ".proto", "/"))}
        paths = [root / n for n in files for root in ROOTS if (root / n).exists()]
        assert len(paths) >= len(files), cell
        known = "".join(path.read_text() for path in paths if path.is_file())
        if known:
            assert [] == [n for n in names if n not in files and n not in known], cell


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning fails the build."""
    pytest.importorskip("zensical", reason="the extra 'docs' is not installed")
    directory = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "mkdocs.yml", directory)
    shutil.copytree(ROOT / "docs", directory / "docs")
    for name in ("src", "handler"):
        (directory / name).symlink_to(ROOT / name)
    done = run(sys.executable, "-m", "zensical", "build", "--strict", cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "site"


def test_site_builds_every_page(site: Path) -> None:
    """The site has every page, and builds without warnings."""
    for page_ in PAGES:
        assert (site / page_.stem).exists() or page_.stem == "index"


def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    """The scripts, styles, fonts and images of each page are part of the site."""
    loads = re.compile(
        r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^ >]+"
    )
    for file in site.rglob("*.html"):
        assert [] == loads.findall(file.read_text()), file
    for file in site.rglob("*.css"):
        assert [] == re.findall(r"url\([\"']?(?:https?:)?//", file.read_text()), file


@pytest.mark.parametrize(
    ("name", "package"), [("api-handler", oip_handler), ("api-host", oip_host)]
)
def test_every_public_name_is_in_the_reference(
    site: Path, name: str, package: Any
) -> None:
    """Each name of `__all__` has an entry in the API reference."""
    html = (site / name / "index.html").read_text()
    names = {*package.__all__} - (
        {*oip_handler.__all__} if name == "api-host" else set()
    )
    assert {n for n in names if f'id="{package.__name__}.{n}"' not in html} == set()


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_up_to_date(name: str) -> None:
    """`make pictures` would change nothing."""
    drawn = (ROOT / "docs" / "pictures" / name).read_text()
    assert pictures.PICTURES[name]() == drawn


def test_readme_names_the_supported_versions() -> None:
    """The versions of Python and kserve are those in `pyproject.toml`."""
    project = (ROOT / "pyproject.toml").read_text()
    readme = (ROOT / "README.md").read_text()
    (kserves,) = re.findall(r'"(kserve[>=<.,\d]+)"', project)
    pythons = re.findall(r"Python :: (3\.\d+)", project)
    assert f"`{kserves}`" in readme
    assert f"Python {pythons[0]} to {pythons[-1]}" in readme
