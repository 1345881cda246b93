"""The plugin directory: what is loaded or rejected, and where it is installed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oip_host.config.settings import Settings
from oip_host.plugins import wheels
from support.process import COMMAND, Server, oip_host, run
from support.wheels import ABOUT, HANDLER, Wheel

NUMPY = np.__version__
CPYTHON = f"{sys.version_info.major}{sys.version_info.minor}"


def refused(directory: Path, **more: str) -> list[str]:
    """Return the faults of a plugin directory; with any, `sys.path` is unchanged."""
    before = list(sys.path)
    settings = Settings(oip_plugin_dir=str(directory), **more)
    faults = wheels.add(settings)
    try:
        assert not faults or sys.path == before
    finally:
        sys.path[:] = before
    return faults


def asked(server: Server, model: str = "wheeled") -> list[str]:
    """Return the file of a wheel's handler, its path, its user and its group."""
    answer = server.post(f"/v2/models/{model}/infer", json=ABOUT)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["outputs"][0]["data"])


# -- what is loaded -----------------------------------------------------------


def test_wheel_is_served(tmp_path: Path, serve: Callable[..., Server]) -> None:
    """A wheel in the directory is served without an index, and removed at the end."""
    Wheel().write(tmp_path / "plugins")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = serve(
        f"--plugin_dir={tmp_path / 'plugins'}", "--handlers=wheeled",
        env={"TMPDIR": str(temporary)},
    )  # fmt: skip

    file = Path(asked(server.wait_until_ready())[0])
    installed = file.parent

    assert installed.parent == temporary
    assert (installed / "wheeled-1.0.dist-info" / "INSTALLER").is_file()
    assert server.stop() == 0
    assert not installed.exists()


