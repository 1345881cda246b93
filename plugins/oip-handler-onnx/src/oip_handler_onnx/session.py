"""One open onnxruntime session; the only module that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]
    InvalidArgument,
)

from oip_handler import HandlerFault, InvalidRequest
from oip_handler_onnx.signature import Signature

__all__ = ["Session", "make_options"]


def make_options(intra_op: int, inter_op: int, level: str) -> ort.SessionOptions:
    """Make options from numbers of threads and a `GraphOptimizationLevel`'s name.

    More than one inter-op thread turns on parallel execution, without which onnxruntime
    ignores the number.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op
    options.inter_op_num_threads = inter_op
    if inter_op > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, f"ORT_{level}"
    )
    return options


class Session:
    """A loaded model and its signature."""

    def __init__(
        self, path: Path, providers: Sequence[str], options: ort.SessionOptions
    ) -> None:
        """Load the file; the errors are those of `OnnxHandler.model_load`."""
        _check_installed(providers)
        # onnxruntime's own fallback to the CPU would be silent
        self._session = ort.InferenceSession(
            path, options, providers=list(providers), enable_fallback=False
        )
        _check_started(providers, self._session.get_providers())
        self.signature = Signature.of(
            self._session.get_inputs(),
            self._session.get_overridable_initializers(),
            self._session.get_outputs(),
        )

    def run(self, names: Sequence[str], feeds: dict[str, NDArray[Any]]) -> list[Any]:
        """Return the values of the named outputs; onnxruntime converts no others.

        Raises InvalidRequest if an operator rejects a value of an input, and
        HandlerFault for text that is not UTF-8.
        """
        try:
            values: list[Any] = self._session.run(names, feeds)
        except InvalidArgument as error:
            reason = str(error).rpartition("Status Message: ")[2]
            raise InvalidRequest(f"the model rejected the inputs: {reason}") from error
        except UnicodeDecodeError as error:
            raise HandlerFault("the model returned text that is not UTF-8") from error
        return values


def _check_installed(providers: Sequence[str]) -> None:
    available = ort.get_available_providers()
    unknown = [name for name in providers if name not in available]
    if unknown:
        raise ValueError(
            f"providers: found {', '.join(unknown)}, expected what this onnxruntime "
            f"offers: {', '.join(available)}"
        )


def _check_started(providers: Sequence[str], started: Sequence[str]) -> None:
    missing = [name for name in providers if name not in started]
    if missing:
        raise RuntimeError(
            f"providers: {', '.join(missing)} did not start, only "
            f"{', '.join(started)} did; onnxruntime logged why"
        )
