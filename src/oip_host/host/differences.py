"""The options in effect, beside what they are set to by now, and what may change."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from oip_host.config import model_options as options
from oip_host.config import selection
from oip_host.config.model_options import ModelOptions
from oip_host.config.settings import Configuration, Settings, read, reloadable
from oip_host.config.sources import Origin, Values
from oip_host.errors import ConfigurationError
from oip_host.host.planning import Planned

__all__ = ["Change", "Found", "find"]

_MASK = Origin("", "", secret=True).shown


@dataclass(frozen=True)
class Change:
    """An option that is set to something else than what is in effect."""

    option: str
    old: str
    new: str
    source: str
    at_once: bool
    """Whether it holds from now on, or from the next start of the host."""

    def __str__(self) -> str:
        return f"{self.option}: {self.old} -> {self.new} ({self.source})"


@dataclass(frozen=True)
class Found:
    """What is to be in effect from now on, and all that is set differently."""

    configuration: Configuration
    models: tuple[tuple[Planned, ModelOptions], ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


def find(configuration: Configuration, planned: Sequence[Planned]) -> Found:
    """Read every option again; raises ConfigurationError with all faults at once."""
    fresh, faults = read(configuration.arguments)
    faults += selection.parse(fresh.settings.oip_handlers)[1]
    chosen = [each for each in planned if each.choice is not None]
    keys = [(each.model.name, each.model.version) for each in chosen]
    values, warnings = options.by_model(fresh.origins, keys)
    changes = list(_of_server(configuration, fresh))
    model_dir = configuration.settings.oip_model_dir
    models = []
    for key, each in zip(keys, chosen, strict=True):
        below = options.masked(each.handler, values[key])
        new, wrong = options.model_options(key, below)
        if each.handler is not None:
            below = options.located(each.handler, key, below, model_dir)
            made = options.handler_settings(each.handler, key, below, model_dir)
            wrong += made[1]
        faults += wrong
        new = new or each.model.options
        at_once = _at_once(each.model.options, new)
        changes += _of_model(each, new, below, at_once)
        models.append(_merged_model(each, new, below, at_once))
    if faults:
        raise ConfigurationError(faults)
    kept = _merged(configuration, fresh)
    return Found(kept, tuple(models), tuple(changes), tuple(warnings))


def _of_server(old: Configuration, new: Configuration) -> Iterator[Change]:
    at_once = reloadable(Settings)
    before = {name: shown for name, shown, _ in old.effective()}
    for name, shown, source in new.effective():
        if getattr(old.settings, name) != getattr(new.settings, name):
            yield Change(name, before[name], shown, source, name in at_once)


def _merged(old: Configuration, new: Configuration) -> Configuration:
    """The old configuration, and what is new and holds at once."""
    at_once = reloadable(Settings)
    values = {name: getattr(new.settings, name) for name in at_once}
    return replace(
        old,
        settings=old.settings.model_copy(update=values),
        origins=_mixed(old.origins, new.origins, at_once),
    )


def _mixed(old: Values, new: Values, at_once: Collection[str]) -> Values:
    kept = {path: origin for path, origin in old.items() if path[0] not in at_once}
    return kept | {path: o for path, o in new.items() if path[0] in at_once}


def _at_once(old: ModelOptions, new: ModelOptions) -> frozenset[str]:
    """The options of a model that change while it runs."""
    batched = min(old.max_batch_size, new.max_batch_size) > 1
    return reloadable(ModelOptions) - ({"max_batch_size"} if not batched else set())


def _of_model(
    planned: Planned, new: ModelOptions, values: Values, at_once: Collection[str]
) -> Iterator[Change]:
    model = planned.model
    prefix = f"models.{options.label((model.name, model.version))}."
    old = model.options
    for name in ModelOptions.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if name == "settings" or before == after:
            continue
        yield Change(
            prefix + name,
            _shown(name, before, planned.values),
            _shown(name, after, values),
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


def _shown(name: str, value: object, values: Values) -> str:
    """A value as a person may see it, who set it below this name."""
    secret = any(origin.secret for path, origin in values.items() if path[0] == name)
    return _MASK if secret else str(value)


def _merged_model(
    planned: Planned, new: ModelOptions, values: Values, at_once: Collection[str]
) -> tuple[Planned, ModelOptions]:
    """A model with what was set for it, and its options from now on."""
    kept = {name: getattr(new, name) for name in at_once}
    changed = planned.model.options.model_copy(update=kept)
    mixed = _mixed(planned.values, values, at_once)
    return replace(planned, values=mixed), changed
