"""The command line itself: help by subject, versions, and the order of arguments."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import version

import pytest

from oip_host.config.settings import OPTIONS, Panel, panel_of
from oip_host.config.sources import flag
from oip_host.manifests.target import Target
from support.process import COMMAND, oip_host, run


def panels(text: str) -> dict[str, list[str]]:
    """Return the options of each panel of a help text, by title."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if title := re.match(r"╭─ (.+?) ─", line):
            options = found.setdefault(title[1], [])
        elif option := re.match(r"│\s+(--[\w-]+)", line):
            options.append(option[1])
    return found


def test_help_of_serve_groups_options_by_subject() -> None:
    """Each option of the server is in the panel of its subject, and in no other."""
    shown = panels(oip_host("serve", "--help").stdout)
    assert ["Options", *(panel.value for panel in Panel)] == list(shown)
    for panel in Panel:
        expected = [flag(name) for name in OPTIONS if panel_of(name) is panel]
        assert expected == shown[panel.value]


def test_help_of_manifest_shows_its_own_options() -> None:
    """The help of `manifest` shows its own options, not those of `serve`."""
    shown = panels(oip_host("manifest", "--help").stdout)
    assert [flag(name) for name in Target.model_fields] == shown["Manifest"]


@pytest.mark.parametrize(
    "command", [(COMMAND,), (sys.executable, "-m", "oip_host")], ids=["script", "-m"]
)
def test_version_lists_host_contract_kserve_and_python(
    command: tuple[str, ...],
) -> None:
    """`--version` prints the host, contract, KServe and Python, one per line."""
    expected = [f"{name} {version(name)}" for name in ("oip-host", "oip-handler")]
    expected += [f"kserve {version('kserve')}", f"Python {platform.python_version()}"]
    done = run(*command, "--version")
    assert (0, expected) == (done.returncode, done.stdout.splitlines())


def test_misspelt_argument_names_each_nearest_option_once() -> None:
    """An option that the host shares with KServe is suggested only once."""
    done = oip_host("check", "--handlers=fakes:Echo", "--http_prot=1")
    (line,) = done.stderr.splitlines()
    assert 2 == done.returncode
    assert line.startswith("error: unknown argument '--http_prot=1', nearest: ")
    nearest = re.findall(r"'(--\w+)'", line.partition("nearest:")[2])
    assert "--http_port" in nearest
    assert len(nearest) == len(set(nearest))


def test_options_may_precede_the_command() -> None:
    """Options before the command are read."""
    done = oip_host("--handlers=fakes:Echo", "list")
    assert (0, "") == (done.returncode, done.stderr)
    assert "fakes:Echo" in done.stdout
