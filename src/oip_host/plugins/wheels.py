"""The plugin directory: what lies there becomes importable, or is refused.

Wheels are installed into a cache by the library `installer`, since a container image
needs no pip at run time and a wheel needs no index to be unpacked. What
`pip install --target` has made, and single modules, are used in place. Both stand
behind the host's own packages on `sys.path`, so that they never shadow them.
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
from oip_host.plugins.requirements import Dist, described, fitting

__all__ = ["add", "on_path"]

_PREFIX = "oip-plugins-"
"""How the name of a directory of installed wheels begins."""
_SOURCES = (".tar.gz", ".zip", ".egg")
_SCHEMES = ("purelib", "platlib", "headers", "scripts", "data")
"""The places that a wheel may have files for."""
_CHUNK = 1 << 20


def add(settings: Settings, prepared: Sequence[str] | None = None) -> list[str]:
    """Put the plugin directory on `sys.path`; the faults, a line for each.

    With a fault nothing is put there. `prepared` is what another process of the same
    host has put on its own path.
    """
    if settings.oip_plugin_dir is None:
        return []
    if prepared is None:
        try:
            prepared = _prepared(settings)
        except ConfigurationError as error:
            return [f"oip_plugin_dir: {fault}" for fault in error.faults]
    sys.path += [entry for entry in prepared if entry not in sys.path]
    importlib.invalidate_caches()
    return []


def on_path(settings: Settings) -> list[str]:
    """What `add` has put on `sys.path`."""
    if settings.oip_plugin_dir is None:
        return []
    own = os.path.abspath(settings.oip_plugin_dir)
    return [e for e in sys.path if e == own or Path(e).name.startswith(_PREFIX)]


def _prepared(settings: Settings) -> list[str]:
    """The directories to import from; raises ConfigurationError with all faults."""
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
    found = [dist for entry in entries for dist in _read(entry, faults)]
    chosen, unfit = fitting(found)
    if faults or unfit:
        raise ConfigurationError([*faults, *unfit])
    wheels = [directory / d.origin for d in chosen if d.origin.endswith(".whl")]
    if not wheels:
        return [str(directory)]
    return [str(directory), str(_installed(wheels, settings.oip_plugin_cache))]


def _read(entry: Path, faults: list[str]) -> Iterator[Dist]:
    """The distribution that an entry of the directory is, if it is one."""
    try:
        if entry.suffix == ".whl":
            yield _read_wheel(entry)
        elif entry.suffix == ".dist-info" and entry.is_dir():
            yield _read_unpacked(entry)
        elif entry.name.endswith(_SOURCES):
            faults.append(
                f"{entry.name} is no wheel, expected one: pip wheel makes it from this"
            )
    except Exception as error:  # whatever a broken archive or a wrong field raises
        faults.append(
            f"{entry.name} cannot be read as a distribution: "
            f"{type(error).__name__}: {error}"
        )


def _read_wheel(path: Path) -> Dist:
    *_, tags = parse_wheel_filename(path.name)
    with WheelFile.open(path) as wheel:
        wheel.validate_record(validate_contents=False)
        return described(wheel.read_dist_info("METADATA"), path.name, tags)


def _read_unpacked(path: Path) -> Dist:
    tags: set[Tag] = set()
    built = path / "WHEEL"
    for line in built.read_text("utf-8").splitlines() if built.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "Tag":
            tags |= parse_tag(value.strip())
    return described((path / "METADATA").read_text("utf-8"), path.name, tags)


def _installed(wheels: Sequence[Path], cache: str | None) -> Path:
    """The directory in which the wheels are installed; raises ConfigurationError.

    One in a cache that stays is made once for the same wheels, whoever else makes it
    at the same time, and with its byte code. In one that ends with the process Python
    compiles what is imported, which is less.
    """
    try:
        if cache is None:
            passing = Path(tempfile.mkdtemp(prefix=_PREFIX))
            atexit.register(shutil.rmtree, passing, ignore_errors=True)
            _install(wheels, passing)
            return passing
        kept = Path(os.path.abspath(cache), _PREFIX + _key(wheels))
        if not kept.is_dir():
            _keep(wheels, kept)
        return kept
    except OSError as error:
        where = "no temporary directory" if cache is None else f"nothing in '{cache}'"
        raise ConfigurationError(
            [
                f"{where} can be written for its wheels: {error}; mount a volume that "
                "can, and see oip_plugin_cache"
            ]
        ) from error


def _keep(wheels: Sequence[Path], kept: Path) -> None:
    """Install the wheels where they stay, all at once for those who look there."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".", dir=kept.parent))
    try:
        _install(wheels, making)
        with warnings.catch_warnings():  # of other people's code
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
    """What a set of wheels and the Python that compiles them are known by."""
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_platform()}".encode())
    for path in sorted(wheels):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:32]
