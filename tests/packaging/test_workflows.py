"""Where else the project's commands run: in pre-commit and in GitHub's workflows."""

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
    """A YAML file; its key `on` is true there, by the rules of YAML 1.1."""
    return yaml.safe_load(path.read_text())


def steps(workflow: Any) -> list[Any]:
    """The steps of all of its jobs."""
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def would_run(target: str) -> list[str]:
    """The commands of a target of the Makefile, in the environment .venv."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "VENV=.venv", "--assume-old=.venv/.test", target],
        cwd=ROOT, env=environment, text=True, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_pre_commit_has_the_commands_of_make_lint() -> None:
    """The very same, in the same order, and none that brings tools of its own."""
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert "local" == local["repo"]
    assert would_run("lint") == [hook["entry"] for hook in local["hooks"]]
    assert {("system", False)} == {
        (hook["language"], hook["pass_filenames"]) for hook in local["hooks"]
    }


def test_ci_runs_everything_on_each_supported_python() -> None:
    """Those of the classifiers; and the contract on those of its own."""
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
    """The versions of Python that a distribution's classifiers name."""
    return re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / path).read_text()
    )


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_a_workflow_may_only_read(name: str) -> None:
    """Only the job that publishes may do more: ask for a token of its own."""
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


def test_a_release_needs_a_tag_and_everything_that_ci_runs() -> None:
    """CI, then `make dist`, then publishing what that built, without the sources."""
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
def test_a_tag_of_another_version_is_not_released(tag: str, code: int) -> None:
    """The release's first step compares it with the version in pyproject.toml."""
    (step,) = (s for s in steps(read(WORKFLOWS / "release.yml")) if "name" in s)
    text = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', text, re.MULTILINE)
    environment = {**os.environ, "GITHUB_REF_NAME": tag.format(version)}
    done = subprocess.run(["bash", "-c", step["run"]], cwd=ROOT, env=environment)
    assert code == done.returncode


def test_whatever_the_files_run_is_there() -> None:
    """Each command is a target of the Makefile or a script of the repository."""
    makefile = (ROOT / "Makefile").read_text()
    for path in WORKFLOWS.iterdir():
        for step in steps(read(path)):
            command = step.get("run", "").split()
            if command[:1] == ["make"]:
                assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE)
            elif command and "name" not in step:
                assert os.access(ROOT / command[0], os.X_OK)
