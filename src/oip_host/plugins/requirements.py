"""Checks that distributions fit this Python, the host's own packages, and each other.

The rules are those of the packaging standards, and so is the library that reads them:
names of wheels, tags, markers, extras and versions.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import importlib_metadata
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, sys_tags
from packaging.utils import canonicalize_name
from packaging.version import Version

__all__ = ["Dist", "find_installed", "parse_metadata", "select_fitting"]


@dataclass(frozen=True)
class Dist:
    """A distribution, as its metadata describe it."""

    origin: str
    """Its place, as messages name it."""
    name: str
    version: Version
    requires: tuple[Requirement, ...] = ()
    requires_python: SpecifierSet | None = None
    tags: frozenset[Tag] = frozenset()
    """The Pythons and platforms that it is built for; none if it does not say."""


Lookup = Callable[[str], Dist | None]


def parse_metadata(text: str, origin: str, tags: Iterable[Tag] = ()) -> Dist:
    """Return the distribution with these metadata; raises if a field is invalid."""
    metadata = Metadata.from_email(text, validate=False)
    return Dist(
        origin,
        canonicalize_name(metadata.name),
        metadata.version,
        tuple(metadata.requires_dist or ()),
        metadata.requires_python,
        frozenset(tags),
    )


@cache
def find_installed(name: str) -> Dist | None:
    """Return the distribution of that name in the host's own environment."""
    try:
        dist = importlib_metadata.distribution(name)
    except importlib_metadata.PackageNotFoundError:
        return None
    text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or ""
    return parse_metadata(text, "the host")


def select_fitting(
    dists: Sequence[Dist], host: Lookup = find_installed
) -> tuple[list[Dist], list[str]]:
    """Return the distributions to use, and a line for each fault.

    Of several builds of one version the one that fits best is used. A distribution that
    the host has in the same version is left out.
    """
    by_name: dict[str, list[Dist]] = {}
    for each in dists:
        by_name.setdefault(each.name, []).append(each)
    faults: list[str] = []
    chosen: dict[str, Dist] = {}
    for name, same in by_name.items():
        faults += _reject_versions(same)
        chosen[name] = min(same, key=lambda dist: _rank(dist.tags))
    for dist in chosen.values():
        faults += _reject_unfit(dist, host(dist.name))
    used = {name: dist for name, dist in chosen.items() if host(name) is None}
    faults += _find_unmet(used, host)
    return list(used.values()), faults


def _reject_versions(same: Sequence[Dist]) -> Iterator[str]:
    """Yield the fault of one distribution in several versions."""
    if len({dist.version for dist in same}) > 1:
        origins = " and ".join(sorted(dist.origin for dist in same))
        yield f"{origins} are versions of one distribution, expected one of them"


@cache
def _ranks() -> dict[Tag, int]:
    """Return the tags of this Python and platform, the best fit first."""
    return {tag: rank for rank, tag in enumerate(sys_tags())}


def _rank(tags: frozenset[Tag]) -> float:
    """Return how well a build fits, 0 being best; infinite if it does not."""
    if not tags:
        return 0
    return min((_ranks()[tag] for tag in tags if tag in _ranks()), default=float("inf"))


def _reject_unfit(dist: Dist, host: Dist | None) -> Iterator[str]:
    """Yield a line for each reason why a distribution by itself cannot be used."""
    python = platform.python_version()
    if _rank(dist.tags) == float("inf"):
        built = ", ".join(sorted(map(str, dist.tags))[:3])
        yield (
            f"{dist.origin} is built for {built}, expected Python {python} on "
            f"{platform.system()} {platform.machine()} ({next(sys_tags())} or alike)"
        )
    if dist.requires_python is not None and not dist.requires_python.contains(
        python, prereleases=True
    ):
        yield f"{dist.origin} needs Python {dist.requires_python}, found {python}"
    if host is not None and host.version != dist.version:
        yield (
            f"{dist.origin} is {dist.name} {dist.version}, but the host has "
            f"{host.version}, which goes first: leave it out"
        )


def _find_unmet(dists: dict[str, Dist], host: Lookup) -> Iterator[str]:
    """Yield each requirement that neither the host nor another distribution meets.

    The extras that it names are followed, into the host's packages too.
    """
    pending = [(dist, "") for dist in dists.values()]
    done: set[tuple[str, str]] = set()
    while pending:
        dist, extra = pending.pop(0)
        if (dist.name, extra) in done:
            continue
        done.add((dist.name, extra))
        for requirement in _applicable(dist, extra):
            name = canonicalize_name(requirement.name)
            target = host(name) or dists.get(name)
            asks = f"{_name_requirer(dist, extra)} requires {_spell(requirement)}"
            if target is None:
                yield f"{asks}, which is neither in the host nor here: add its wheel"
                continue
            if not requirement.specifier.contains(target.version, prereleases=True):
                yield f"{asks}, found {target.version} ({target.origin})"
            pending += [(target, name) for name in sorted(requirement.extras)]


def _applicable(dist: Dist, extra: str) -> Iterator[Requirement]:
    """Yield what a distribution requires here; for an extra, what that adds to it."""
    for requirement in dist.requires:
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if (
            always
            if not extra
            else marker and not always and marker.evaluate({"extra": extra})
        ):
            yield requirement


def _name_requirer(dist: Dist, extra: str) -> str:
    """Return the distribution that requires something, as messages name it."""
    of = f"{dist.name} {dist.version} of the host" if dist.origin == "the host" else ""
    return (of or dist.origin) + (f" with [{extra}]" if extra else "")


def _spell(requirement: Requirement) -> str:
    """Return a requirement without its marker."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
