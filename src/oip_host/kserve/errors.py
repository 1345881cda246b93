"""KServe's own errors in the host's terms."""

from __future__ import annotations

from oip_handler.errors import HandlerFault, ModelNotReady
from oip_host.kserve.api import kserve

__all__ = ["from_kserve"]


def from_kserve(error: Exception) -> Exception:
    """Return the host's error for one of KServe's, and any other as it is.

    `InvalidInput` is a ValueError, and so means the same to both.
    """
    if isinstance(error, kserve.errors.InferenceError):
        return HandlerFault(str(error))
    if isinstance(error, kserve.errors.ModelNotReady):
        return ModelNotReady(str(error))
    return error
