"""The plugin directory: its content becomes importable, or is rejected.

Wheels are installed into a cache by the library `installer`, since a container image
needs no pip at run time and a wheel needs no index to be unpacked. The result of
`pip install --target`, and single modules, are used in place. Both come after the
host's own packages on `sys.path`, so that they never shadow them.
"""

from __future__ import annotations

import atexit
import compileall
import hashlib
import importlib
import os
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile
from packaging.tags import Tag, parse_tag
from packaging.utils import parse_wheel_filename

from oip_host.config.settings import Settings
from oip_host.errors import ConfigurationError
from oip_host.plugins.requirements import Dist, parse_metadata, select_fitting

__all__ = ["add", "on_path"]

_PREFIX = "oip-plugins-"
"""Prefix of the name of a directory of installed wheels."""
_SOURCES = (".tar.gz", ".zip", ".egg")
_SCHEMES = ("purelib", "platlib", "headers", "scripts", "data")
"""The kinds of places that a wheel may have files for."""
_CHUNK = 1 << 20


def add(settings: Settings, prepared: Sequence[str] | None = None) -> list[str]:
    """Add the plugin directory to `sys.path`, and return its faults, a line for each.

    With a fault nothing is added. `prepared` are the entries that another process of
    the same host has added to its own path.
    """
    if settings.oip_plugin_dir is None:
        return []
    if prepared is None:
        try:
            prepared = _prepare(settings)
        except ConfigurationError as error:
            return [f"oip_plugin_dir: {fault}" for fault in error.faults]
    sys.path += [entry for entry in prepared if entry not in sys.path]
    importlib.invalidate_caches()
    return []


def on_path(settings: Settings) -> list[str]:
    """Return the entries that `add` has added to `sys.path`."""
    if settings.oip_plugin_dir is None:
        return []
    own = os.path.abspath(settings.oip_plugin_dir)
    return [e for e in sys.path if e == own or Path(e).name.startswith(_PREFIX)]


def _prepare(settings: Settings) -> list[str]:
    """Return the directories to import from; raises ConfigurationError for faults."""
    directory = Path(os.path.abspath(settings.oip_plugin_dir or ""))
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise ConfigurationError(
            [
                f"found '{directory}', expected a directory that can be read: "
                f"{error.strerror}"
            ]
        ) from error
    faults: list[str] = []
    dists = [dist for entry in entries for dist in _read(entry, faults)]
    chosen, unfit = select_fitting(dists)
    if faults or unfit:
        raise ConfigurationError([*faults, *unfit])
    wheels = [directory / d.origin for d in chosen if d.origin.endswith(".whl")]
    if not wheels:
        return [str(directory)]
    return [str(directory), str(_install_cached(wheels, settings.oip_plugin_cache))]


def _read(entry: Path, faults: list[str]) -> Iterator[Dist]:
    """Yield the distribution that an entry of the directory holds, if it does."""
    try:
        if entry.suffix == ".whl":
            yield _read_wheel(entry)
        elif entry.suffix == ".dist-info" and entry.is_dir():
            yield _read_unpacked(entry)
        elif entry.name.endswith(_SOURCES):
            faults.append(
                f"{entry.name} is not a wheel, expected one: pip wheel makes it of this"
            )
    except Exception as error:  # whatever a broken archive or a wrong field raises
        faults.append(
            f"{entry.name} cannot be read as a distribution: "
            f"{type(error).__name__}: {error}"
        )


def _read_wheel(path: Path) -> Dist:
    """Return the distribution in a wheel; raises if its files are not as recorded."""
    *_, tags = parse_wheel_filename(path.name)
    with WheelFile.open(path) as wheel:
        wheel.validate_record(validate_contents=False)
        return parse_metadata(wheel.read_dist_info("METADATA"), path.name, tags)


def _read_unpacked(path: Path) -> Dist:
    """Return the distribution whose metadata is in a directory `….dist-info`."""
    tags: set[Tag] = set()
    built = path / "WHEEL"
    for line in built.read_text("utf-8").splitlines() if built.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "Tag":
            tags |= parse_tag(value.strip())
    return parse_metadata((path / "METADATA").read_text("utf-8"), path.name, tags)


def _install_cached(wheels: Sequence[Path], cache: str | None) -> Path:
    """Return the directory with the wheels installed; raises ConfigurationError.

    In a permanent cache it is made once for the same wheels, even by several processes
    at the same time, and with byte code. In a temporary one, which ends with the
    process, Python compiles only what is imported.
    """
    try:
        if cache is None:
            temporary = Path(tempfile.mkdtemp(prefix=_PREFIX))
            atexit.register(shutil.rmtree, temporary, ignore_errors=True)
            _install(wheels, temporary)
            return temporary
        kept = Path(os.path.abspath(cache), _PREFIX + _key(wheels))
        if not kept.is_dir():
            _keep(wheels, kept)
        return kept
    except OSError as error:
        where = "a temporary directory" if cache is None else f"'{cache}'"
        raise ConfigurationError(
            [
                f"could not install its wheels in {where}: {error}; mount a writable "
                "volume, and see oip_plugin_cache"
            ]
        ) from error


def _keep(wheels: Sequence[Path], kept: Path) -> None:
    """Install the wheels in the permanent cache, where they appear all at once."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".", dir=kept.parent))
    try:
        _install(wheels, making)
        with warnings.catch_warnings():  # the code is other people's
            warnings.simplefilter("ignore")
            compileall.compile_dir(making, quiet=2)
        making.chmod(0o755)  # a pod with another user may have the same cache
        making.rename(kept)
    except OSError:
        if not kept.is_dir():  # nobody else was faster
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _install(wheels: Sequence[Path], target: Path) -> None:
    """Unpack wheels into one directory, as `pip install --target` lays it out."""
    below = {"headers": target / "include", "scripts": target / "bin"}
    schemes = {name: str(below.get(name, target)) for name in _SCHEMES}
    faults: list[str] = []
    for path in wheels:
        destination = SchemeDictionaryDestination(
            schemes, sys.executable, "posix", overwrite_existing=True
        )
        try:
            with WheelFile.open(path) as wheel:
                install(wheel, destination, {"INSTALLER": b"oip-host\n"})
        except OSError:
            raise
        except Exception as error:
            faults.append(
                f"{path.name} cannot be installed: {type(error).__name__}: {error}"
            )
    if faults:
        raise ConfigurationError(faults)


def _key(wheels: Sequence[Path]) -> str:
    """Return the key of a set of wheels and of the Python that compiles them."""
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_platform()}".encode())
    for path in sorted(wheels):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:32]
