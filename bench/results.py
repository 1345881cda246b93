"""The records of a run, and the file that keeps them.

The file names no host, user or path, so that it can be published.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

__all__ = ["About", "Load", "Measured", "Results", "Start", "read", "save"]


class About(BaseModel):
    """The date, the machine and the versions of a run."""

    date: str
    cpu: str
    cores: int
    memory_gb: int
    python: str
    rounds: int
    seconds: float
    """The target duration of a load; the warm-up sets its number of requests."""
    packages: dict[str, dict[str, str]]
    """The versions that matter, by server; none for one that is not installed."""


class Start(BaseModel):
    """One start of a server."""

    round: int
    server: str
    models: int
    start_s: float | None = None
    """From the start of the process to the first 200 of /v2/health/ready; None where
    that did not come."""
    pss_mb: float | None = None
    """A second later, before any request."""


class Measured(BaseModel):
    """The figures of one load."""

    requests: int
    seconds: float
    cpu_us: float
    """Of the server's processes, a request."""
    p50_ms: float
    p99_ms: float
    live_p99_ms: float | None = None
    generator_cores: float
    """CPU of the load generator a second: near 1.0 it was as fast as it can be."""
    other_cores: float
    """CPU of everybody else on the machine, a second."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class Load(BaseModel):
    """One load of one server in one round; nothing is measured where it failed."""

    round: int
    server: str
    workload: str
    clients: int
    measured: Measured | None = None


class Results(BaseModel):
    """All records of a run."""

    about: About
    starts: list[Start] = []
    loads: list[Load] = []

    @property
    def failed(self) -> bool:
        """True if any start or load failed."""
        no_start = any(start.start_s is None for start in self.starts)
        return no_start or any(load.measured is None for load in self.loads)


def save(results: Results, path: Path) -> None:
    """Write a record a line, so that the next run is read well as a difference."""
    lines = ["{", f'"about": {results.about.model_dump_json()},']
    for name, records in (("starts", results.starts), ("loads", results.loads)):
        rows = ",\n".join(f" {r.model_dump_json(exclude_none=True)}" for r in records)
        lines.append(f'"{name}": [\n{rows}\n]' + ("," if name == "starts" else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "}", ""]))


def read(path: Path) -> Results:
    """Read the records of an earlier run."""
    return Results.model_validate_json(path.read_text())
