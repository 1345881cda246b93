"""The project's commands in pre-commit and in GitHub workflows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
PINNED = re.compile(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)")


def read(path: Path) -> Any:
    """Return the contents of a YAML file; YAML 1.1 turns the key `on` into True."""
    return yaml.safe_load(path.read_text())


def steps(workflow: Any) -> list[Any]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def would_run(target: str) -> list[str]:
    """Return the commands of a Makefile target, in the environment .venv."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "VENV=.venv", "--assume-old=.venv/.test", target],
        cwd=ROOT, env=environment, text=True, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_pre_commit_runs_the_commands_of_make_lint() -> None:
    """The hooks run the same commands in the same order, as local system hooks."""
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert "local" == local["repo"]
    assert would_run("lint") == [hook["entry"] for hook in local["hooks"]]
    assert {("system", False)} == {
        (hook["language"], hook["pass_filenames"]) for hook in local["hooks"]
    }


def test_ci_covers_each_supported_python() -> None:
    """CI tests the host and the contract on the Pythons of their classifiers."""
    jobs = read(WORKFLOWS / "ci.yml")["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["host"]["steps"]]
    assert pythons("pyproject.toml") == jobs["host"]["strategy"]["matrix"]["python"]
    setup = next(step for step in jobs["contract"]["steps"] if "with" in step and
                 "python-version" in step["with"])  # fmt: skip
    installed = setup["with"]["python-version"].split()
    assert set(installed) == set(pythons("handler/pyproject.toml"))
    assert "make test-contract" in [
        step.get("run") for step in jobs["contract"]["steps"]
    ]


def pythons(path: str) -> list[str]:
    """Return the versions of Python in a distribution's classifiers."""
    return re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / path).read_text()
    )


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_have_read_only_permissions(name: str) -> None:
    """Only the publishing job has another permission: to request an identity token."""
    workflow = read(WORKFLOWS / name)
    assert {"contents": "read"} == workflow["permissions"]
    own = {
        n: j["permissions"] for n, j in workflow["jobs"].items() if "permissions" in j
    }
    publish = {"publish": {"id-token": "write"}}
    assert own == (publish if name == "release.yml" else {})
    for step in steps(workflow):
        assert "uses" not in step or PINNED.fullmatch(step["uses"]), step["uses"]
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_release_needs_a_tag_and_ci() -> None:
    """A release runs CI and `make dist`, and publishes the result without sources."""
    workflow = read(WORKFLOWS / "release.yml")
    assert {"push": {"tags": ["v*"]}} == workflow[True]
    ci, build, publish = (workflow["jobs"][name] for name in ("ci", "build", "publish"))
    assert "./.github/workflows/ci.yml" == ci["uses"]
    assert ("ci", "build") == (build["needs"], publish["needs"])
    assert "make dist" in [step.get("run") for step in build["steps"]]
    assert not any(
        "run" in step or "checkout" in step["uses"] for step in publish["steps"]
    )


@pytest.mark.parametrize(
    ("tag", "code"),
    [("v{}", 0), ("v{}.1", 1), ("v1{}", 1)],
    ids=["same", "more", "other"],
)
def test_tag_must_match_the_version(tag: str, code: int) -> None:
    """The release's first step compares the tag with the version in pyproject.toml."""
    (step,) = (s for s in steps(read(WORKFLOWS / "release.yml")) if "name" in s)
    text = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', text, re.MULTILINE)
    environment = {**os.environ, "GITHUB_REF_NAME": tag.format(version)}
    done = subprocess.run(["bash", "-c", step["run"]], cwd=ROOT, env=environment)
    assert code == done.returncode


def test_commands_of_workflows_exist() -> None:
    """Each command is a target of the Makefile or a script of the repository."""
    makefile = (ROOT / "Makefile").read_text()
    for path in WORKFLOWS.iterdir():
        for step in steps(read(path)):
            command = step.get("run", "").split()
            if command[:1] == ["make"]:
                assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE)
            elif command and "name" not in step:
                assert os.access(ROOT / command[0], os.X_OK)
