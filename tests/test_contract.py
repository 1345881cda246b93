"""The contract and the host: two distributions, one version and one set of names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import oip_handler
import oip_host

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("oip-handler-*"))


def version(path: Path) -> str:
    """Return the version in a pyproject.toml."""
    (found,) = re.findall(r'^version = "(.*)"$', path.read_text(), re.MULTILINE)
    return str(found)


def test_host_requires_exactly_its_own_contract() -> None:
    """Both have one version, and the requirement names it."""
    host, contract = ROOT / "pyproject.toml", ROOT / "handler" / "pyproject.toml"
    assert version(host) == version(contract)
    assert f'    "oip-handler=={version(host)}",' in host.read_text().splitlines()


@pytest.mark.parametrize("name", oip_handler.__all__)
def test_host_exports_each_name_of_the_contract(name: str) -> None:
    """Each exported name is the same object."""
    assert name in oip_host.__all__
    assert getattr(oip_host, name) is getattr(oip_handler, name)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_reference_plugin_uses_the_contract_only(plugin: Path) -> None:
    """It requires oip-handler, not oip-host, and imports nothing of the host."""
    text = (plugin / "pyproject.toml").read_text()
    assert re.search(r'^    "oip-handler>=', text, re.MULTILINE)
    assert not re.search(r'^ *"oip-host\b[^"]*[><=]', text, re.MULTILINE)
    sources = list((plugin / "src").rglob("*.py"))
    assert sources
    for source in sources:
        code = source.read_text()
        assert not re.search(r"^\s*(from|import) oip_host\b", code, re.MULTILINE)
