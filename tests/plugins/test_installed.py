"""Handlers of packages installed with pip, tested from the outside."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.packages import Package, pip_install, with_packages
from support.process import COMMAND, Server, oip_host, run

DOUBLE = """\
    import os

    import numpy as np

    from oip_host import Datatype, InferenceResponse, ModelHandler
    from oip_host import ModelMetadataResponse, ResponseOutput

    with open(os.environ["OIP_TEST_IMPORTS"], "a") as file:
        file.write(__name__ + "\\n")


    class Double(ModelHandler):
        def infer(self, payload, model_name, model_version=None):
            doubled = 2 * payload.inputs[0].as_numpy()
            output = ResponseOutput.from_numpy("y", doubled)
            return InferenceResponse(model_name=model_name, outputs=[output])

        def model_metadata(self, model_name, model_version=None):
            return ModelMetadataResponse(
                name=model_name, platform="test", inputs=[], outputs=[]
            )

        def model_load(self, model_name):
            return True
"""
PACKAGES = [
    Package(
        "oip-test-double",
        "1.2.3",
        {"oip_test_double": DOUBLE},
        {"oip.handlers": {"double": "oip_test_double:Double"}},
    ),
    Package(
        "oip-test-broken",
        "0.9",
        {"oip_test_broken": "import oip_test_no_such_dependency\n"},
        {"oip.handlers": {"broken": "oip_test_broken:Broken"}},
    ),
    *(
        Package(
            f"oip-test-twin-{letter}",
            version,
            {f"oip_test_twin_{letter}": DOUBLE},
            {"oip.handlers": {"twin": f"oip_test_twin_{letter}:Double"}},
        )
        for letter, version in [("a", "1.0"), ("b", "2.0")]
    ),
]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages, as `pip install` leaves them."""
    return pip_install(PACKAGES, tmp_path_factory.mktemp("discovery"))


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    """A file to which the packages' modules write their names when imported."""
    return tmp_path / "imports"


@pytest.fixture
def env(installed: Path, imports: Path) -> dict[str, str]:
    """The environment of a process with the packages."""
    return with_packages(installed, {"OIP_TEST_IMPORTS": str(imports)})


def listed(output: str) -> dict[str, Any]:
    """Return the tests' own handlers in `oip-host list --json`."""
    return {
        f"{row['distribution']}/{row['handler']}": row
        for row in json.loads(output)["handlers"]
        if "oip-test-" in str(row["distribution"])
    }


def imported(importtime: str) -> set[str]:
    """Return the top-level modules that Python with `-X importtime` has imported."""
    return {
        line.rpartition("|")[2].strip().split(".")[0]
        for line in importtime.splitlines()
        if line.startswith("import time:")
    }


# -- list -------------------------------------------------------------------------


