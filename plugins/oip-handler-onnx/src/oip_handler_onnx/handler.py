"""The handler: one ONNX file behind the contract `oip_handler`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import override

from oip_handler import (
    InferenceRequest,
    InferenceResponse,
    ModelHandler,
    ModelMetadataResponse,
    ModelNotReady,
    ModelPath,
    ModelReadyResponse,
    model_file,
)
from oip_handler_onnx.convert import to_output

if TYPE_CHECKING:
    from oip_handler_onnx.session import Session

__all__ = ["OnnxHandler"]


class OnnxHandler(ModelHandler):
    """A handler of one ONNX file.

    `max_concurrency` stays at the host's default of 1: one run already uses all of
    onnxruntime's threads.
    """

    class Settings(BaseModel):
        """The settings of one model."""

        model_config = ConfigDict(extra="forbid")

        path: ModelPath = Field(
            description="the ONNX file, or a directory with one such file"
        )
        providers: list[str] = Field(
            default=["CPUExecutionProvider"],
            min_length=1,
            description="onnxruntime's execution providers, the preferred one first",
        )
        intra_op_num_threads: int = Field(
            default=0,
            ge=0,
            description="threads inside one operator; 0: as many as onnxruntime likes",
        )
        inter_op_num_threads: int = Field(
            default=1,
            ge=1,
            description="operators of one run that may be computed at once",
        )
        graph_optimization_level: Literal[
            "DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"
        ] = Field(
            default="ENABLE_ALL",
            description="how far onnxruntime rewrites the graph while it loads",
        )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._session: Session | None = None

    @override
    def model_load(self, model_name: str) -> bool:
        """Open the file.

        Raises FileNotFoundError if there is none, ValueError for a provider that is not
        installed or a model whose tensors the protocol cannot carry, RuntimeError for a
        provider that does not start, and onnxruntime's own errors for a file that it
        cannot read.
        """
        from oip_handler_onnx.session import Session, make_options

        settings = self.settings
        options = make_options(
            settings.intra_op_num_threads,
            settings.inter_op_num_threads,
            settings.graph_optimization_level,
        )
        path = model_file(settings.path, (".onnx", ".ort"))
        self._session = Session(path, settings.providers, options)
        return True

    @override
    def model_unload(self, model_name: str) -> None:
        """Close the session, which frees the model's memory."""
        self._session = None

    @override
    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return ready while a session is open."""
        return ModelReadyResponse(name=model_name, ready=self._session is not None)

    @override
    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Describe the required inputs, and the outputs that can be requested."""
        signature = self._require_session(model_name).signature
        return ModelMetadataResponse(
            name=model_name,
            platform="onnxruntime_onnx",
            inputs=list(signature.inputs.values()),
            outputs=list(signature.outputs.values()),
        )

    @override
    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Run the model for the outputs that the request names, or all of them.

        Raises InvalidRequest if the request does not fit the model.
        """
        session = self._require_session(model_name)
        names = session.signature.select_outputs(payload.outputs)
        values = session.run(names, session.signature.make_feeds(payload.inputs))
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            outputs=[
                to_output(name, value)
                for name, value in zip(names, values, strict=True)
            ],
        )

    def _require_session(self, model_name: str) -> Session:
        if self._session is None:
            raise ModelNotReady(f"model '{model_name}' is not loaded")
        return self._session
