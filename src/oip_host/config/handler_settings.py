"""The settings of a model's handler, `models.<name>.settings.<setting>`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

from oip_handler.model_paths import find_path_fields
from oip_handler.traits import read_traits
from oip_host.config.model_dir import find_default_path
from oip_host.config.model_options import Key, decode, label
from oip_host.config.sources import Origin, Values, nest
from oip_host.config.validation import validate
from oip_host.errors import nearest

__all__ = ["build_settings", "mask_secrets", "resolve_paths"]


def mask_secrets(handler: Any, values: Values) -> Values:
    """Return the values, those that the handler declares as secrets marked as such.

    If the handler is unknown (None), every setting may be one.
    """
    declared = read_traits(handler).settings
    secret = {
        name
        for name, field in (declared.model_fields if declared else {}).items()
        if _holds_secret(field.annotation)
    }
    return {
        path: replace(origin, secret=True)
        if path[0] == "settings" and (handler is None or secret.intersection(path[1:2]))
        else origin
        for path, origin in values.items()
    }


def _holds_secret(annotation: Any) -> bool:
    """Return whether a field's type is one of pydantic's secrets, or contains one."""
    if annotation in (SecretStr, SecretBytes):
        return True
    return any(map(_holds_secret, get_args(annotation)))


def resolve_paths(
    handler: Any, key: Key, values: Values, model_dir: str | None
) -> Values:
    """Return the values, paths of model files resolved below the model directory.

    A required path that is not set becomes the default place of the model's files, if
    they exist there.
    """
    declared = read_traits(handler).settings
    if declared is None or model_dir is None:
        return values
    directory = Path(model_dir).absolute()
    resolved: Values = {}
    for name, required in find_path_fields(declared):
        path = ("settings", name)
        origin = values.get(path)
        if origin is None and required:
            default, _ = find_default_path(directory, *key)
            if default is not None:
                resolved[path] = Origin(str(default), "oip_model_dir")
        elif origin and isinstance(origin.value, str) and origin.value:
            resolved[path] = replace(origin, value=str(directory / origin.value))
    return {**values, **resolved}


def _add_places(
    declared: type[BaseModel], key: Key, model_dir: str | None, faults: list[str]
) -> list[str]:
    """Return the faults, those of a missing path with the places that were tried."""
    if model_dir is None:
        return faults
    _, places = find_default_path(Path(model_dir).absolute(), *key)
    prefix = f"models.{label(key)}.settings."
    missing = {
        f"{prefix}{n}: required, but not set" for n, _ in find_path_fields(declared)
    }
    return [f"{f}, and {places} does not exist" if f in missing else f for f in faults]


def build_settings(
    handler: Any, key: Key, values: Values, model_dir: str | None = None
) -> tuple[BaseModel | None, list[str]]:
    """Return the handler's `Settings` from `models.<name>.settings.*`, and its faults.

    It is None if the handler declares no settings. Text is read as the field's type,
    and as JSON if it spells a list or an object and the field takes no text. An unknown
    key is a fault unless the class itself allows extra ones.
    """
    below = {
        path[1:]: origin
        for path, origin in values.items()
        if path[0] == "settings" and len(path) > 1
    }
    declared = read_traits(handler).settings
    if declared is None:
        return None, [
            f"{o.source}: this handler takes no settings" for o in below.values()
        ]
    fields = declared.model_fields
    known = {*fields, *(f.alias for f in fields.values() if f.alias)}
    faults = []
    if declared.model_config.get("extra") not in ("allow", "forbid"):
        faults = [
            f"{origin.source}: unknown setting{nearest(path[0], known)}"
            for path, origin in below.items()
            if path[0] not in known
        ]
    tree = {
        name: _decode_for(value, fields.get(name))
        for name, value in nest(below).items()
    }
    settings, wrong = validate(declared, below, f"models.{label(key)}.settings.", tree)
    return settings, faults + _add_places(declared, key, model_dir, wrong)


def _decode_for(value: Any, field: Any) -> Any:
    """Return the value, decoded if it spells a list or object and must not be text."""
    is_json = isinstance(value, str) and value[:1] in ("[", "{")
    if not is_json or _is_text(getattr(field, "annotation", None)):
        return value
    return decode(value)


def _is_text(annotation: Any) -> bool:
    """Return whether a field of this type takes text as it is."""
    if get_origin(annotation) in (Union, UnionType):
        return all(_is_text(a) for a in get_args(annotation) if a is not NoneType)
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    text = (str, bytes, SecretStr, SecretBytes, PurePath)
    return isinstance(annotation, type) and issubclass(annotation, text)