def test_list_shows_handlers_without_importing_them(
    env: dict[str, str], imports: Path
) -> None:
    """`list` shows handler, distribution, version and object from metadata alone.

    It imports neither plugins nor kserve, and also lists a plugin that cannot be
    imported.
    """
    done = run(
        sys.executable, "-X", "importtime", COMMAND, "list", "--json",
        "--handlers=m@2=double?", env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = listed(done.stdout)
    assert rows["oip-test-double/double"] == {
        "handler": "double",
        "distribution": "oip-test-double",
        "version": "1.2.3",
        "object": "oip_test_double:Double",
        "selected": True,
        "models": ["m@2?"],
        "why": "named",
    }
    assert rows["oip-test-broken/broken"] == {
        "handler": "broken",
        "distribution": "oip-test-broken",
        "version": "0.9",
        "object": "oip_test_broken:Broken",
        "selected": False,
        "models": [],
        "why": "not in OIP_HANDLERS, or excluded",
    }
    assert not imports.exists()
    modules = imported(done.stderr)
    assert "oip_host" in modules
    assert not {name for name in modules if name.startswith(("kserve", "oip_test"))}


def test_list_shows_only_installed_handlers() -> None:
    """Without the packages' directory, their handlers are not listed."""
    done = oip_host("list", "--json", "--handlers=fakes:Echo")
    assert done.returncode == 0, done.stderr
    assert listed(done.stdout) == {}


def test_list_with_star_and_exclusion(env: dict[str, str]) -> None:
    """`*` selects every handler except the excluded one, and `list` says why."""
    env["OIP_HANDLERS"] = "*,-oip-test-twin-b/twin"
    done = oip_host("list", "--json", env=env)
    assert done.returncode == 0, done.stdout
    rows = listed(done.stdout)
    found = {name: (row["models"], row["why"]) for name, row in rows.items()}
    everything = "all are selected"
    assert found == {
        "oip-test-double/double": (["double@1"], everything),
        "oip-test-broken/broken": (["broken@1"], everything),
        "oip-test-twin-a/twin": (["twin@1"], everything),
        "oip-test-twin-b/twin": ([], "not in OIP_HANDLERS, or excluded"),
    }


def test_list_without_json_is_a_table(env: dict[str, str]) -> None:
    """Without `--json`, the output is a table with one handler per line."""
    done = oip_host("list", "--handlers=double,oip_test.module:Class", env=env)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "oip-test-double" in line]
    words = ["double", "oip-test-double", "1.2.3", "oip_test_double:Double", "yes"]
    assert line.split()[:5] == words
    assert re.search(r"Class +- +- +oip_test.module:Class +yes", done.stdout)


# -- serve and check --------------------------------------------------------------


def test_installed_handler_is_served(
    env: dict[str, str], imports: Path, serve: Callable[..., Server]
) -> None:
    """An installed handler is served under the model's name; no other is imported."""
    server = serve("--handlers=fraud=double", env=env).wait_until_ready()
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2.5]}
    answer = server.post("/v2/models/fraud/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_name"] == "fraud"
    assert answer.json()["outputs"][0]["data"] == [2.0, 5.0]
    assert imports.read_text().split() == ["oip_test_double"]


def test_check_reports_broken_plugin_and_loads_others(
    env: dict[str, str],
) -> None:
    """A plugin that fails to import is reported with its origin, and exit code 1."""
    done = oip_host("check", "--json", "--handlers=broken,double", env=env)
    assert done.returncode == 1, done.stderr
    models = {row["model"]: row for row in json.loads(done.stdout)["models"]}
    assert models["double"]["state"] == "READY"
    assert models["double"]["reason"] == ""
    assert models["double"]["distribution"] == "oip-test-double 1.2.3"
    assert models["broken"]["state"] == "UNAVAILABLE"
    assert models["broken"]["distribution"] == "oip-test-broken 0.9"
    assert models["broken"]["reason"] == (
        "oip_test_broken:Broken failed to import: ModuleNotFoundError: "
        "No module named 'oip_test_no_such_dependency'"
    )
    expected = "handler 'broken' (oip_test_broken:Broken, oip-test-broken 0.9)"
    assert expected in done.stderr
    assert "Traceback (most recent call last)" in done.stderr


def test_check_passes_if_only_an_optional_model_fails(env: dict[str, str]) -> None:
    """The failure of a model with `?` is reported, and the exit code is 0."""
    done = oip_host("check", "--json", "--handlers=broken?,double", env=env)
    assert done.returncode == 0, done.stderr
    models = {row["model"]: row["state"] for row in json.loads(done.stdout)["models"]}
    assert models == {"double": "READY", "broken": "UNAVAILABLE"}


def test_handlers_with_one_name_can_both_be_served(
    env: dict[str, str], imports: Path
) -> None:
    """Two handlers with one name are two models, selected by their distributions."""
    handlers = "oip-test-twin-a/twin,b=OIP_test.twin-b/twin"
    done = oip_host("check", "--json", f"--handlers={handlers}", env=env)
    assert done.returncode == 0, done.stderr
    models = {
        row["model"]: (row["distribution"], row["state"])
        for row in json.loads(done.stdout)["models"]
    }
    assert models == {
        "twin": ("oip-test-twin-a 1.0", "READY"),
        "b": ("oip-test-twin-b 2.0", "READY"),
    }
    assert sorted(imports.read_text().split()) == ["oip_test_twin_a", "oip_test_twin_b"]


