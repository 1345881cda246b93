"""What both edges tell of a host with several workers, whichever of them is asked.

Each worker answers the others for itself alone, as `ServerState` does.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client.registry import Collector

from oip_handler.errors import ModelNotReady, OIPError
from oip_host.models.registry import Registry
from oip_host.models.server_state import ServerState
from oip_host.workers.count_files import Counted, Snapshots
from oip_host.workers.count_merge import Metrics
from oip_host.workers.identity import Place
from oip_host.workers.model_changes import LOAD, UNLOAD, Changes
from oip_host.workers.peers import Siblings

__all__ = ["SharedState"]

Reasons = list[str]
Index = list[dict[str, str]]


class SharedState(ServerState):
    """One answer for all workers, and changes that reach each of them."""

    def __init__(self, registry: Registry, control: str, place: Place) -> None:
        super().__init__(registry, control)
        self._place = place
        self._changes = Changes(place.path)
        self._snapshots = Snapshots(place, registry)
        answers: dict[str, Callable[..., Awaitable[Any]]] = {
            "unready": super().unready,
            "check_ready": self._own_check_ready,
            "index": super().index,
            LOAD: self._own_load,
            UNLOAD: self._own_unload,
            "write": self._snapshots.write,
        }
        self._siblings = Siblings(place, answers)

    # -- this worker's own ----------------------------------------------------

    async def start(self) -> None:
        await asyncio.to_thread(self._snapshots.bury)
        await self._siblings.start()
        self._keeping = asyncio.create_task(self._snapshots.keep())

    async def close(self) -> None:
        self._keeping.cancel()
        self._siblings.close()
        await self._snapshots.write()
        if self._place.is_orphan:
            shutil.rmtree(self._place.directory, ignore_errors=True)

    def stays_unloaded(self, name: str) -> bool:
        return self._changes.last(name) == UNLOAD

    async def _own_check_ready(self, name: str, version: str | None) -> Reasons:
        return await _refusal(super().check_ready(name, version))

    async def _own_load(self, name: str) -> Reasons:
        return await _refusal(super().load(name))

    async def _own_unload(self, name: str) -> Reasons:
        return await _refusal(super().unload(name))

    # -- of all workers -------------------------------------------------------

    async def unready(self) -> Reasons:
        if self.draining:
            return await super().unready()
        return await self._everywhere(super().unready(), "unready")

    async def check_ready(self, name: str, version: str | None = None) -> None:
        self.registry.find(name, version)
        own = self._own_check_ready(name, version)
        _raise(await self._everywhere(own, "check_ready", name, version))

    async def index(self, ready: bool = False) -> Index:
        own, others = await asyncio.gather(super().index(), self._siblings.ask("index"))
        entries = [_agreed(entry, self._place.index, others) for entry in own]
        return [e for e in entries if e["state"] == "READY" or not ready]

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        self.repository.check(name, parameters)
        await self.repository.complete(self._load(name))

    async def _load(self, name: str) -> None:
        async with self._changes.turn(name, LOAD):
            # here first: what takes this worker down does not reach the others
            mine = await self._own_load(name)
            others = await self._siblings.ask(LOAD, name, timeout_s=None)
        _raise(_told({self._place.index: mine, **others}))

    async def unload(self, name: str) -> None:
        self.repository.check(name)
        await self.repository.complete(self._unload(name))

    async def _unload(self, name: str) -> None:
        async with self._changes.turn(name, UNLOAD):
            own = self._own_unload(name)
            reasons = await self._everywhere(own, UNLOAD, name, timeout_s=None)
        _raise(reasons)

    async def statistics(
        self, name: str, version: str | None = None
    ) -> list[dict[str, Any]]:
        models = self.registry.matching(name, version)
        counted = {(s["name"], s["version"]): s for s in (await self._counted())[1]}
        return [counted[model.name, model.version] for model in models]

    async def metrics(self) -> Collector:
        return Metrics((await self._counted()).families)

    async def _counted(self) -> Counted:
        """What all have counted until now, and what those had who are gone."""
        await asyncio.gather(self._snapshots.write(), self._siblings.ask("write"))
        return await self._snapshots.read()

    async def _everywhere(
        self, own: Awaitable[Reasons], question: str, *arguments: Any, **options: Any
    ) -> Reasons:
        """The reasons of all workers."""
        asking = self._siblings.ask(question, *arguments, **options)
        mine, others = await asyncio.gather(own, asking)
        return _told({self._place.index: mine, **others})


async def _refusal(call: Awaitable[None]) -> Reasons:
    """The text of the error that a call raises, if it raises one."""
    try:
        await call
    except OIPError as error:
        return [str(error)]
    return []


def _told(reasons: Mapping[int, Reasons | None]) -> Reasons:
    """Each reason with its worker, and each worker that gave no answer."""
    lines = []
    for index, its in sorted(reasons.items()):
        if its is None:
            lines.append(_silent(index))
        else:
            lines += [f"worker {index}: {reason}" for reason in its]
    return lines


def _silent(index: int) -> str:
    return f"worker {index} does not answer"


def _raise(reasons: Reasons) -> None:
    if reasons:
        raise ModelNotReady("; ".join(reasons))


def _agreed(
    own: dict[str, str], index: int, others: Mapping[int, Index | None]
) -> dict[str, str]:
    """An entry of the index: what all say, or else the first that is not ready.

    That one's reason has its name.
    """
    said = {index: own, **{other: _same(own, e) for other, e in others.items()}}
    if all(entry == own for entry in said.values()):
        return own
    for worker, entry in sorted(said.items()):
        if entry is None:
            return {**own, "state": "UNAVAILABLE", "reason": _silent(worker)}
        if entry["state"] != "READY":
            reason = f"worker {worker}: {entry['reason']}".removesuffix(": ")
            return {**entry, "reason": reason}
    return own


def _same(own: dict[str, str], entries: Index | None) -> dict[str, str] | None:
    """The entry of the same model version, where there is one."""
    for entry in entries or ():
        if (entry["name"], entry["version"]) == (own["name"], own["version"]):
            return entry
    return None
