"""Manifests as `oip-host manifest` prints them, and what is in them."""

from __future__ import annotations

from typing import Any

import yaml

from oip_host.manifests import documents as manifest
from oip_host.plugins import discovery as plugins


def printed(*arguments: str) -> list[Any]:
    """The documents that the command prints, read again."""
    pod, _ = manifest.configured(arguments, plugins.manager())
    return list(yaml.safe_load_all(manifest.text(manifest.documents(pod))))


def container(document: Any) -> Any:
    """The container that serves."""
    spec = document["spec"]
    spec = spec.get("predictor") or spec.get("template", {}).get("spec") or spec
    return spec["containers"][0]


def variables(document: Any) -> dict[str, Any]:
    """The container's variables, by name: a text, or where it is from."""
    found = container(document)["env"]
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in found}
