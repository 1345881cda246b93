"""What the page for whoever is on call tells of, is there, and all of it is told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import oip_host
from oip_handler import errors
from support.documents import page, plain, quoted, tables
from support.queries import ALERTS

PAGE = "operations.md"
SOURCE = Path(oip_host.__file__).parent
FILLED = {
    "no oip.properties in": 'f"no {PROPERTIES} in ',
    "the certificate expires on": "the certificate %s on",
}
"""What a row has in the place of a gap, and the code beside it."""


def test_every_alert_has_its_section() -> None:
    """There is one for each rule that alerts, in their order, and no other."""
    rules = [rule["alert"] for rule in ALERTS]
    assert rules == re.findall(r"^### Alert (\S+)$", page(PAGE), re.MULTILINE)


def test_every_error_is_told() -> None:
    """With its status, as the table of the tree has it."""
    tree = {
        plain(name): int(status)
        for name, _, status, *_ in tables("errors.md")["class|below"]
    }
    told = {
        name: int(status)
        for names, status, _ in tables(PAGE)["class|status"]
        for name in quoted(names)
    }
    assert tree == told
    assert {n for n in told if isinstance(getattr(errors, n), type)} == set(told)


def logged() -> Iterator[tuple[str, str]]:
    """Each line from WARNING on, by its module, as the code has it."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            ):
                continue
            is_log = (
                isinstance(node.func.value, ast.Name) and node.func.value.id == "log"
            )
            if is_log and node.func.attr in ("warning", "error", "exception"):
                text = node.args[0]
                assert isinstance(text, ast.Constant), path
                yield path.name, str(text.value)


def pieces(line: str, gap: str) -> list[str]:
    """What is always the same of a line, where it is more than a word."""
    return [p for part in re.split(gap, line) if len(p := part.strip(" '\":;,()")) > 8]


def test_every_line_from_warning_on_is_told() -> None:
    """Each has its row, by what is always the same of it; and each row its line."""
    rows = [cell for cells, *_ in tables(PAGE)["line|means"] for cell in quoted(cells)]
    code = list(logged())
    untold = [
        (module, line)
        for module, line in code
        for piece in pieces(line, r"%\w+|\n| in oip_inference")
        if not any(piece in row for row in rows)
    ]
    assert [] == untold
    sources = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    told = [piece for row in rows for piece in pieces(row, "…|N ")]
    assert [] == [piece for piece in told if FILLED.get(piece, piece) not in joined]
