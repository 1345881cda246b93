"""The endpoints of V2 over HTTP: what is answered on each route."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import orjson
from prometheus_client import exposition

from oip_handler.datatypes import describe_value
from oip_handler.errors import (
    InvalidRequest,
    ModelNotReady,
    OIPError,
    PayloadTooLarge,
)
from oip_host.auth.authorizer import Authorizer
from oip_host.edge.common import model_documents
from oip_host.edge.rest import codec
from oip_host.edge.rest.compression import decompress
from oip_host.edge.rest.routes import MODEL, REPOSITORY, SERVER, Route
from oip_host.edge.transport.error_body import error_body
from oip_host.models.server_state import ServerState
from oip_host.telemetry.context import RequestContext

__all__ = ["Answer", "ClientGone", "Endpoint", "Endpoints", "Request", "error_answer"]

_JSON = (b"content-type", b"application/json")
_OCTETS = (b"content-type", b"application/octet-stream")
_HEADER_LENGTH = b"inference-header-content-length"
_name = itemgetter("name")


class Answer(NamedTuple):
    """A response before it is sent."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


class ClientGone(Exception):
    """The client left, or was refused, before its request was complete."""


class Request(NamedTuple):
    """A request whose body is still to come."""

    headers: dict[bytes, bytes]
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]]
    context: RequestContext
    max_body: int
    """Bytes of the largest body, as sent and decompressed."""

    async def read_body(self) -> bytes:
        """Return the whole body, decompressed.

        Raises PayloadTooLarge, ClientGone, and for a body that cannot be decompressed
        what `decompress` raises.
        """
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_body:
                raise self._too_large()
            parts.append(part)
            more = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = self.headers.get(b"content-encoding")
        if encoding is not None:
            loop = asyncio.get_running_loop()  # zlib would hold up the others
            body = await loop.run_in_executor(
                None, decompress, body, encoding.decode("latin-1"), self.max_body
            )
        self.context.start(len(body))
        return body

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than {self.max_body} bytes, which is max_body_bytes"
        )


Endpoint: TypeAlias = Callable[[Request, Route], Awaitable[Answer]]


def error_answer(error: OIPError) -> Answer:
    """Return the answer for an error, with the headers of its kind."""
    extra = [(k.encode(), v.encode()) for k, v in error.headers.items()]
    return Answer(error_body(error), error.http_status, (_JSON, *extra))


def _answer_json(document: Any) -> Answer:
    return Answer(orjson.dumps(document))


