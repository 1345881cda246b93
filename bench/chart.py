"""The chart of the page: server CPU a request as a multiple of the floor."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import Results
from bench.servers import FLOOR, HOST, PEERS
from bench.summary import loads_of, of_load
from bench.tables import digits, plural

__all__ = ["draw"]

INK, PAPER = "#010203", "#fcfdfe"
"""Stand for the two colours that follow the reader's light or dark mode."""
MODES = """<style>
svg { --ink: #1f2328; --paper: #ffffff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --paper: #0d1117; } }
</style>"""
PALETTE = ["#1a7f5a", "#c9651b", "#4a7fd6", "#a05ab5"]
COLOURS = dict(zip([HOST.name, *PEERS], PALETTE, strict=True))
STYLE: Any = {
    "svg.fonttype": "none",  # text is text
    "svg.hashsalt": "oip-host",  # the same names in each drawing
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
BAR = 0.18
"""The height of a bar, in inches."""


def draw(results: Results) -> str:
    """Return an SVG; the same results make the same text."""
    servers = [name for name in results.about.packages if name != FLOOR.name]
    loads = loads_of(results, "cpu")
    height = 1.0 + BAR * len(loads) * (len(servers) + 1)
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, height), facecolor=PAPER, layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor(PAPER)
        for place, server in enumerate(servers):
            _bars(axes, results, server, place, len(servers))
        labels = [f"{w.name}, {plural(clients, 'client')}" for w, clients in loads]
        _scales(axes, labels)
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", metadata=nothing)
    return _in_both_modes(written.getvalue())


def _bars(axes: Axes, results: Results, server: str, place: int, servers: int) -> None:
    """Draw the bars of one server, from the floor to the left or to the right."""
    rows, ratios = [], []
    for row, load in enumerate(loads_of(results, "cpu")):
        figure = of_load(results, load, lambda m: m.cpu_us)[server]
        if figure and figure.ratio:
            rows.append(row + (place - (servers - 1) / 2) / (servers + 1))
            ratios.append(figure.ratio)
    bars = axes.barh(
        rows,
        [ratio - 1 for ratio in ratios],
        left=1,
        height=1 / (servers + 1),
        color=COLOURS[server],
        label=server,
    )
    axes.bar_label(bars, [f"{digits(ratio)}" for ratio in ratios], padding=3)


def _scales(axes: Axes, labels: list[str]) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("server CPU a request, as a multiple of the floor; less is better")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.02)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)


def _in_both_modes(svg: str) -> str:
    svg = svg.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    return re.sub(r"(<svg[^>]*>)", rf"\1\n{MODES}", svg, count=1)
