"""The pictures of docs/architecture.md, drawn as SVG: `make pictures` writes them.

The layers come from the import contract in pyproject.toml and their descriptions from
the page, so that the picture agrees with both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #1f2328; }
.code { font: 13px ui-monospace, monospace; }
.small { font-size: 12px; fill: #57606a; }
.box { fill: #e8edfb; stroke: #5b72c4; }
.own { fill: #fdf1dc; stroke: #c78a2c; }
.end { fill: #fbe4e4; stroke: #b85450; }
.line { stroke: #57606a; fill: none; stroke-width: 1.5; marker-end: url(#tip); }
.paper { fill: #ffffff; stroke: #d0d7de; }
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"
 markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#57606a"/></marker>
</defs>
"""


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a picture with its own background, readable in dark mode too."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}">\n{STYLE}'
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1}" '
        f'height="{height - 1}" rx="8"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def box(
    x: int, y: int, width: int, label: str, below: str = "", kind: str = "box"
) -> str:
    """Return a box 32 high, or 48 with a second line, with its text centred."""
    height = 48 if below else 32
    middle = x + width / 2
    lines = [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" '
        'rx="5"/>',
        f'<text class="code" x="{middle}" y="{y + 21}" text-anchor="middle">'
        f"{escape(label)}</text>",
    ]
    if below:
        lines.append(
            f'<text class="small" x="{middle}" y="{y + 38}" text-anchor="middle">'
            f"{escape(below)}</text>"
        )
    return "\n".join(lines)


def text(x: int, y: int, words: str, anchor: str = "start") -> str:
    """Return a small line of text."""
    return (
        f'<text class="small" x="{x}" y="{y}" text-anchor="{anchor}">'
        f"{escape(words.replace('`', ''))}</text>"
    )


def arrow(*points: tuple[int, int]) -> str:
    """Return a line through the points, with a tip at the last."""
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path class="line" d="M{path}"/>'


def contract_layers() -> list[list[str]]:
    """Return the folders of each layer, from the top, in pyproject.toml's order."""
    text_ = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^layers = \[\n(.*?)^\]", text_, re.MULTILINE | re.DOTALL)
    assert found is not None
    return [re.findall(r"\w+", line) for line in found[1].splitlines()]


def descriptions() -> dict[str, str]:
    """Return the page's description of each layer, by its first folder."""
    rows = re.findall(
        r"^\| ([^|]+) \| `(\w+)`[^|]* \|$",
        (DOCS / "architecture.md").read_text(),
        re.MULTILINE,
    )
    return {folder: words for words, folder in reversed(rows)}


def layers() -> str:
    """Return the folders of the host as layers, with the contract below them."""
    rows, said = contract_layers(), descriptions()
    parts = [text(20, 28, "imports point downward")]
    parts.append(arrow((170, 16), (170, 34)))
    y = 44
    for folders in rows:
        x = 20
        for folder in folders:
            width = 26 + 9 * len(folder)
            parts.append(box(x, y, width, folder))
            x += width + 10
        parts.append(text(330, y + 21, said[folders[0]]))
        y += 40
    parts.append(box(20, y + 12, 290, "oip_handler", kind="own"))
    parts.append(
        text(330, y + 33, "the contract with a plugin: a distribution of its own")
    )
    parts.append(arrow((100, y - 8), (100, y + 10)))
    parts.append(box(20, y + 74, 290, "oip_handler_sklearn, yours, …", kind="own"))
    parts.append(text(330, y + 95, "plugins: they import the contract, never the host"))
    parts.append(arrow((100, y + 74), (100, y + 46)))
    return svg(900, y + 126, "The folders of oip_host as layers", parts)


def request() -> str:
    """Return the way of one request through the folders, and back."""
    steps = [
        ("edge/transport", "bytes → request"),
        ("edge/rest", "route, decode"),
        ("models", "find, admit, count"),
        ("lanes", "queue, thread, time"),
        ("boundary", "check, call, check"),
        ("your infer", "arrays in and out"),
    ]
    parts = [text(20, 32, "client")]
    x = 20
    for at, (label, below) in enumerate(steps):
        kind = "own" if at > 3 else "box"
        parts.append(box(x, 56, 138, label, below, kind))
        if at:
            parts.append(arrow((x - 18, 80), (x - 2, 80)))
        x += 156
    parts.append(arrow((40, 38), (40, 54)))
    parts.append(arrow((869, 106), (869, 140), (40, 140), (40, 106)))
    parts.append(
        text(480, 132, "the same folders, backwards: check, encode, write", "middle")
    )
    parts.append(text(20, 180, "blue: oip_host; orange: oip_handler and your plugin"))
    parts.append(
        text(940, 180, "gRPC: edge/grpc for edge/rest; V1: edge/kserve_app", "end")
    )
    return svg(960, 196, "One request through the folders", parts)


def option() -> str:
    """Return the way of one option from its source to its uses."""
    sources = ["argument", "environment", "oip.properties", "default"]
    parts = []
    for at, source in enumerate(sources):
        parts.append(box(20, 20 + 38 * at, 150, source))
        parts.append(arrow((170, 36 + 38 * at), (238, 92)))
    parts.append(box(240, 68, 150, "config", "read once, checked"))
    parts.append(arrow((390, 92), (438, 92)))
    parts.append(box(440, 68, 170, "host/assemble", "one frozen object"))
    for at, (label, below) in enumerate(
        [("models", "ModelOptions"), ("edge", "Settings"), ("manifests", "variables")]
    ):
        parts.append(arrow((610, 92), (678, 44 + 60 * at)))
        parts.append(box(680, 20 + 60 * at, 150, label, below))
    return svg(850, 206, "One option from its source to where it holds", parts)


def life() -> str:
    """Return the states of a model and the calls that change them."""
    parts = [
        box(20, 60, 130, "LOADING"),
        box(300, 60, 130, "READY"),
        box(580, 60, 140, "UNLOADING"),
        box(300, 150, 130, "UNAVAILABLE", kind="end"),
        arrow((150, 76), (298, 76)),
        text(224, 68, "model_load", "middle"),
        arrow((430, 76), (578, 76)),
        text(504, 68, "unload", "middle"),
        arrow((85, 92), (85, 166), (298, 166)),
        text(100, 186, "False or an exception"),
        arrow((650, 92), (650, 166), (432, 166)),
        text(540, 184, "model_unload"),
        arrow((330, 150), (330, 130), (120, 130), (120, 94)),
        text(222, 124, "load", "middle"),
        arrow((400, 58), (400, 30), (330, 30), (330, 58)),
        text(365, 22, "reload: the new instance takes over", "middle"),
    ]
    return svg(760, 204, "The life of a model", parts)


PICTURES = {
    "layers.svg": layers,
    "request.svg": request,
    "option.svg": option,
    "model-life.svg": life,
}


def main() -> None:
    """Write every picture into docs/pictures."""
    (DOCS / "pictures").mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (DOCS / "pictures" / name).write_text(draw())


if __name__ == "__main__":
    main()
