"""The operations page describes every alert, error and log line, and no others."""

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


def test_every_alert_has_a_section() -> None:
    """The page has one section for each alert, in the order of the rules."""
    rules = [rule["alert"] for rule in ALERTS]
    assert rules == re.findall(r"^### Alert (\S+)$", page(PAGE), re.MULTILINE)


def test_every_error_is_listed() -> None:
    """Each error class is listed with its status, as in `errors.md`."""
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
    """Yield the file name and text of each log line from WARNING on."""
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
    """Return the fixed parts of a line that are longer than a word."""
    return [p for part in re.split(gap, line) if len(p := part.strip(" '\":;,()")) > 8]


def test_every_log_line_from_warning_on_is_listed() -> None:
    """Each log line has a row on the page, and each row a log line."""
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
