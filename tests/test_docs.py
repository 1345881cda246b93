"""Documentation is a test: what it lists is complete, and what it shows runs.

A fenced block runs by its language, in the order of its document, all in one directory:
`python` in this process, or written to the file that its first line names; `sh` as a
real command, where a line with `oip-host serve` starts a server that later `curl` lines
ask at its own port; `json` and `text` are what the `sh` block before them printed, with
`...` for anything. A comment before a block says what it does not do: `<!-- not run:
reason -->`, `<!-- exits with 2 -->`.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from pydantic import BaseModel

import oip_host
from oip_host import boundary, cli, errors, handler, hookspecs, observers, plugins
from oip_host import selection as grammar
from oip_host.edge import rest
from oip_host.hookspecs import HandlerEntry, Inference, StateChange
from oip_host.kserve_api import kserve
from oip_host.options import ModelOptions
from oip_host.settings import Settings
from oip_host.sources import MODELS, flag
from support.process import Server, clean_environment, run
from support.process import oip_host as command

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
INSTALL = (
    *("-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
    *("--no-build-isolation", "--target", "site", "."),
)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def tables(name: str) -> dict[str, list[list[str]]]:
    """The rows of each table of a page, by the name of its first two columns."""
    found: dict[str, list[list[str]]] = {}
    for part in re.findall(r"(?:^\|.*\n)+", page(name), re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
        )
        found.setdefault("|".join(head[:2]), []).extend(rows)
    return found


def cases(name: str, columns: str) -> pytest.MarkDecorator:
    """The rows of a table as the cases of a test, each by its first cell."""
    rows = tables(name)[columns]
    return pytest.mark.parametrize(("cell", "shown"), rows, ids=[r[0] for r in rows])


def plain(cell: str) -> str:
    """A cell that is one piece of code, without its backticks."""
    return cell.removeprefix("`").removesuffix("`")


def quoted(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- blocks -------------------------------------------------------------------

_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>not run: .+?|exits with \d+) -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# (?P<path>[\w/.-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block and the line of its document at which its text begins."""

    language: str
    text: str
    line: int
    note: str


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    found = [
        Block(
            match["language"],
            match["text"],
            text.count("\n", 0, match.start("text")) + 1,
            match["note"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
    assert 2 * len(found) == len(re.findall(r"^\s*```", text, re.MULTILINE))
    return found


@dataclass
class Reader:
    """Somebody who follows a document to the letter, in one directory."""

    path: Path
    directory: Path
    serve: Callable[..., Server]
    names: dict[str, Any] = field(default_factory=dict)
    server: Server | None = None
    output: subprocess.CompletedProcess[str] | None = None

    def follow(self, block: Block) -> None:
        """Do what the block says; AssertionError where it is not true."""
        title = _FILE.match(block.text)
        if block.note.startswith("not run"):
            return
        if title:
            file = self.directory / title["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
        getattr(self, f"_{block.language}", self._nothing)(block, title)

    def _nothing(self, block: Block, title: re.Match[str] | None) -> None:
        assert block.language in {"toml", "properties", "yaml"}, block

    def _python(self, block: Block, title: re.Match[str] | None) -> None:
        if title:
            sys.modules.pop(Path(title["path"]).stem, None)
            runpy.run_path(str(self.directory / title["path"]))
            return
        lines = "\n" * (block.line - 1) + block.text  # for true lines in tracebacks
        exec(compile(lines, self.path, "exec"), self.names)

    def _sh(self, block: Block, title: re.Match[str] | None) -> None:
        if "oip-host serve" in block.text:
            self._start(block.text)
            return
        text = block.text
        if self.server is not None:
            text = text.replace("localhost:8080", f"127.0.0.1:{self.server.http_port}")
        # as a directory of its own, so that the environment of the tests stays as it is
        text = text.replace("pip install .", f"{sys.executable} {' '.join(INSTALL)}")
        expected = int(block.note.rpartition(" ")[2]) if block.note else 0
        self.output = run(
            "bash", "-ec", text, env=self._environment, cwd=self.directory
        )
        assert self.output.returncode == expected, self.output

    def _start(self, text: str) -> None:
        if self.server is not None:
            self.server.stop()
        script = text.rstrip().replace("oip-host serve", "exec oip-host serve")
        program = ("bash", "-ec", f'{script} "$@"', "bash")
        self.server = self.serve(
            program=program, env=self._environment, cwd=self.directory
        ).wait_until_ready()

    @property
    def _environment(self) -> dict[str, str]:
        paths = [str(self.directory), str(self.directory / "site")]
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "COLUMNS": "80",
        }

    def _json(self, block: Block, title: re.Match[str] | None) -> None:
        want = json.dumps(json.loads(block.text), indent=1)
        if self.output is not None:
            got = json.dumps(json.loads(self.output.stdout), indent=1)
            self._same(block, re.sub(r'"\.\.\."(,\n)?', "...", want), got)

    def _text(self, block: Block, title: re.Match[str] | None) -> None:
        if self.output is not None:
            self._same(block, block.text, self.output.stdout + self.output.stderr)

    def _same(self, block: Block, want: str, got: str) -> None:
        """Compare, whatever the spaces, with `...` in the place of anything."""
        self.output = None
        pieces = [r"\s+".join(map(re.escape, p.split())) for p in want.split("...")]
        same = re.fullmatch(r"\s*.*?\s*".join(pieces), got.strip(), re.DOTALL)
        assert same, f"{self.path}:{block.line}: the answer was\n{got}"


@pytest.fixture
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules import, and are forgotten afterwards."""
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
def test_the_blocks_of_a_document_do_what_they_show(
    path: Path, in_directory: Path, serve: Callable[..., Server]
) -> None:
    """Whoever follows a document gets, block by block, the answers that it shows."""
    reader = Reader(path, in_directory, serve)
    for block in blocks(path):
        reader.follow(block)
    assert reader.server is not None or path.name != "README.md"


# -- what the tables list -----------------------------------------------------


def option_rows(model: type[BaseModel], prefixes: tuple[str, str, str]) -> Any:
    """What the table of a class of options has to say."""
    argument, variable, dotted = prefixes
    for name, option in model.model_fields.items():
        default = option.get_default(call_default_factory=True)
        below = ".<setting>" if name == "settings" else ""
        yield [
            f"`{name}`",
            f"`{argument}{name}{below}`" if dotted else f"`{flag(name)}`",
            f"`{variable}{name.upper()}{below.replace('.', '__').upper()}`",
            "none" if name == MODELS else f"`{dotted}{name}{below}`",
            f"`{default}`",
            option.description,
        ]


def test_every_option_is_listed_as_it_is_declared() -> None:
    """Name, argument, variable, property, default and description are the code's."""
    of_a_model = ("--models.<name>.", "OIP_MODELS__<NAME>__", "models.<name>.")
    assert tables("configuration.md")["option|argument"] == [
        *option_rows(Settings, ("", "", "")),
        *option_rows(ModelOptions, of_a_model),
    ]


def test_kserves_arguments_have_the_defaults_shown() -> None:
    """What the page says of an argument of KServe's holds for the installed one."""
    defaults = {
        name: action.default
        for action in kserve.model_server.parser._actions
        for name in action.option_strings
    }
    for arguments, default, _ in tables("configuration.md")["argument|default"]:
        for name in quoted(arguments):
            if name in defaults and default:
                assert plain(default) == str(defaults[name] or "none"), name


def errors_in_order(base: type[Exception] = errors.OIPError) -> Iterator[Any]:
    yield base
    for below in base.__subclasses__():
        yield from errors_in_order(below)


def test_every_error_is_listed_with_its_statuses() -> None:
    """Class, parent, HTTP and gRPC status, surface and meaning are the code's."""
    assert tables("errors.md")["class|below"] == [
        [
            f"`{kind.__name__}`",
            "" if kind is errors.OIPError else f"`{kind.__base__.__name__}`",
            str(kind.http_status),
            f"`{kind.grpc_status}`",
            "yes" if kind.__name__ in oip_host.__all__ else "no",
            inspect.getdoc(kind),
        ]
        for kind in errors_in_order()
        if kind.__module__ == "oip_host.errors"
    ]
    assert "`ConfigurationError`" in page("errors.md")


@cases("errors.md", "raised in a handler|the client gets")
def test_a_handlers_exception_becomes_what_is_shown(cell: str, shown: str) -> None:
    """The client gets the status that the page says, and the text or none of it."""
    known = {**vars(builtins), **vars(kserve.errors), **vars(errors)}
    for name in quoted(cell) or ["RuntimeError"]:
        told = boundary.translate(known[name.split(".")[-1]]("the text"), "<name>")
        if "own statuses" not in shown:
            assert shown.startswith(f"{told.http_status}, `{told.grpc_status}`")
        assert "the text" in str(told) or str(told) == quoted(shown)[-1]
        assert ("the text" in str(told)) == (" text" in shown)


def test_every_grpc_status_exists() -> None:
    """The names of gRPC statuses in the error classes are grpc's."""
    for kind in errors_in_order():
        assert hasattr(grpc.StatusCode, kind.grpc_status)


def test_every_hook_has_a_section_with_its_signature() -> None:
    """The hooks of `hookspecs` are the sections, and their signatures are shown."""
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("oip_")}
    text = page("extensions.md")
    assert re.findall(r"^## (oip_\w+)$", text, re.MULTILINE) == list(hooks)
    for name, hook in hooks.items():
        signature = str(inspect.signature(hook)).replace("'", "")
        assert f"```text\n{name}{signature}\n```" in text
        assert re.search(rf"@hookimpl\s+def {name}\(", text), f"no example of {name}"


def test_every_field_of_a_record_is_listed() -> None:
    """The tables of the records have each field with its type, in order."""
    expected = [
        [f"`{part.name}`", " or ".join(f"`{kind}`" for kind in part.type.split(" | "))]
        for record in (HandlerEntry, StateChange, Inference)
        for part in fields(record)
    ]
    rows = tables("extensions.md")["field|type"]
    assert [row[:2] for row in rows] == expected


def test_every_command_is_listed() -> None:
    """The commands are the sections and the rows of their page."""
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
def test_every_key_of_a_commands_json_is_listed(name: str) -> None:
    """What `--json` prints has the keys of the table, and no others."""
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
    """The names of `oip_host.__all__` are those of the table."""
    rows = tables("architecture.md")["names|are"]
    assert sorted(name for row in rows for name in quoted(row[0])) == oip_host.__all__


def test_the_public_surface_is_frozen() -> None:
    """The names that are exported are those that type checkers see; all resolve."""
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
        home = import_module(f"oip_host.{oip_host._HOME_OF[name]}")
        assert getattr(oip_host, name) is getattr(home, name)
        assert name in home.__all__


def test_every_method_of_a_handler_is_told_of() -> None:
    """The tutorial has each method of the contract."""
    names = [name for name in vars(handler.ModelHandler) if not name.startswith("_")]
    assert names
    assert [name for name in names if name not in page("first-handler.md")] == []


def test_every_module_stands_in_its_layer() -> None:
    """The layers hold every module once, and imports point down the page."""
    source = ROOT / "src" / "oip_host"
    rows = tables("architecture.md")["layer|modules"]
    layers = [name for row in rows for name in quoted(row[1])]
    modules = {
        str(path.relative_to(source).with_suffix("")): path.read_text()
        for path in source.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(layers) == sorted(modules)
    for name, text in modules.items():
        for line in re.findall(r"^from oip_host(.*)$", text, re.MULTILINE):
            home, _, names = line.partition(" import ")
            home = home.lstrip(".").replace(".", "/")
            paths = {home, *(f"{home}/{n}".lstrip("/") for n in names.split(", "))}
            for below in paths & modules.keys():
                assert layers.index(name) < layers.index(below), (name, below)


def test_every_metric_is_listed() -> None:
    """The metrics have the names and labels of the table."""
    rows = tables("architecture.md")["metric|type"]
    shown = {
        plain(name).removesuffix("_total"): tuple(quoted(labels))
        for name, _, labels in rows
    }
    made = {c._name: tuple(c._labelnames) for c in observers._collectors()}
    assert shown == {**made, "request_predict_seconds": ("model_name",)}


def test_every_route_is_listed() -> None:
    """The paths and calls that the edges answer are those of the start page."""
    rows = tables("index.md")["REST|gRPC"]
    paths = {path.rstrip("/") for path in rest._SERVER_ROUTES}
    listed = {quoted(row[0])[0].partition(" ")[2] for row in rows}
    assert paths <= listed
    proto = (ROOT / "src" / "oip_host" / "edge" / "oip.proto").read_text()
    calls = {call for row in rows for call in quoted(row[1])}
    assert calls == set(re.findall(r"rpc (\w+)\(", proto))


# -- what the page on selection says ------------------------------------------

OFFERED = [
    HandlerEntry("iris", "x:Iris", dict, "oip-handler-sklearn", "0.1.0"),
    HandlerEntry("onnx", "x:Onnx", dict, "oip-handler-onnx", "0.1.0"),
    HandlerEntry("sklearn", "x:Sklearn", dict, "oip-handler-sklearn", "0.1.0"),
]


def selected(cell: str) -> tuple[list[str], list[str]]:
    """The models and the faults of a selection as the page writes it."""
    offered = OFFERED
    if "flowers 2.0" in cell:
        offered = [HandlerEntry("iris", "y:Iris", dict, "flowers", "2.0"), *OFFERED]
    text = {"*unset*": None, "*empty*": ""}.get(cell, "".join(quoted(cell)[:1]))
    wanted, malformed = grammar.parse(text)
    choices, wrong = plugins.choose(wanted, offered)
    models = [
        f"{c.item.model}@{c.item.version}{'?' if c.item.optional else ''}"
        for c in choices
    ]
    return models, malformed + wrong


@cases("selection.md", "`OIP_HANDLERS`|models")
def test_a_selection_means_the_models_shown(cell: str, shown: str) -> None:
    """Each example selects its models, and has no fault."""
    assert selected(cell) == (quoted(shown), [])


@cases("selection.md", "`OIP_HANDLERS`|fault")
def test_a_wrong_selection_has_the_fault_shown(cell: str, shown: str) -> None:
    """Each wrong example has its fault, word by word."""
    assert selected(cell)[1] == [plain(shown)]


def test_the_grammar_shown_is_the_codes() -> None:
    """The page has the grammar of the module's docstring."""
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


def test_a_models_fault_has_the_reason_shown(in_directory: Path) -> None:
    """Each fault of a model in the table is the reason that `check` gives."""
    (in_directory / "models.py").write_text(MODELS_WITH_FAULTS)
    names = ["nowhere:Fraud", "WEIGHTS", "NoDevice", "Empty", "Raises", "LoadFalse"]
    handlers = ",".join(n if ":" in n else f"models:{n}" for n in names)
    program = str(Path(sys.executable).parent / "oip-host")
    done = run(program, "check", "--json", f"--handlers={handlers}", cwd=in_directory)
    reasons = [model["reason"] for model in json.loads(done.stdout)["models"]]
    rows = tables("selection.md")["fault|reason"]
    assert [plain(reason) for _, reason in rows] == reasons


# -- the pages themselves -----------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The names by which a link finds the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"\s+", "-", word) for word in words}


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_within_the_repository_resolve(path: Path) -> None:
    """Each link leads to a file that exists, and to a heading in it."""
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text()):
        target, _, heading = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert not heading or heading in anchors(file), link


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed"
)
def test_the_pages_build(tmp_path: Path) -> None:
    """mkdocs builds every page, and warns of nothing."""
    done = run(
        sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet",
        "--site-dir", str(tmp_path), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page_ in PAGES:
        assert (tmp_path / page_.stem).exists() or page_.stem == "index"


def test_the_readme_names_the_versions_that_are_supported() -> None:
    """Pythons and the range of kserve are those of `pyproject.toml`."""
    project = (ROOT / "pyproject.toml").read_text()
    readme = (ROOT / "README.md").read_text()
    (kserves,) = re.findall(r'"(kserve[>=<.,\d]+)"', project)
    pythons = re.findall(r"Python :: (3\.\d+)", project)
    assert f"`{kserves}`" in readme
    assert f"Python {pythons[0]} to {pythons[-1]}" in readme
