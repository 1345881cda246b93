"""The documents as tests read them: their tables, headings and blocks.

A fenced block runs by its language, in the order of its document, all in one directory:
`python` in this process, or written to the file that its first line names; `sh` as a
real command, where a line with `oip-host serve` starts a server for the later `curl`
lines; `json` and `text` are the output of the `sh` block before them, with `...` for
any text. A comment before a block states an exception: `<!-- not run: reason -->`,
`<!-- exits with 2 -->`.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.process import Server, run

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
INSTALL = (
    *("-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
    *("--no-build-isolation", "--target", "site", "."),
)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def tables(name: str) -> dict[str, list[list[str]]]:
    """Return the rows of each table of a page, by its first two column names."""
    found: dict[str, list[list[str]]] = {}
    for part in re.findall(r"(?:^\|.*\n)+", page(name), re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
        )
        found.setdefault("|".join(head[:2]), []).extend(rows)
    return found


def cases(name: str, columns: str) -> pytest.MarkDecorator:
    """Return the rows of a table as cases of a test, named by their first cells."""
    rows = tables(name)[columns]
    return pytest.mark.parametrize(("cell", "shown"), rows, ids=[r[0] for r in rows])


def plain(cell: str) -> str:
    """Return a cell of one piece of code without its backticks."""
    return cell.removeprefix("`").removesuffix("`")


def quoted(cell: str) -> list[str]:
    """Return the pieces of code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """Return the names by which links find the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"\s+", "-", word) for word in words}


DATA = {"toml", "properties", "yaml", "dockerfile"}
"""The languages of what is shown, and neither run nor compared here."""
_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>not run: .+?|exits with \d+) -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# (?P<path>[\w/.-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block and the line of its document where its text begins."""

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
    """A reader who follows a document literally, in one directory."""

    path: Path
    directory: Path
    serve: Callable[..., Server]
    names: dict[str, Any] = field(default_factory=dict)
    server: Server | None = None
    output: subprocess.CompletedProcess[str] | None = None

    def follow(self, block: Block) -> None:
        """Do what the block says; raise AssertionError if its text is not true."""
        title = _FILE.match(block.text)
        if block.note.startswith("not run"):
            return
        if title:
            file = self.directory / title["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
        getattr(self, f"_{block.language}", self._nothing)(block, title)

    def _nothing(self, block: Block, title: re.Match[str] | None) -> None:
        assert block.language in DATA, block

    def _python(self, block: Block, title: re.Match[str] | None) -> None:
        if title:
            sys.modules.pop(Path(title["path"]).stem, None)
            runpy.run_path(str(self.directory / title["path"]))
            return
        lines = (
            "\n" * (block.line - 1) + block.text
        )  # so that tracebacks have the document's lines
        exec(compile(lines, self.path, "exec"), self.names)

    def _sh(self, block: Block, title: re.Match[str] | None) -> None:
        if "oip-host serve" in block.text:
            self._start(block.text)
            return
        text = block.text
        if self.server is not None:
            text = text.replace("localhost:8080", f"127.0.0.1:{self.server.http_port}")
        # into its own directory, so that the environment of the tests does not change
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
        """Compare but for spaces, with `...` for any text."""
        self.output = None
        pieces = [r"\s+".join(map(re.escape, p.split())) for p in want.split("...")]
        same = re.fullmatch(r"\s*.*?\s*".join(pieces), got.strip(), re.DOTALL)
        assert same, f"{self.path}:{block.line}: the answer was\n{got}"
