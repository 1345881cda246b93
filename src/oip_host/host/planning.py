"""From the chosen handlers to the models that serve them: import, settings, wiring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from oip_handler.errors import HandlerFault
from oip_host.config import model_options as options
from oip_host.config.model_options import ModelOptions
from oip_host.config.settings import Configuration
from oip_host.config.sources import Values
from oip_host.models.construction import construct_handler
from oip_host.models.model import Model
from oip_host.plugins import discovery as plugins
from oip_host.plugins.discovery import Choice
from oip_host.replicas.cluster import Cluster
from oip_host.replicas.handler import Replicated, deployment_options
from oip_host.replicas.replica import Blueprint, Given, local_path
from oip_host.telemetry import crash_report as crash
from oip_host.telemetry.observer import Observer

__all__ = ["Planned", "plan"]


@dataclass(frozen=True)
class Planned:
    """A model of the host and where it comes from."""

    model: Model
    choice: Choice | None = None
    values: Values = field(default_factory=dict)
    """What was set for the model, by path below `models.<name>`."""
    handler: Any = None
    """Its class or factory, where the host itself imports it."""

    def effective(self) -> Iterator[tuple[str, str, str]]:
        """Each option of the model as (name, value, source), secrets masked."""
        prefix = f"models.{options.label((self.model.name, self.model.version))}."
        unused = () if self.model.options.replicated else options.OF_REPLICAS
        for name in ModelOptions.model_fields:
            hidden = name == "settings" or name in unused
            if not hidden and (name,) not in self.values:
                value = getattr(self.model.options, name)
                yield prefix + name, str(value), "default"
        for path, origin in self.values.items():
            yield prefix + ".".join(path), origin.shown, origin.source


def plan(
    choices: Sequence[Choice],
    configuration: Configuration,
    observer: Observer,
    cluster: Cluster,
    model_class: type[Model] = Model,
) -> tuple[list[Planned], list[str], list[str]]:
    """The models to serve, the faults of their options, and warnings.

    Those with replicas have them in the cluster.
    """
    keys = [(choice.item.model, choice.item.version) for choice in choices]
    values, warnings = options.by_model(configuration.origins, keys)
    model_dir = configuration.settings.oip_model_dir
    planned: list[Planned] = []
    faults: list[str] = []
    for choice, key in zip(choices, keys, strict=True):
        chosen, wrong = options.model_options(key, values[key])
        found = _found(choice, chosen)
        if found.apart:
            values[key] = options.masked(None, values[key])
        elif found.reason is None:
            values[key] = options.masked(found.handler, values[key])
            untouched = not values[key]
            values[key] = options.located(found.handler, key, values[key], model_dir)
            made, unset = options.handler_settings(
                found.handler, key, values[key], model_dir
            )
            if unset and not choice.named and untouched:
                warnings.append(f"handler '{choice.item.handler}' is passed over: "
                                f"{'; '.join(unset)}")  # fmt: skip
                continue
            wrong += unset
            if made is not None:
                found.arguments["settings"] = made
        faults += wrong
        chosen = chosen or ModelOptions()
        source: partial[Any] = partial(_made, choice, found)
        if chosen.replicated:
            faults += _unfit(choice, chosen)
            given = Given(values[key], model_dir) if found.apart else None
            source = _elsewhere(choice, found, chosen, given, cluster)
        item = choice.item
        model = model_class(
            item.model, source, version=item.version, optional=item.optional,
            options=chosen, observer=observer,
        )  # fmt: skip
        model.handled_by = crash.named(choice.entry)
        handler = None if found.apart else found.handler
        planned.append(Planned(model, choice, values[key], handler))
    return planned, faults, warnings


@dataclass(frozen=True)
class _Found:
    """What the host knows of a handler before it is constructed."""

    handler: Any
    reason: str | None = None
    """Why it does not import."""
    apart: bool = False
    """Whether only the replicas, in an environment of their own, import it."""
    arguments: dict[str, Any] = field(default_factory=dict)


def _found(choice: Choice, chosen: ModelOptions | None) -> _Found:
    if chosen is not None and (chosen.py_executable or chosen.runtime_env):
        return _Found(choice.entry.target, apart=True)
    return _Found(*plugins.load(choice.entry))


def _made(choice: Choice, found: _Found) -> Any:
    """The handler, in the host itself."""
    if found.reason is not None:
        raise HandlerFault(found.reason)
    return construct_handler(
        found.handler, choice.item.model, choice.entry.target, found.arguments
    )


def _unfit(choice: Choice, chosen: ModelOptions) -> list[str]:
    """What stands against replicas of a model, a line for each fault."""
    name = f"models.{options.label((choice.item.model, choice.item.version))}"
    faults = []
    if find_spec("ray") is None:
        faults.append(
            f"{name}: replicas need Ray, which is not installed: "
            "pip install 'oip-host[ray]'"
        )
    if {"pip", "uv"} & set(chosen.runtime_env) and find_spec("pip") is None:
        faults.append(
            f"{name}.runtime_env: Ray installs packages with pip, which is not in the "
            "host's environment; install it, or use py_executable"
        )
    return faults


def _elsewhere(
    choice: Choice,
    found: _Found,
    chosen: ModelOptions,
    given: Given | None,
    cluster: Cluster,
) -> partial[Replicated]:
    """What makes the handler that asks the replicas."""
    blueprint = Blueprint(
        choice.item.model,
        choice.item.version,
        found.handler,
        choice.entry.target,
        found.arguments,
        given,
        chosen.max_concurrency,
        () if found.apart else local_path(),
    )

    # a reload has new replicas beside the old ones
    cpus = 1.0 if chosen.num_cpus is None else chosen.num_cpus
    cluster.expect(2 * chosen.most_replicas * cpus)
    return partial(_asking, cluster, blueprint, found, chosen)


def _asking(
    cluster: Cluster, blueprint: Blueprint, found: _Found, chosen: ModelOptions
) -> Replicated:
    if found.reason is not None:
        raise HandlerFault(found.reason)
    return Replicated(
        cluster,
        blueprint,
        deployment_options(found.handler, chosen),
        most_replicas=chosen.most_replicas,
        idempotent=chosen.idempotent,
    )
