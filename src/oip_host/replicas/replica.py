"""The program of a replica: one model with its handler, and its answers to the host.

Ray Serve makes a `Replica` from a `Blueprint` in each replica's process. Its model is
the host's own `Model`, so a handler meets the same lanes, checks and
errors in a replica as in the host. Nothing here needs Ray.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from sysconfig import get_path
from typing import Any

from oip_handler import errors
from oip_handler.errors import HandlerFault, OIPError
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    ResponseOutput,
    construct,
)
from oip_handler.tensors import TensorData
from oip_handler.traits import HandlerTraits
from oip_host.config.handler_settings import build_settings, resolve_paths
from oip_host.config.model_options import ModelOptions
from oip_host.config.sources import Values
from oip_host.models.construction import construct_handler
from oip_host.models.model import Model
from oip_host.telemetry import logs, otel
from oip_host.telemetry.context import RequestContext

__all__ = [
    "Blueprint",
    "Description",
    "Failure",
    "NotLoaded",
    "RawSettings",
    "Replica",
    "local_path",
]


@dataclass(frozen=True)
class RawSettings:
    """The text of the `Settings` of a handler that only replicas can import."""

    values: Values
    model_dir: str | None


class _Importable(tuple[str, ...]):
    """Directories that are on `sys.path` when what comes after them is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _importable, (tuple(self),)


def _importable(path: tuple[str, ...]) -> tuple[str, ...]:
    sys.path += [entry for entry in path if entry not in sys.path]
    return path


@dataclass(frozen=True)
class Blueprint:
    """All that a replica has to know, as the host sends it."""

    model: str
    version: str
    handler: Any
    """A class or factory, or `package.module:Name` that only replicas can import."""
    target: str
    """Where the handler is, as messages name it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: RawSettings | None = None
    """The handler's settings as text, where replicas parse them."""
    max_concurrency: int | None = None
    path: Sequence[str] = ()
    """Directories of the host's `sys.path` that are of no environment."""
    otel: Mapping[str, str] | None = None
    """The variables of OpenTelemetry of a host that traces; None: it does not."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, the path first: the handler is unpickled by it."""
        rest = {name: v for name, v in vars(self).items() if name != "path"}
        return {"path": _Importable(self.path), **rest}

    def make(self) -> Any:
        """Construct the handler; raises HandlerFault, and what its import raises."""
        handler, arguments = self.handler, self.arguments
        if isinstance(handler, str):
            handler = resolve_name(handler)
        if self.settings is not None:
            key, directory = (self.model, self.version), self.settings.model_dir
            values = resolve_paths(handler, key, self.settings.values, directory)
            made, faults = build_settings(handler, key, values, directory)
            if faults:
                raise HandlerFault("; ".join(faults))
            arguments = {"settings": made} if made is not None else {}
        return construct_handler(handler, self.model, self.target, arguments)


def local_path() -> list[str]:
    """Return the directories of `sys.path` that belong to no environment."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = tuple(os.path.join(get_path(kind), "") for kind in kinds)
    paths = (os.path.abspath(entry) for entry in sys.path)
    return [path for path in paths if not f"{path}{os.sep}".startswith(libraries)]


@dataclass(frozen=True)
class Failure:
    """An error on its way to the host, without traceback, path or address."""

    kind: str
    """The name of a class in `oip_handler.errors`."""
    text: str

    @classmethod
    def of(cls, error: OIPError) -> Failure:
        """Return the failure for an error, whose class only the replica may know."""
        return cls(error.kind, str(error))

    def error(self) -> OIPError:
        """Return the error again."""
        made: OIPError = getattr(errors, self.kind)(self.text)
        return made


@dataclass(frozen=True)
class Description:
    """The facts of a handler in another process that the host needs."""

    metadata: ModelMetadataResponse | Failure
    traits: HandlerTraits
    is_kserve_model: bool


class NotLoaded(Exception):
    """The handler does not load; the text has the reason between two marks.

    Ray hands on an exception as text only, inside its own.
    """

    _BEGIN, _END = "<oip-host: ", " :oip-host>"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self._BEGIN}{reason}{self._END}")

    @classmethod
    def reason(cls, text: str) -> str | None:
        """Return the reason in a text, None where it has none."""
        _, found, rest = text.rpartition(cls._BEGIN)
        return rest.partition(cls._END)[0] if found else None


class Replica:
    """One handler in a replica. Failures are answers: Ray would wrap what is raised."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, blueprint: Blueprint
    ) -> None:
        _log_to_stderr()
        # the host admits and times the requests
        unlimited = ModelOptions(
            max_concurrency=blueprint.max_concurrency,
            max_queue=sys.maxsize,
            timeout_s=math.inf,
        )
        self._model = Model(
            blueprint.model,
            blueprint.make,
            version=blueprint.version,
            options=unlimited,
        )
        self._export = otel.join_export(blueprint.otel)
        if self._export is not None:
            self._model.observer.tracing = self._export.tracing
        self._model.handled_by = f"handler {blueprint.target}"
        if not await self._model.load_handler():
            raise NotLoaded(self._model.reason)
        # Ray Serve calls it of the object, where Python would of the class
        self.__del__ = self._end

    async def _end(self) -> None:
        await self._model.unload_handler()
        if self._export is not None:
            await asyncio.to_thread(self._export.close)

    async def describe(self) -> Description:
        """Return what the host asks for once, for all replicas."""
        metadata: ModelMetadataResponse | Failure
        try:
            metadata = await self._model.metadata()
        except OIPError as error:
            metadata = Failure.of(error)
        # the host makes nothing of its settings, and cannot import their class
        traits = replace(self._model.traits, settings=None)
        return Description(metadata, traits, self._model.is_kserve_model)

    async def ready(self) -> bool:
        """Return what the handler's own `model_ready` says."""
        return await self._model.healthy()

    async def infer(
        self, request: InferenceRequest, headers: dict[str, str]
    ) -> InferenceResponse | Failure:
        """Return the handler's answer, in memory that its next call does not touch.

        The headers are those of the request's context.
        """
        context = RequestContext("replica", headers)
        try:
            return await self._model.infer_encoded(request, _copy, context)
        except OIPError as error:
            return Failure.of(error)

    async def predict_v1(self, *args: Any) -> Any:
        """Return the answer of a `kserve.Model` to a V1 request, with its headers."""
        try:
            return await self._model.predict_v1(*args)
        except OIPError as error:
            return Failure.of(error)


def _log_to_stderr() -> None:
    """Log as the host does, with the ids of requests; Ray passes the lines on to it."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logs.build_formatter("text"))
        root.addHandler(handler)


def _copy(_: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
    """Copy the arrays of an answer: it is sent while the handler goes on."""
    outputs = []
    for output in response.outputs:
        data = TensorData(output.data.elements(output.datatype).copy())
        outputs.append(construct(ResponseOutput, {**output.__dict__, "data": data}))
    return construct(InferenceResponse, {**response.__dict__, "outputs": outputs})
