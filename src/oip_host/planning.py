"""From the chosen handlers to the models that serve them: import, settings, wiring."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from oip_host import options, plugins
from oip_host.errors import HandlerFault
from oip_host.kserve_api import kserve
from oip_host.model import AissembleOIPKServe, Observer
from oip_host.options import ModelOptions
from oip_host.plugins import Choice
from oip_host.settings import Configuration
from oip_host.sources import Values

__all__ = ["Planned", "constructed", "plan"]


@dataclass(frozen=True)
class Planned:
    """A model of the host and where it comes from."""

    model: AissembleOIPKServe
    choice: Choice | None = None
    values: Values = field(default_factory=dict)
    """What was set for the model, by path below `models.<name>`."""

    def effective(self) -> Iterator[tuple[str, str, str]]:
        """Each option of the model as (name, value, source), secrets masked."""
        prefix = f"models.{options.label((self.model.name, self.model.version))}."
        for name in ModelOptions.model_fields:
            if name != "settings" and (name,) not in self.values:
                value = getattr(self.model.options, name)
                yield prefix + name, str(value), "default"
        for path, origin in self.values.items():
            yield prefix + ".".join(path), origin.shown, origin.source


def plan(
    choices: Sequence[Choice], configuration: Configuration, observer: Observer
) -> tuple[list[Planned], list[str], list[str]]:
    """The models to serve, the faults of their options, and warnings."""
    keys = [(choice.item.model, choice.item.version) for choice in choices]
    values, warnings = options.by_model(configuration.origins, keys)
    planned: list[Planned] = []
    faults: list[str] = []
    for choice, key in zip(choices, keys, strict=True):
        chosen, wrong = options.model_options(key, values[key])
        handler, reason = plugins.load(choice.entry)
        arguments: dict[str, Any] = {}
        if reason is None:
            values[key] = options.masked(handler, values[key])
            made, unset = options.handler_settings(handler, key, values[key])
            if unset and not choice.named and not values[key]:
                warnings.append(f"handler '{choice.item.handler}' is passed over: "
                                f"{'; '.join(unset)}")  # fmt: skip
                continue
            wrong += unset
            arguments = {"settings": made} if made is not None else {}
        faults += wrong
        model = _model(choice, handler, reason, arguments, chosen, observer)
        planned.append(Planned(model, choice, values[key]))
    return planned, faults, warnings


def _model(
    choice: Choice,
    handler: Any,
    reason: str | None,
    arguments: dict[str, Any],
    chosen: ModelOptions | None,
    observer: Observer,
) -> AissembleOIPKServe:
    def make() -> Any:
        if reason is not None:
            raise HandlerFault(reason)
        return constructed(handler, choice.item.model, choice.entry.target, arguments)

    return AissembleOIPKServe(
        choice.item.model,
        make,
        version=choice.item.version,
        optional=choice.item.optional,
        options=chosen,
        observer=observer,
    )


def constructed(
    handler: Any, model: str, target: str, arguments: dict[str, Any]
) -> Any:
    """An instance of a handler class, of a factory's handler, or of a `kserve.Model`.

    A `kserve.Model` whose constructor takes a `name` gets the model's, and bears it in
    any case. Raises HandlerFault where the object cannot be called, or its call raises.
    """
    if not callable(handler):
        raise HandlerFault(
            f"{target} is no handler: it is a {type(handler).__name__}, "
            "expected a class or a factory"
        )
    is_model = isinstance(handler, type) and issubclass(handler, kserve.Model)
    if is_model and _takes_name(handler):
        arguments = {"name": model, **arguments}
    try:
        made = handler(**arguments)
    except Exception as error:
        raise HandlerFault(
            f"{target} could not be constructed: {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, kserve.Model):
        made.name = model
    return made


def _takes_name(model: type[Any]) -> bool:
    return "name" in inspect.signature(model).parameters