class Endpoints:
    """One method for each action of `routes`, by the name of the action.

    They raise OIPError and ClientGone, and expect the client's right to be checked.
    """

    def __init__(self, state: ServerState, authorizer: Authorizer) -> None:
        self._state = state
        self._registry = state.registry
        self._auth = authorizer

    def by_action(self) -> dict[str, Endpoint]:
        """Return the endpoint of each action."""
        actions = {*SERVER.values(), *MODEL.values(), *REPOSITORY.values()}
        return {action: getattr(self, action) for action in actions}

    # -- of a model -----------------------------------------------------------

    async def infer(self, request: Request, route: Route) -> Answer:
        """Answer an inference, in JSON or with binary tensors."""
        model = self._registry.find(route.name, route.version)
        context = request.context
        try:
            if not model.ready:
                raise model.not_ready()
            body = await request.read_body()
            length = _read_header_length(request.headers)
            if length == 0:
                message = codec.decode_raw(body, await model.metadata())
            else:
                message = codec.decode(body, length)
            content, json_size = await model.infer_encoded(
                message, codec.encode, context
            )
        except OIPError as error:
            model.count_failure(context, error)
            raise
        context.count_response(len(content))
        if json_size is None:
            return Answer(content)
        return Answer(content, 200, (_OCTETS, (_HEADER_LENGTH, b"%d" % json_size)))

    async def metadata(self, request: Request, route: Route) -> Answer:
        """Answer with a model's metadata."""
        model = self._registry.find(route.name, route.version)
        versions = self._registry.versions(route.name)
        described = await model.metadata()
        return _answer_json(
            model_documents.describe_metadata(described, route.name, versions)
        )

    async def ready(self, request: Request, route: Route) -> Answer:
        """Answer whether a model is ready; 503 is an answer here, and no refusal."""
        is_discreet = self._auth.is_enabled
        try:
            await self._state.model_health(route.name, route.version, is_discreet)
        except ModelNotReady as error:
            return error_answer(error)
        return _answer_json({"name": route.name, "ready": True})

    async def config(self, request: Request, route: Route) -> Answer:
        """Answer with a model's configuration."""
        model = self._registry.find(route.name, route.version)
        return _answer_json(
            model_documents.describe_config(await model.metadata(), model)
        )

    async def stats(self, request: Request, route: Route) -> Answer:
        """Answer with the statistics of a model, or of all that the client may see."""
        statistics = await self._state.statistics(route.name, route.version)
        return _answer_json(
            {"model_stats": self._auth.filter_visible(statistics, _name)}
        )

    # -- of the repository ----------------------------------------------------

    async def index(self, request: Request, route: Route) -> Answer:
        """Answer with the models of the repository, or those of them that are ready."""
        document = codec.decode_object(await request.read_body())
        ready = document.get("ready")
        if not isinstance(ready, (bool, type(None))):
            raise InvalidRequest(
                f"ready: found {describe_value(ready)}, expected true or false"
            )
        index = await self._state.index(bool(ready))
        return _answer_json(self._auth.filter_visible(index, _name))

    async def load(self, request: Request, route: Route) -> Answer:
        """Load a model, and answer once it is loaded."""
        document = codec.decode_object(await request.read_body())
        parameters = document.get("parameters")
        if not isinstance(parameters, (dict, type(None))):
            raise InvalidRequest(
                f"parameters: found {describe_value(parameters)}, expected an object"
            )
        await self._state.load(route.name, parameters or ())
        return _answer_json({"name": route.name, "load": True})

    async def unload(self, request: Request, route: Route) -> Answer:
        """Unload a model, and answer once it is unloaded."""
        codec.decode_object(await request.read_body())
        await self._state.unload(route.name)
        return _answer_json({"name": route.name, "unload": True})

    # -- of the server --------------------------------------------------------

    async def server(self, request: Request, route: Route) -> Answer:
        """Answer with the server's metadata."""
        return _answer_json(self._state.metadata())

    async def live(self, request: Request, route: Route) -> Answer:
        """Answer that the server runs."""
        return _answer_json({"live": True})

    async def health(self, request: Request, route: Route) -> Answer:
        """Answer whether the server is ready, with 503 and the reasons if it is not."""
        reasons = await self._state.health(self._auth.is_enabled)
        if reasons:
            document = {"ready": False, "error": "; ".join(reasons)}
            return Answer(orjson.dumps(document), status=503)
        return _answer_json({"ready": True})

    async def models(self, request: Request, route: Route) -> Answer:
        """Answer with the names of the models that the client may see."""
        return _answer_json(
            {"models": self._auth.filter_visible(self._registry.names(), str)}
        )

    async def metrics(self, request: Request, route: Route) -> Answer:
        """Answer with the metrics, in the form that the client accepts."""
        accept = request.headers.get(b"accept", b"").decode("latin-1")
        encoder, content_type = exposition.choose_encoder(accept)
        headers = ((b"content-type", content_type.encode()),)
        return Answer(encoder(await self._state.metrics()), headers=headers)


def _read_header_length(headers: dict[bytes, bytes]) -> int | None:
    """Return the size of the JSON part that a header names; raise InvalidRequest."""
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        shown = text.decode("latin-1")[:40]
        raise InvalidRequest(
            f"Inference-Header-Content-Length: found {shown!r}, expected bytes"
        )
    return int(text)
