"""The crash report: a crash inside a native library names the model.

After a fault of native code only `faulthandler` still runs, and writes the frames of
Python's stacks to the standard error stream. So a handler is called through a function
that is named after its model, and whose file is the handler: the frame identifies both,
even if the host is process 1 of a container and nothing outlives it.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

from oip_host.hookspecs import HandlerEntry

__all__ = ["Frames", "describe_handler", "enable", "exit_after", "rename_frame"]


def enable() -> None:
    """Report faults of native code, if there is a stream to report them to."""
    if faulthandler.is_enabled():  # by an option of Python, or by the program
        return
    # a program may have no standard error stream, or one without a file
    with suppress(AttributeError, OSError, RuntimeError, ValueError):
        faulthandler.enable()


@contextmanager
def exit_after(seconds: float | None) -> Iterator[None]:
    """Exit with 1 and print all stacks if the block takes any longer.

    That works even while native code holds the interpreter's lock and no Python runs.
    """
    if seconds is None or not faulthandler.is_enabled():
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def describe_handler(entry: HandlerEntry) -> str:
    """Return a handler as a crash report names it."""
    return f"handler {entry.name!a} ({entry.target}, {entry.origin})"


class Frames:
    """Functions that call a model's handler, and that every traceback shows."""

    __slots__ = ("call", "call_async")

    def __init__(self, model: str, version: str, handler: str) -> None:
        name = f"model {model!a} version {version!a}"
        self.call = rename_frame(name, handler)
        self.call_async = rename_frame(name, handler, _call_async)


def _call(method: Callable[..., Any], *args: Any) -> Any:
    return method(*args)


async def _call_async(method: Callable[..., Any], *args: Any) -> Any:
    return await method(*args)


def rename_frame(
    name: str, handler: str, like: Callable[..., Any] = _call
) -> Callable[..., Any]:
    """Return a caller of functions whose frame reads `File "<handler>", … in name`."""
    assert isinstance(like, FunctionType)
    code = like.__code__.replace(co_name=name, co_filename=f"<{handler}>")
    return FunctionType(code, like.__globals__, name)
