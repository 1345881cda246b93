"""Handlers that end their process or never end, served as `fakes.crashes:Name`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

from oip_host import InferenceRequest, InferenceResponse

from .echo import FOREVER_S, Echo


class Dies(Echo):
    """Reads an invalid address, as a faulty native library does."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        ctypes.string_at(0)
        raise AssertionError("this process is no more")


class DiesAsync(Dies):
    """`Dies` in an event loop."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return Dies.infer(self, payload, model_name, model_version)


class DiesLoading(Echo):
    """Aborts while it loads."""

    def model_load(self, model_name: str) -> bool:
        os.abort()


class Sleeps(Echo):
    """Never finishes to load."""

    def model_load(self, model_name: str) -> bool:
        time.sleep(FOREVER_S)
        return True


class SleepsAsync(Echo):
    """Never finishes to load, in an event loop."""

    async def model_load(self, model_name: str) -> bool:  # type: ignore[override]
        await asyncio.sleep(FOREVER_S)
        return True


class Holds(Echo):
    """Never finishes to load, and lets no other thread run meanwhile."""

    def model_load(self, model_name: str) -> bool:
        ctypes.PyDLL(None).sleep(int(FOREVER_S))
        return True
