"""The crash report: what kills the process inside a native library names its model.

After a fault of native code nothing runs any more but `faulthandler`, which writes the
frames of Python's stacks to the standard error stream. So a handler is called through a
function whose own name is its model's, and whose file is the handler: such a frame says
what it has to, also where the host is process 1 of a container and nobody outlives it.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

from oip_host.hookspecs import HandlerEntry

__all__ = ["Frames", "framed", "limit", "named", "report"]


def report() -> None:
    """Have a fault of native code reported from now on, if there is a stream for it."""
    if faulthandler.is_enabled():  # by Python's own option, or by the program
        return
    # a program may have no standard error stream, or one that is no file
    with suppress(AttributeError, OSError, RuntimeError, ValueError):
        faulthandler.enable()


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Exit with 1, and tell where the process is, should this take any longer.

    It does so also where native code holds the interpreter's lock and no Python runs.
    """
    if seconds is None or not faulthandler.is_enabled():
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def named(entry: HandlerEntry) -> str:
    """A handler as a crash report names it."""
    return f"handler {entry.name!a} ({entry.target}, {entry.origin})"


class Frames:
    """What calls the methods of one model's handler, and is seen in every traceback."""

    __slots__ = ("call", "call_async")

    def __init__(self, model: str, version: str, handler: str) -> None:
        name = f"model {model!a} version {version!a}"
        self.call = framed(name, handler)
        self.call_async = framed(name, handler, _call_async)


def _call(method: Callable[..., Any], *args: Any) -> Any:
    return method(*args)


async def _call_async(method: Callable[..., Any], *args: Any) -> Any:
    return await method(*args)


def framed(
    name: str, handler: str, like: Callable[..., Any] = _call
) -> Callable[..., Any]:
    """What calls a function in a frame that reads `File "<handler>", … in name`."""
    assert isinstance(like, FunctionType)
    code = like.__code__.replace(co_name=name, co_filename=f"<{handler}>")
    return FunctionType(code, like.__globals__, name)
