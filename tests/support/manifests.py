"""Manifests as `oip-host manifest` prints them, and their parts."""

from __future__ import annotations

from typing import Any

import yaml

from oip_host.host.assemble import assemble
from oip_host.manifests import documents as manifest
from oip_host.manifests.pod import Pod


def printed(*arguments: str) -> list[Any]:
    """Return the documents that the command prints."""
    pod, _ = configure(*arguments)
    return list(yaml.safe_load_all(manifest.dump(manifest.documents(pod))))


def configure(*arguments: str) -> tuple[Pod, list[str]]:
    """Return the pod of these arguments and the warnings, as the command makes them."""
    launch = assemble(arguments)
    selected = launch.select()
    keys = [choice.key for choice in selected.choices]
    faults = [*launch.faults, *selected.faults]
    return manifest.configure(launch.configuration, keys, faults)


def container(document: Any) -> Any:
    """Return the container that serves."""
    spec = document["spec"]
    spec = spec.get("predictor") or spec.get("template", {}).get("spec") or spec
    return spec["containers"][0]


def variables(document: Any) -> dict[str, Any]:
    """Return the container's variables by name: a text, or the source of the value."""
    found = container(document)["env"]
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in found}
