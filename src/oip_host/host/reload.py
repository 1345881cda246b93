"""Options that change while the host runs: read again, compared, reported, applied.

All or nothing: with a fault anywhere no option changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from oip_host.config import selection
from oip_host.config.configuration import Configuration
from oip_host.config.model_options import ModelOptions, group_by_model, label
from oip_host.config.property_watch import PropertyWatcher
from oip_host.config.settings import Settings, reloadable_options
from oip_host.config.sources import Origin, Values
from oip_host.errors import ConfigurationError
from oip_host.host.model_configuration import configure_model
from oip_host.host.planning import PlannedModel
from oip_host.telemetry import logs

__all__ = ["Change", "ReloadPlan", "Reloadable", "follow", "plan_reload"]

log = logging.getLogger("oip_host")

_MASK = Origin("", "", secret=True).shown


@dataclass(frozen=True)
class Change:
    """An option that is set to something else than what is in effect."""

    option: str
    old: str
    new: str
    source: str
    at_once: bool
    """Whether it takes effect at once, or at the next start of the host."""

    def __str__(self) -> str:
        return f"{self.option}: {self.old} -> {self.new} ({self.source})"


@dataclass(frozen=True)
class ReloadPlan:
    """The options to put into effect, and everything that is set differently."""

    configuration: Configuration
    models: tuple[tuple[PlannedModel, ModelOptions], ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


class Reloadable(Protocol):
    """A host whose options can change while it runs."""

    configuration: Configuration
    planned: tuple[PlannedModel, ...]

    def reconfigure(self, plan: ReloadPlan) -> None:
        """Put the options of a plan into effect."""


async def follow(watcher: PropertyWatcher, host: Reloadable) -> None:
    """Read the options again at each reason, and have the host apply the changes."""
    async for is_requested in watcher.watch(host.configuration.property_contents):
        try:
            plan = await asyncio.to_thread(
                plan_reload, host.configuration, host.planned
            )
            _apply(plan, host)
        except ConfigurationError as error:
            for fault in error.faults:
                log.error("%s", fault)
            log.error(
                "reload rejected, no option changed: the new configuration is invalid"
            )
        except Exception:
            log.exception(
                "reload failed, no option changed: the options could not be read"
            )
        else:
            if is_requested and not plan.changes:
                log.info("reloaded: no option has changed")


def plan_reload(
    configuration: Configuration, planned: Sequence[PlannedModel]
) -> ReloadPlan:
    """Read every option again; raises ConfigurationError with all faults at once."""
    fresh, faults = configuration.read_again()
    faults += selection.parse(fresh.settings.oip_handlers)[1]
    chosen = [each for each in planned if each.choice is not None]
    values, warnings = group_by_model(fresh.origins, [each.key for each in chosen])
    changes = list(_compare_server(configuration, fresh))
    models = []
    for each in chosen:
        new = configure_model(
            each.key,
            values[each.key],
            each.handler,
            configuration.settings.oip_model_dir,
        )
        faults += new.faults
        options = new.options or each.model.options
        at_once = _find_changeable(each.model.options, options)
        changes += _compare_model(each, options, new.values, at_once)
        models.append(_merge_model(each, options, new.values, at_once))
    if faults:
        raise ConfigurationError(faults)
    merged = _merge_server(configuration, fresh)
    return ReloadPlan(merged, tuple(models), tuple(changes), tuple(warnings))


def _apply(plan: ReloadPlan, host: Reloadable) -> None:
    """Log the changes, at the more verbose of both log levels, and apply them."""
    old = host.configuration.settings.oip_log_level
    new = plan.configuration.settings.oip_log_level
    if old != new:
        logs.set_level(min((old, new), key=logging.getLevelName))
    _report(plan)
    host.reconfigure(plan)
    if old != new:
        logs.set_level(new)


def _report(plan: ReloadPlan) -> None:
    """Log each change, and which of them wait for the next start."""
    for change in plan.changes:
        log.info("%s", change)
    for line in plan.warnings if plan.changes else ():
        log.warning("%s", line)
    later = [change.option for change in plan.changes if not change.at_once]
    if later:
        log.warning("takes effect at the next start: %s", ", ".join(later))


def _compare_server(old: Configuration, new: Configuration) -> Iterator[Change]:
    """Yield each option of the server that is set differently."""
    at_once = reloadable_options(Settings)
    before = {name: shown for name, shown, _ in old.list_effective()}
    for name, shown, source in new.list_effective():
        if getattr(old.settings, name) != getattr(new.settings, name):
            yield Change(name, before[name], shown, source, name in at_once)


def _merge_server(old: Configuration, new: Configuration) -> Configuration:
    """Return the old configuration with the new options that take effect at once."""
    at_once = reloadable_options(Settings)
    values = {name: getattr(new.settings, name) for name in at_once}
    return replace(
        old,
        settings=old.settings.model_copy(update=values),
        origins=_merge_values(old.origins, new.origins, at_once),
    )


def _merge_values(old: Values, new: Values, at_once: Collection[str]) -> Values:
    """Return the old values, those of these options replaced by the new ones."""
    kept = {path: origin for path, origin in old.items() if path[0] not in at_once}
    return kept | {path: o for path, o in new.items() if path[0] in at_once}


def _find_changeable(old: ModelOptions, new: ModelOptions) -> frozenset[str]:
    """Return the options of a model that may change while it runs."""
    batched = min(old.max_batch_size, new.max_batch_size) > 1
    return reloadable_options(ModelOptions) - (
        {"max_batch_size"} if not batched else set()
    )


def _compare_model(
    planned: PlannedModel, new: ModelOptions, values: Values, at_once: Collection[str]
) -> Iterator[Change]:
    """Yield each option and setting of a model that is set differently."""
    prefix = f"models.{label(planned.key)}."
    old = planned.model.options
    for name in ModelOptions.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if name == "settings" or before == after:
            continue
        yield Change(
            prefix + name,
            _show(name, before, planned.values),
            _show(name, after, values),
            next((o.source for path, o in values.items() if path[0] == name), "unset"),
            name in at_once,
        )
    settings = (path for path in planned.values | values if path[0] == "settings")
    for path in settings:
        was, now = planned.values.get(path), values.get(path)
        if was is None or now is None or was.value != now.value:
            yield Change(
                prefix + ".".join(path),
                was.shown if was else "unset",
                now.shown if now else "unset",
                now.source if now else "unset",
                at_once=False,
            )


def _show(name: str, value: object, values: Values) -> str:
    """Return the text of an option, masked if a value below its name is a secret."""
    secret = any(origin.secret for path, origin in values.items() if path[0] == name)
    return _MASK if secret else str(value)


def _merge_model(
    planned: PlannedModel, new: ModelOptions, values: Values, at_once: Collection[str]
) -> tuple[PlannedModel, ModelOptions]:
    """Return a model with the values set for it, and its options from now on."""
    kept = {name: getattr(new, name) for name in at_once}
    changed = planned.model.options.model_copy(update=kept)
    merged = _merge_values(planned.values, values, at_once)
    return replace(planned, values=merged), changed
