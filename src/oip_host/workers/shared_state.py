"""The state of a host with several workers, the same whichever of them is asked.

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
from oip_host.workers.count_files import CountFiles, Counts
from oip_host.workers.count_merge import MergedMetrics
from oip_host.workers.identity import WorkerIdentity
from oip_host.workers.model_changes import LOAD, UNLOAD, ModelChanges
from oip_host.workers.peers import Peers

__all__ = ["SharedState"]

Reasons = list[str]
Index = list[dict[str, str]]


class SharedState(ServerState):
    """One answer for all workers, and changes that reach each of them."""

    def __init__(
        self, registry: Registry, control: str, identity: WorkerIdentity
    ) -> None:
        super().__init__(registry, control)
        self._identity = identity
        self._changes = ModelChanges(identity.path)
        self._count_files = CountFiles(identity, registry)
        functions: dict[str, Callable[..., Awaitable[Any]]] = {
            "unready": super().unready,
            "check_ready": self._own_check_ready,
            "index": super().index,
            LOAD: self._own_load,
            UNLOAD: self._own_unload,
            "write": self._count_files.write,
        }
        self._peers = Peers(identity, functions)

    # -- this worker alone ----------------------------------------------------

    async def start(self) -> None:
        """Answer the other workers, and write counts."""
        await asyncio.to_thread(self._count_files.merge_dead_workers)
        await self._peers.start()
        self._writer = asyncio.create_task(self._count_files.run_writer())

    async def close(self) -> None:
        """Write the last counts; without a supervisor, remove the directory."""
        self._writer.cancel()
        self._peers.close()
        await self._count_files.write()
        if self._identity.is_orphan:
            shutil.rmtree(self._identity.directory, ignore_errors=True)

    def stays_unloaded(self, name: str) -> bool:
        """Return whether the model was unloaded before this worker started."""
        return self._changes.read_last(name) == UNLOAD

    async def _own_check_ready(self, name: str, version: str | None) -> Reasons:
        return await _catch_refusal(super().check_ready(name, version))

    async def _own_load(self, name: str) -> Reasons:
        return await _catch_refusal(super().load(name))

    async def _own_unload(self, name: str) -> Reasons:
        return await _catch_refusal(super().unload(name))

    # -- all workers ----------------------------------------------------------

    async def unready(self) -> Reasons:
        """Return the reasons why any worker is not ready."""
        if self.draining:
            return await super().unready()
        return await self._ask_all(super().unready(), "unready")

    async def check_ready(self, name: str, version: str | None = None) -> None:
        """Raise ModelNotReady with the reasons of all workers, and ModelNotFound."""
        self.registry.find(name, version)
        own = self._own_check_ready(name, version)
        _raise_unready(await self._ask_all(own, "check_ready", name, version))

    async def index(self, ready: bool = False) -> Index:
        """Return the index with the state that each model has in all workers."""
        own, others = await asyncio.gather(super().index(), self._peers.ask("index"))
        entries = [_merge_entries(e, self._identity.index, others) for e in own]
        return [e for e in entries if e["state"] == "READY" or not ready]

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        """Load a model in every worker; see `Repository.load`."""
        self.repository.check(name, parameters)
        await self.repository.complete(self._load(name))

    async def _load(self, name: str) -> None:
        async with self._changes.acquire(name, LOAD):
            # here first: what kills this worker does not reach the others
            mine = await self._own_load(name)
            others = await self._peers.ask(LOAD, name, timeout_s=None)
        _raise_unready(_name_workers({self._identity.index: mine, **others}))

    async def unload(self, name: str) -> None:
        """Unload a model in every worker; see `Repository.unload`."""
        self.repository.check(name)
        await self.repository.complete(self._unload(name))

    async def _unload(self, name: str) -> None:
        async with self._changes.acquire(name, UNLOAD):
            own = self._own_unload(name)
            reasons = await self._ask_all(own, UNLOAD, name, timeout_s=None)
        _raise_unready(reasons)

    async def statistics(
        self, name: str, version: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the statistics of all workers; see `Registry.statistics`."""
        models = self.registry.find_all(name, version)
        counts = await self._collect_counts()
        by_model = {(s["name"], s["version"]): s for s in counts.statistics}
        return [by_model[model.name, model.version] for model in models]

    async def metrics(self) -> Collector:
        """Return a collector of the metrics of all workers."""
        return MergedMetrics((await self._collect_counts()).families)

    async def _collect_counts(self) -> Counts:
        """Return what all workers have counted until now, including dead ones."""
        await asyncio.gather(self._count_files.write(), self._peers.ask("write"))
        return await self._count_files.read()

    async def _ask_all(
        self, own: Awaitable[Reasons], name: str, *arguments: Any, **options: Any
    ) -> Reasons:
        """Return the reasons of all workers."""
        asking = self._peers.ask(name, *arguments, **options)
        mine, others = await asyncio.gather(own, asking)
        return _name_workers({self._identity.index: mine, **others})


async def _catch_refusal(call: Awaitable[None]) -> Reasons:
    """Return the text of the error that a call raises, if it raises one."""
    try:
        await call
    except OIPError as error:
        return [str(error)]
    return []


def _name_workers(reasons: Mapping[int, Reasons | None]) -> Reasons:
    """Return each reason with its worker, and each worker that did not answer."""
    lines = []
    for index, of_worker in sorted(reasons.items()):
        if of_worker is None:
            lines.append(_describe_silence(index))
        else:
            lines += [f"worker {index}: {reason}" for reason in of_worker]
    return lines


def _describe_silence(index: int) -> str:
    return f"worker {index} does not answer"


def _raise_unready(reasons: Reasons) -> None:
    """Raise ModelNotReady with the reasons, if there are any."""
    if reasons:
        raise ModelNotReady("; ".join(reasons))


def _merge_entries(
    own: dict[str, str], index: int, others: Mapping[int, Index | None]
) -> dict[str, str]:
    """Return the index entry that all workers agree on, or else the first unready one.

    Its reason then names the worker.
    """
    by_worker: dict[int, dict[str, str] | None] = {
        index: own,
        **{other: _find_entry(own, entries) for other, entries in others.items()},
    }
    if all(entry == own for entry in by_worker.values()):
        return own
    for worker, entry in sorted(by_worker.items()):
        if entry is None:
            silence = _describe_silence(worker)
            return {**own, "state": "UNAVAILABLE", "reason": silence}
        if entry["state"] != "READY":
            reason = f"worker {worker}: {entry['reason']}".removesuffix(": ")
            return {**entry, "reason": reason}
    return own


def _find_entry(own: dict[str, str], entries: Index | None) -> dict[str, str] | None:
    """Return the entry of the same model version, if there is one."""
    for entry in entries or ():
        if (entry["name"], entry["version"]) == (own["name"], own["version"]):
            return entry
    return None
