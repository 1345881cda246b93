"""Where the calls of one model run: its lanes, chosen once by what its handler is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from oip_host.config.model_options import ModelOptions
from oip_host.lanes.lane import Lane, LoopLane, ThreadLane
from oip_host.models.batching import Batcher
from oip_host.models.calls import Calls

__all__ = ["ModelLanes"]

ASYNC_CONCURRENCY = 100
_METHODS = ("infer", "model_metadata", "model_load", "model_ready", "model_unload")


class ModelLanes:
    """The lanes of a model, and its calls in them; `settle` knows the handler.

    Until then there is one lane, for what makes the handler.
    """

    def __init__(self, name: str, version: str, options: ModelOptions) -> None:
        self._name = name
        self._options = options
        self._plain: Lane = ThreadLane(name, 1, options.max_queue)
        self._loop: LoopLane | None = None
        self.calls = Calls(name, version)
        self.of_requests: Lane = self._plain
        """Where requests wait: the handler's own lane, or batches in front of it."""
        self.infer: Callable[..., Any] = self.calls.one
        """What that lane runs for a request."""

    def settle(self, handler: Any) -> None:
        """Decide where the handler's methods run and how many at a time."""
        asked = getattr(handler, "max_concurrency", None)
        if not getattr(handler, "elsewhere", False):  # there the option is its own
            asked = self._options.max_concurrency or asked
        self._plain.max_concurrency = asked or 1
        methods = [getattr(handler, name, None) for name in _METHODS]
        if any(inspect.iscoroutinefunction(method) for method in methods):
            self._loop = LoopLane(
                self._name, asked or ASYNC_CONCURRENCY, self._options.max_queue
            )
        self._settle_requests(handler)

    def _settle_requests(self, handler: Any) -> None:
        calls, options = self.calls, self._options
        calls.handler = handler
        self.of_requests = self.of(handler.infer)
        asynchronous = self.of_requests is not self._plain
        self.infer = calls.one_async if asynchronous else calls.one
        if options.max_batch_size > 1:
            self.of_requests = Batcher(
                self.of_requests,
                calls.batch_async if asynchronous else calls.batch,
                options.max_batch_size,
                options.max_batch_delay_ms / 1000,
            )

    def of(self, method: Callable[..., Any]) -> Lane:
        """The lane for a method of the handler."""
        if inspect.iscoroutinefunction(method) and self._loop is not None:
            return self._loop
        return self._plain

    def each(self) -> list[Lane]:
        """Every lane, the one where requests wait first."""
        lanes = (self.of_requests, self._plain, self._loop)
        return [lane for lane in dict.fromkeys(lanes) if lane is not None]

    async def call(self, method: Callable[..., Any], *args: Any) -> Any:
        """What a method answers, in its lane."""
        around = self.calls.frames.around(method)
        return await self.of(method).submit(around, *args)

    def reconfigure(self, options: ModelOptions) -> None:
        """Have other options hold, those that may change while the model runs."""
        self._options = options
        for lane in self.each():
            lane.max_queue = options.max_queue
            if isinstance(lane, Batcher):
                lane.batch(options.max_batch_size, options.max_batch_delay_ms / 1000)

    def close(self) -> None:
        """End the lanes, once what they accepted has been answered."""
        for lane in self.each():
            lane.close()

    def forget(self) -> None:
        """Let the handler go."""
        self.calls.handler = self.calls.expected = None