@pytest.mark.parametrize("command", ["serve", "check", "list"])
def test_configuration_faults_are_reported_together(
    command: str, env: dict[str, str], tmp_path: Path
) -> None:
    """Every fault of options and selection is a line, and the exit code is 2.

    The faults include a name that two packages offer.
    """
    (tmp_path / "oip.properties").write_text("oip_hendlers=double\n")
    env |= {"KSERVE_ENABLE_GRPC": "maybe", "KRAUSENING_BASE": str(tmp_path)}
    handlers = "--handlers=twin,doubel,x=,a=broken,-broken"
    done = oip_host(command, handlers, "--http_port=70000", "--workers", env=env)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    expected = [
        r"--workers: found no value",
        r"KSERVE_ENABLE_GRPC: found 'maybe', expected a valid boolean",
        r"oip\.properties: unknown property 'oip_hendlers', nearest: 'oip_handlers'",
        r"--http_port: found '70000', expected less than or equal to 65535",
        r"OIP_HANDLERS: at character 14: found '=' in 'x='",
        r"OIP_HANDLERS: handler 'twin' is offered by oip-test-twin-a 1\.0 and "
        r"oip-test-twin-b 2\.0; write oip-test-twin-a/twin or oip-test-twin-b/twin",
        r"OIP_HANDLERS: no installed handler is named 'doubel', nearest: 'double'",
        r"OIP_HANDLERS: 'broken' is selected and excluded",
    ]
    for pattern in expected:
        matching = [line for line in lines if re.match(f"error: {pattern}", line)]
        assert len(matching) == 1, (pattern, lines)
    assert len(lines) == len(expected), lines


def test_faults_of_settings_are_reported_with_the_others(env: dict[str, str]) -> None:
    """Faults of handler settings are in the same list, before any model is loaded."""
    done = oip_host(
        "serve", "--handlers=double,b=twin,c=fakes:Configured", "--http_port=x",
        "--models.double.settings.a=1", "--models.c.max_queue=-1", "--nonsense=1",
        env=env,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for part in (
        "--http_port: found 'x'",
        "unknown argument '--nonsense=1'",
        "handler 'twin' is offered by",
        "--models.double.settings.a: this handler takes no settings",
        "--models.c.max_queue: found '-1'",
        "models.c.settings.path: required, but not set",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 6, lines
    assert "LOADING" not in done.stderr


def test_list_json_includes_faults(env: dict[str, str]) -> None:
    """`list --json` includes the faults, and the exit code is 2."""
    done = oip_host("list", "--json", "--handlers=twin,double", env=env)
    assert done.returncode == 2, done.stderr
    (line,) = json.loads(done.stdout)["faults"]
    assert "'twin' is offered by oip-test-twin-a 1.0 and oip-test-twin-b 2.0" in line
    assert listed(done.stdout)["oip-test-double/double"]["models"] == ["double@1"]


# -- help -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["serve", "list", "check"]),
        (["serve"], ["--http_port", "KSERVE_HTTP_PORT", "8080", "OIP_HANDLERS"]),
        (["list"], ["--json", "without importing them"]),
        (["check"], ["--json", "Exits with 2 if the configuration is wrong"]),
    ],
    ids=["oip-host", "serve", "list", "check"],
)
def test_help_does_not_import_kserve(arguments: list[str], expected: list[str]) -> None:
    """`--help` shows commands and options, without the slow import of kserve."""
    done = run(sys.executable, "-X", "importtime", COMMAND, *arguments, "--help")
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"[\s│]+", " ", done.stdout)
    assert [text for text in expected if text not in shown] == []
    assert "oip_host" in imported(done.stderr)
    assert "kserve" not in imported(done.stderr)
