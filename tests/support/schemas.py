"""Kubernetes documents checked against their schemas; unknown fields are errors."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

CRDS = Path(__file__).parent.parent / "crds"
KUBERNETES = "1.32"
_ANY = {"type": "object"}


def wrong(document: Any) -> list[str]:
    """Return a line for each fault of a document of KServe's kinds or core ones."""
    group, _, version = document["apiVersion"].rpartition("/")
    if group != "serving.kserve.io":
        return _wrong_core(document)
    faults = _validator(document["kind"], version).iter_errors(document)
    found = [f"{fault.json_path}: {fault.message}" for fault in faults]
    spec = document.get("spec", {}).get("predictor") or document.get("spec", {})
    # KServe makes a pod of it, and a CRD leaves out some rules for pods
    if "containers" in spec:
        names = ("containers", "volumes", "initContainers", "enableServiceLinks")
        pod = {name: spec[name] for name in names if name in spec}
        found += _wrong_core(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        )
    return found


def _wrong_core(document: Any) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


@cache
def _validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    name = f"serving.kserve.io_{kind.lower()}s.yaml.gz"
    text = gzip.decompress((CRDS / name).read_bytes())
    crd = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (
        each["schema"]["openAPIV3Schema"]
        for each in crd["spec"]["versions"]
        if each["name"] == version
    )
    closed = _closed(schema)
    closed["properties"]["metadata"] = _ANY
    return jsonschema.Draft202012Validator(closed)


def _closed(schema: Any) -> Any:
    """Return Kubernetes' dialect as JSON Schema that allows only named fields."""
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {n: _closed(s) for n, s in value.items()}
        if key == "properties"
        else [_closed(s) for s in value]
        if isinstance(value, list)
        else _closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes") and key not in ("nullable", "format")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    free = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in made and "additionalProperties" not in made and not free:
        made["additionalProperties"] = False
    if schema.get("nullable"):
        return {"anyOf": [made, {"type": "null"}]}
    return made
