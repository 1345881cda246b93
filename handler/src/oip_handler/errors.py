"""The one tree of errors that a client can meet; each class carries its two statuses.

    OIPError                   500  INTERNAL
    ├── InvalidRequest         400  INVALID_ARGUMENT    the request is wrong
    ├── Unauthenticated        401  UNAUTHENTICATED     a token is required
    │   └── InvalidToken                                the token is rejected
    ├── Forbidden              403  PERMISSION_DENIED   not allowed to this one
    ├── NotFound               404  NOT_FOUND           no such route
    │   └── ModelNotFound                               no such model or version
    ├── MethodNotAllowed       405  UNIMPLEMENTED       no such verb on the route
    ├── PayloadTooLarge        413  RESOURCE_EXHAUSTED  over the body limit
    ├── UnsupportedEncoding    415  UNIMPLEMENTED       the body's Content-Encoding
    ├── HandlerFault           500  INTERNAL            the handler or its output fails
    ├── NotSupported           501  UNIMPLEMENTED       the handler does not offer this
    ├── ModelNotReady          503  UNAVAILABLE         loading, failed or unloaded
    ├── Overloaded             503  RESOURCE_EXHAUSTED  the model's queue is full
    └── DeadlineExceeded       504  DEADLINE_EXCEEDED   the answer came too late

A handler may raise any of them; `oip_handler.boundary.translate` turns anything else
that it raises into one of them. A request that the host's transport rejects before it
is complete (400, 408, 431, 501, 503, 505) has no class: no handler sees it.

HTTP statuses follow `open_inference_rest.yaml` and KServe; gRPC names are those of
`grpc.StatusCode`, kept as text so that this module needs no grpc.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CLIENTS_FAULT",
    "DeadlineExceeded",
    "Forbidden",
    "HandlerFault",
    "InvalidRequest",
    "InvalidToken",
    "MethodNotAllowed",
    "ModelNotFound",
    "ModelNotReady",
    "NotFound",
    "NotSupported",
    "OIPError",
    "Overloaded",
    "PayloadTooLarge",
    "Unauthenticated",
    "UnsupportedEncoding",
]


class OIPError(Exception):
    """An error whose text may be shown to the client."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    headers: ClassVar[dict[str, str]] = {}
    """Extra HTTP headers of a response with this error."""

    @property
    def kind(self) -> str:
        """The name of its class in this module, or of the nearest base class here."""
        classes = type(self).__mro__
        return next(each.__name__ for each in classes if each.__module__ == __name__)


class InvalidRequest(OIPError):
    """The request breaks the protocol or does not fit the model."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class Unauthenticated(OIPError):
    """A token is required, and the request has none."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    headers: ClassVar[dict[str, str]] = {"www-authenticate": "Bearer"}


class InvalidToken(Unauthenticated):
    """The token was rejected: it is wrong, has expired, or is not valid yet."""

    headers: ClassVar[dict[str, str]] = {
        "www-authenticate": 'Bearer error="invalid_token"'
    }


class Forbidden(OIPError):
    """An option of the host, or a scope that the token lacks, does not allow this."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class NotFound(OIPError):
    """No such route."""

    http_status = 404
    grpc_status = "NOT_FOUND"


class ModelNotFound(NotFound):
    """No model of that name, or not in that version."""


class MethodNotAllowed(OIPError):
    """The route exists, but not with this HTTP method."""

    http_status = 405
    grpc_status = "UNIMPLEMENTED"


class PayloadTooLarge(OIPError):
    """The body is larger than the host accepts."""

    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedEncoding(OIPError):
    """The body is compressed in a way that the host cannot read."""

    http_status = 415
    grpc_status = "UNIMPLEMENTED"


class HandlerFault(OIPError):
    """The handler failed, or its output does not fit its own description."""


class NotSupported(OIPError):
    """The handler does not implement what was asked for."""

    http_status = 501
    grpc_status = "UNIMPLEMENTED"


class ModelNotReady(OIPError):
    """The model exists but cannot answer now; the text says why."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class Overloaded(OIPError):
    """The model's queue is full; the request was not accepted."""

    http_status = 503
    grpc_status = "RESOURCE_EXHAUSTED"
    headers: ClassVar[dict[str, str]] = {"retry-after": "1"}


class DeadlineExceeded(OIPError):
    """The answer did not arrive in time."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


CLIENTS_FAULT = (ValueError, TypeError)
"""The exceptions that blame the client if a handler raises them, as upstream has it."""
