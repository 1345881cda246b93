"""From the chosen handlers to the models that serve them: import, settings, wiring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from oip_handler.errors import HandlerFault
from oip_host.config.model_options import (
    OF_REPLICAS,
    Key,
    ModelOptions,
    group_by_model,
    label,
)
from oip_host.config.sources import Values
from oip_host.host.model_configuration import (
    ImportedHandler,
    ModelConfiguration,
    configure_model,
    import_for,
)
from oip_host.host.replication import build_remote_source, find_missing_tools
from oip_host.models.construction import construct_handler
from oip_host.models.model import Model
from oip_host.plugins.choice import Choice
from oip_host.replicas.cluster import Cluster
from oip_host.telemetry import crash_report
from oip_host.telemetry.observer import Observer

__all__ = [
    "Plan",
    "PlannedModel",
    "SkippedHandler",
    "Wiring",
    "plan",
]


@dataclass(frozen=True)
class PlannedModel:
    """A model of the host and where it comes from."""

    model: Model
    choice: Choice | None = None
    values: Values = field(default_factory=dict)
    """The values set for the model, by path below `models.<name>`."""
    handler: Any = None
    """Its class or factory, if the host itself imports it."""

    @property
    def key(self) -> Key:
        """The name and the version of the model."""
        return self.model.name, self.model.version

    def list_effective(self) -> Iterator[tuple[str, str, str]]:
        """Yield each option of the model as (name, value, source), secrets masked."""
        prefix = f"models.{label(self.key)}."
        unused = () if self.model.options.is_replicated else OF_REPLICAS
        for name in ModelOptions.model_fields:
            hidden = name == "settings" or name in unused
            if not hidden and (name,) not in self.values:
                value = getattr(self.model.options, name)
                yield prefix + name, str(value), "default"
        for path, origin in self.values.items():
            yield prefix + ".".join(path), origin.shown, origin.source


@dataclass(frozen=True)
class SkippedHandler:
    """An installed handler that nobody named, and that cannot run as configured."""

    choice: Choice
    reason: str

    @property
    def handler(self) -> str:
        """The name of the handler, as the selection has it."""
        return self.choice.item.handler


@dataclass(frozen=True)
class Plan:
    """The models to serve, the handlers to skip, and what is wrong or doubtful."""

    models: tuple[PlannedModel, ...] = ()
    skipped: tuple[SkippedHandler, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def with_faults(self, first: Sequence[str]) -> Plan:
        """Return the same plan, with these faults before its own."""
        return replace(self, faults=(*first, *self.faults))


@dataclass(frozen=True)
class Wiring:
    """The parts of the host that every model is connected to."""

    model_dir: str | None
    observer: Observer
    cluster: Cluster
    model_class: type[Model] = Model


def plan(choices: Sequence[Choice], origins: Values, wiring: Wiring) -> Plan:
    """Return the models to serve; those with replicas have them in the cluster.

    Handlers are imported and not constructed. A handler that nobody named and for which
    nothing is set is skipped if it lacks a required setting.
    """
    values, warnings = group_by_model(origins, [choice.key for choice in choices])
    models: list[PlannedModel] = []
    skipped: list[SkippedHandler] = []
    faults: list[str] = []
    for choice in choices:
        imported = import_for(choice, values[choice.key])
        configured = configure_model(
            choice.key, values[choice.key], imported.handler, wiring.model_dir
        )
        is_wanted = choice.named or values[choice.key]
        if configured.setting_faults and not is_wanted:
            skipped.append(
                SkippedHandler(choice, _describe_lack(configured.setting_faults))
            )
        else:
            models.append(_build_model(choice, imported, configured, wiring))
            faults += configured.faults
            faults += find_missing_tools(choice.key, configured.options)
    return Plan(tuple(models), tuple(skipped), tuple(faults), tuple(warnings))


def _describe_lack(faults: Sequence[str]) -> str:
    """Return what a handler lacks, from the faults of its settings."""
    lacking = (fault.replace(": required, but not set", "", 1) for fault in faults)
    return f"needs {', '.join(lacking)}"


def _build_model(
    choice: Choice,
    imported: ImportedHandler,
    configured: ModelConfiguration,
    wiring: Wiring,
) -> PlannedModel:
    """Return the model of a choice, which constructs its handler when it loads."""
    options = configured.options or ModelOptions()
    source: partial[Any] = partial(_construct, choice, imported, configured.arguments)
    if options.is_replicated:
        source = build_remote_source(
            choice, imported, configured, wiring.cluster, wiring.model_dir
        )
    item = choice.item
    model = wiring.model_class(
        item.model, source, version=item.version, optional=item.optional,
        options=options, observer=wiring.observer,
    )  # fmt: skip
    model.handled_by = crash_report.describe_handler(choice.entry)
    return PlannedModel(model, choice, configured.values, imported.handler)


def _construct(
    choice: Choice, imported: ImportedHandler, arguments: dict[str, Any]
) -> Any:
    """Return the handler, in the host itself; raises HandlerFault."""
    if imported.reason is not None:
        raise HandlerFault(imported.reason)
    return construct_handler(
        imported.handler, choice.item.model, choice.entry.target, arguments
    )