def test_unpacked_plugin_is_used_in_place(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """A directory made by `pip install --target` is served from where it is."""
    Wheel().unpack(tmp_path / "plugins")
    server = serve("--handlers=wheeled", env={"OIP_PLUGIN_DIR": f"{tmp_path}/plugins"})

    assert asked(server.wait_until_ready())[0] == f"{tmp_path}/plugins/wheeled.py"


def test_bare_module_is_found(tmp_path: Path) -> None:
    """A module without a distribution is served by its import path."""
    (tmp_path / "bare.py").write_text(HANDLER)
    done = oip_host(
        "check", "--json", f"--plugin_dir={tmp_path}", "--handlers=m=bare:Wheeled"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["state"] == "READY"


@pytest.mark.parametrize("unpacked", [False, True], ids=["wheel", "unpacked"])
def test_list_shows_plugins_of_the_directory(tmp_path: Path, unpacked: bool) -> None:
    """`list` shows the directory's handlers with their distribution."""
    (Wheel().unpack if unpacked else Wheel().write)(tmp_path)
    done = oip_host("list", "--json", f"--plugin_dir={tmp_path}")
    rows = {row["handler"]: row for row in json.loads(done.stdout)["handlers"]}
    assert done.returncode == 0, done.stderr
    assert (rows["wheeled"]["distribution"], rows["wheeled"]["version"]) == (
        "wheeled",
        "1.0",
    )


def test_workers_share_the_installed_plugins(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """Workers import what their supervisor installed, and install nothing again."""
    Wheel().write(tmp_path / "plugins")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = serve(
        f"--plugin_dir={tmp_path / 'plugins'}", "--handlers=wheeled", "--workers=2",
        env={"TMPDIR": str(temporary)},
    )  # fmt: skip
    server.wait_until_ready()

    files = {asked(server)[0] for _ in range(8)}

    assert len(files) == 1
    assert len(list(temporary.glob("oip-plugins-*"))) == 1
    assert server.stop() == 0
    assert not list(temporary.glob("oip-plugins-*"))


def test_extensions_of_the_directory_add_commands(tmp_path: Path) -> None:
    """A host extension in the directory works like any other."""
    source = """
        from oip_host import hookimpl

        class Greets:
            @hookimpl
            def oip_commands(self, app):
                @app.command()
                def greet():
                    print("hello from a wheel")
        """
    Wheel(modules={"greets": source}, handlers={}).unpack(tmp_path)
    points = tmp_path / "wheeled-1.0.dist-info" / "entry_points.txt"
    points.write_text("[oip.plugins]\ngreets = greets:Greets\n")

    done = run(COMMAND, "greet", env={"OIP_PLUGIN_DIR": str(tmp_path)})

    assert done.stdout == "hello from a wheel\n"


def test_host_modules_take_precedence(tmp_path: Path) -> None:
    """A module of the directory never shadows one of the host."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    Wheel().unpack(tmp_path)
    done = oip_host("check", f"--plugin_dir={tmp_path}", "--handlers=wheeled")
    assert done.returncode == 0, done.stderr


def test_empty_directory_is_accepted(tmp_path: Path) -> None:
    """The directory may contain no plugins; other files are ignored."""
    (tmp_path / "README.txt").write_text("wheels go here")
    assert refused(tmp_path) == []


# -- the cache ----------------------------------------------------------------


def test_cache_is_filled_once(tmp_path: Path) -> None:
    """The same wheels are installed once, with byte code; changed ones beside them."""
    plugins, cache = tmp_path / "plugins", tmp_path / "deep" / "cache"
    Wheel().write(plugins)

    assert refused(plugins, oip_plugin_cache=str(cache)) == []
    (first,) = cache.iterdir()
    inode = first.stat().st_ino
    assert list(first.glob("__pycache__/wheeled.*.pyc"))
    assert refused(plugins, oip_plugin_cache=str(cache)) == []
    assert [path.stat().st_ino for path in cache.iterdir()] == [inode]

    Wheel(modules={"wheeled": HANDLER + "# changed\n"}).write(plugins)
    assert refused(plugins, oip_plugin_cache=str(cache)) == []
    assert len(list(cache.iterdir())) == 2


def test_concurrent_installs_share_one_cache_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the same wheels are installed concurrently, the first result is used."""
    plugins, cache = tmp_path / "plugins", tmp_path / "cache"
    Wheel().write(plugins)
    install = wheels._install

    def slower(*arguments: Any) -> None:
        monkeypatch.setattr(wheels, "_install", install)
        assert refused(plugins, oip_plugin_cache=str(cache)) == []
        install(*arguments)

    monkeypatch.setattr(wheels, "_install", slower)
    assert refused(plugins, oip_plugin_cache=str(cache)) == []
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["oip_plugin_cache", "TMPDIR"])
def test_no_place_to_install_is_a_fault(tmp_path: Path, name: str) -> None:
    """If nothing can be written, the fault says what to mount."""
    Wheel().write(tmp_path / "plugins")
    taken = tmp_path / "file"
    taken.write_text("no directory")
    program = (
        "import sys, tempfile; from oip_host.plugins import wheels;"
        "from oip_host.config.configuration import read;"
        "tempfile._candidate_tempdir_list = lambda: sys.argv[1:2];"
        "print(*wheels.add(read([])[0].settings))"
    )
    env = {"OIP_PLUGIN_DIR": f"{tmp_path}/plugins"}
    if name != "TMPDIR":
        env[name.upper()] = f"{taken}/cache"
    done = run(sys.executable, "-c", program, f"{taken}/tmp", env=env)
    assert done.stderr == ""
    assert "mount a writable volume, and see oip_plugin_cache" in done.stdout


# -- what is rejected ---------------------------------------------------------

REFUSED: dict[str, tuple[list[Wheel], str]] = {
    "conflict": (
        [Wheel(requires=["numpy<1"])],
        f"wheeled-1.0-py3-none-any.whl requires numpy<1, found {NUMPY} (the host)",
    ),
    "missing": (
        [Wheel(requires=["never-heard-of>=2"])],
        "wheeled-1.0-py3-none-any.whl requires never-heard-of>=2, which is neither in "
        "the host nor here: add its wheel",
    ),
    "missing extra": (
        [
            Wheel(requires=["other[more]"]),
            Wheel("other", requires=["no-x; extra == 'more'"]),
        ],
        "other-1.0-py3-none-any.whl with [more] requires no-x, which is neither in the "
        "host nor here: add its wheel",
    ),
    "host's extra": (
        [Wheel(requires=["oip_host[Nothing,bench]", "rich[jupyter]"])],
        f"rich {version('rich')} of the host with [jupyter] requires ipywidgets",
    ),
    "each other": (
        [Wheel(requires=["other==2"]), Wheel("other")],
        "wheeled-1.0-py3-none-any.whl requires other==2, found 1.0 "
        "(other-1.0-py3-none-any.whl)",
    ),
    "two versions": (
        [Wheel(), Wheel(version="2.0")],
        "wheeled-1.0-py3-none-any.whl and wheeled-2.0-py3-none-any.whl are versions of "
        "one distribution, expected one of them",
    ),
    "the host's in another version": (
        [Wheel("numpy", "1.0", handlers={})],
        f"numpy-1.0-py3-none-any.whl is numpy 1.0, but the host has {NUMPY}, which "
        "goes first: leave it out",
    ),
    "python": (
        [Wheel(python=">=4")],
        "wheeled-1.0-py3-none-any.whl needs Python >=4, found 3.",
    ),
    "platform": (
        [Wheel(tag=f"cp{CPYTHON}-cp{CPYTHON}-win_amd64")],
        f"wheeled-1.0-cp{CPYTHON}-cp{CPYTHON}-win_amd64.whl is built for "
        f"cp{CPYTHON}-cp{CPYTHON}-win_amd64, expected Python 3.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), REFUSED.values(), ids=REFUSED)
def test_incompatible_wheel_is_rejected(
    tmp_path: Path, given: list[Wheel], expected: str
) -> None:
    """The fault names the wheel, what it needs and what was found."""
    for wheel in given:
        wheel.write(tmp_path)
    (fault,) = refused(tmp_path)
    assert fault.startswith(f"oip_plugin_dir: {expected}")


def test_unpacked_distribution_is_checked_too(tmp_path: Path) -> None:
    """A distribution that is used in place is checked like a wheel."""
    Wheel(requires=["numpy<1"], tag="cp27-cp27m-win32").unpack(tmp_path)
    built, conflict = refused(tmp_path)
    assert "wheeled-1.0.dist-info is built for cp27-cp27m-win32" in built
    assert "wheeled-1.0.dist-info requires numpy<1" in conflict


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("broken-1.0-py3-none-any.whl", b"no archive", "BadZipFile"),
        ("broken-1.0-py3-none-any.whl", b"PK\5\6" + bytes(18), "dist-info"),
        ("broken.whl", b"", "InvalidWheelFilename"),
        ("source-1.0.tar.gz", b"", "is not a wheel, expected one: pip wheel"),
    ],
    ids=["no archive", "empty archive", "name", "source"],
)
def test_invalid_wheel_file_is_rejected(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    """A broken wheel or a source distribution is named in the fault."""
    (tmp_path / name).write_bytes(content)
    (fault,) = refused(tmp_path)
    assert fault.startswith(f"oip_plugin_dir: {name} ")
    assert expected in fault


def test_damaged_wheel_is_rejected(tmp_path: Path) -> None:
    """A fault that only shows during installation is a configuration fault too."""
    path = Wheel().write(tmp_path / "plugins")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"class Wheeled", b"class Damaged", 1))
    cache = tmp_path / "cache"
    (fault,) = refused(tmp_path / "plugins", oip_plugin_cache=str(cache))
    assert f"{path.name} cannot be installed: BadZipFile" in fault
    assert list(cache.iterdir()) == []


def test_missing_directory_is_rejected(tmp_path: Path) -> None:
    """A plugin directory that does not exist is a fault."""
    assert refused(tmp_path / "absent") == [
        f"oip_plugin_dir: found '{tmp_path}/absent', expected a directory that can be "
        "read: No such file or directory"
    ]


def test_all_faults_are_reported_before_serving(tmp_path: Path) -> None:
    """Faults of wheels and of other options are reported together, with exit code 2."""
    Wheel(requires=["numpy<1"]).write(tmp_path)
    Wheel("other", requires=["never-heard-of"]).write(tmp_path)
    (tmp_path / "broken.whl").write_bytes(b"")
    for command in ("serve", "check"):
        done = oip_host(
            command, f"--plugin_dir={tmp_path}", "--handlers=wheeled", "--workers=2",
            "--http_port=many",
        )  # fmt: skip
        assert done.returncode == 2
        assert [line.split(" ")[1] for line in done.stderr.splitlines()] == [
            "--http_port:", *["oip_plugin_dir:"] * 3,
        ]  # fmt: skip
        assert done.stdout == ""


def test_faulty_directory_leaves_help_and_list_working(tmp_path: Path) -> None:
    """With a faulty directory, `--help` still works, and `list` reports the fault."""
    (tmp_path / "broken.whl").write_bytes(b"")
    env = {"OIP_PLUGIN_DIR": str(tmp_path)}
    assert oip_host("--help", env=env).returncode == 0
    listed = oip_host("list", "--json", env=env)
    assert listed.returncode == 2
    assert "broken.whl cannot be read" in json.loads(listed.stdout)["faults"][0]


# -- what is accepted ---------------------------------------------------------


def test_requirements_that_do_not_apply_are_ignored(tmp_path: Path) -> None:
    """Requirements for other platforms and for extras not requested are ignored."""
    requires = ["no-x; sys_platform == 'win32'", "no-y; extra == 'more'", "numpy>=1"]
    Wheel(requires=requires).write(tmp_path)
    assert refused(tmp_path) == []


def test_compatible_build_is_installed(tmp_path: Path) -> None:
    """Of several builds of one version, the one for this platform is installed."""
    Wheel(tag="cp27-cp27m-win32", modules={"wheeled": "raise SystemExit"}).write(
        tmp_path
    )
    Wheel().write(tmp_path)
    done = oip_host("check", f"--plugin_dir={tmp_path}", "--handlers=wheeled")
    assert done.returncode == 0, done.stderr


def test_wheel_that_the_host_has_is_skipped(tmp_path: Path) -> None:
    """A wheel of a package that the host has in the same version is not installed."""
    Wheel("numpy", NUMPY, modules={"numpy": "raise SystemExit"}, handlers={}).write(
        tmp_path / "plugins"
    )
    cache = tmp_path / "cache"
    assert refused(tmp_path / "plugins", oip_plugin_cache=str(cache)) == []
    assert not os.path.exists(cache)


def test_blueprint_brings_the_path_of_its_handler(tmp_path: Path) -> None:
    """Unpickling a blueprint in a fresh process makes its handler importable."""
    Wheel().unpack(tmp_path)
    pickled = run(
        sys.executable, "-c",
        "import pickle, sys; sys.path.append(sys.argv[1]); import wheeled;"
        "from oip_host.replicas.replica import Blueprint;"
        "made = Blueprint('m', '1', wheeled.Wheeled, 't', path=[sys.argv[1]]);"
        "print(pickle.dumps(made).hex())",
        str(tmp_path),
    )  # fmt: skip
    found = run(
        sys.executable, "-c",
        "import pickle, sys; made = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "print(made.handler.__module__, made.model, sys.path[-1])",
        pickled.stdout.strip(),
    )  # fmt: skip
    assert found.stderr == ""
    assert found.stdout.split() == ["wheeled", "m", str(tmp_path)]


@pytest.mark.slow
def test_replicas_import_the_plugins(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """A replica in Ray imports plugins from where the host does."""
    pytest.importorskip("ray")
    Wheel().write(tmp_path)
    server = serve(
        f"--plugin_dir={tmp_path}", "--handlers=wheeled", "--models.wheeled.replicas=1",
        "--models.wheeled.num_cpus=0.1",
    )  # fmt: skip
    assert "oip-plugins-" in asked(server.wait_until_ready())[0]
