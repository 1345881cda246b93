"""The models of a host, by name and version."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

from oip_handler.errors import ModelNotFound, ModelNotReady
from oip_host.models.model import Model

__all__ = ["Registry", "newest_first"]


def newest_first(version: str) -> tuple[int, list[int], str]:
    """Return the sort key of a version: numbers by value, above any other text."""
    if re.fullmatch(r"\d+(\.\d+)*", version):
        return 1, [int(part) for part in version.split(".")], version
    return 0, [], version


class Registry:
    """Finds models, and knows whether all that have to be ready are."""

    def __init__(self, models: Sequence[Model] = ()) -> None:
        self._models: dict[str, dict[str, Model]] = {}
        for model in models:
            self.add(model)

    def __iter__(self) -> Iterator[Model]:
        for versions in self._models.values():
            yield from versions.values()

    def add(self, model: Model) -> None:
        """Add a model, its newest version first among its like."""
        versions = {**self._models.get(model.name, {}), model.version: model}
        order = sorted(versions, key=newest_first, reverse=True)
        self._models[model.name] = {version: versions[version] for version in order}

    def names(self) -> list[str]:
        """Return the models' names, in the order in which they were added."""
        return list(self._models)

    def versions(self, name: str) -> list[str]:
        """Return a model's versions, oldest first."""
        return list(reversed(self._models.get(name, {})))

    def find(self, name: str, version: str | None = None) -> Model:
        """Find a model; without a version the newest ready one, or else the newest.

        Raises ModelNotFound.
        """
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFound(f"model '{name}' is not on this server")
        if version:
            if version not in versions:
                raise ModelNotFound(
                    f"model '{name}' has no version '{version}', "
                    f"only {', '.join(reversed(versions))}"
                )
            return versions[version]
        newest = None
        for model in versions.values():
            if model.ready:
                return model
            newest = newest or model
        assert newest is not None
        return newest

    def find_versions(self, name: str) -> list[Model]:
        """Return every version of a model, newest first; raises ModelNotFound."""
        self.find(name)
        return list(self._models[name].values())

    def find_all(self, name: str, version: str | None) -> list[Model]:
        """Return one version of a model, all of its versions, or without a name all."""
        if not name:
            return list(self)
        return [self.find(name, version)] if version else self.find_versions(name)

    def statistics(
        self, name: str = "", version: str | None = None
    ) -> list[dict[str, Any]]:
        """Return a `$model_stat` of each model found; raises ModelNotFound."""
        models = self.find_all(name, version)
        return [
            model.statistics.document(model.name, model.version) for model in models
        ]

    async def unready(self) -> list[str]:
        """Return why the server is not ready: a line for each model that has to be.

        A model that somebody unloaded does not have to be.
        """
        required = [model for model in self if not (model.optional or model.unloaded)]
        healthy = await asyncio.gather(*(model.healthy() for model in required))
        return [
            str(model.not_ready())
            for model, ready in zip(required, healthy, strict=True)
            if not ready
        ]

    def fail_pending(self, reason: str) -> int:
        """Fail every request that is not answered yet, and return their number."""
        return sum(model.fail_pending(ModelNotReady(reason)) for model in self)

    async def unload(self) -> None:
        """Answer what is in flight, and release every handler."""
        await asyncio.gather(*(model.unload_handler() for model in self))
