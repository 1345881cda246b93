"""The handler: AlexNet behind the contract `oip_handler`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self, override

from oip_handler import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelHandler,
    ModelMetadataResponse,
    ModelNotReady,
    ModelPath,
    ModelReadyResponse,
    ResponseOutput,
    model_file,
)
from oip_handler_alexnet import labels

if TYPE_CHECKING:
    from oip_handler_alexnet.classifier import Classifier

__all__ = ["AlexNetHandler"]

_INPUT, _LABELS, _PROBABILITIES = "image", "labels", "probabilities"


class AlexNetHandler(ModelHandler):
    """A classifier of images: the most probable labels, and how probable they are.

    `max_concurrency` stays at the host's default of 1: one run already uses all of
    torch's threads.
    """

    idempotent: ClassVar[bool] = True
    """The same image gets the same answer, so the host may repeat a request."""

    class Settings(BaseModel):
        """The settings of one model."""

        model_config = ConfigDict(extra="forbid")

        weights: ModelPath | None = Field(
            default=None,
            description="a state dict with the names of torchvision's; or a directory "
            "with one such file",
        )
        random_weights: int | None = Field(
            default=None,
            ge=0,
            lt=2**63,
            description="in place of a file, the seed of random weights: for trials",
        )
        labels: ModelPath | None = Field(
            default=None,
            description="a text file, one label a line; ImageNet's if it is not set",
        )
        top: int = Field(default=5, ge=1, description="labels for each image")
        device: str = Field(
            default="cpu",
            pattern=r"^(cpu|cuda(:\d{1,3})?)$",
            description="cpu, cuda or cuda:<n>",
        )
        threads: int | None = Field(
            default=None,
            ge=1,
            description="threads inside one operator of torch, for the whole process",
        )
        max_images: int = Field(default=128, ge=1, description="images of a request")
        max_pixels: int = Field(
            default=50_000_000,
            ge=1,
            le=178_956_970,  # Pillow refuses more
            description="pixels of an image, as it comes and when it is resized",
        )

        @model_validator(mode="after")
        def _has_one_kind_of_weights(self) -> Self:
            if (self.weights is None) == (self.random_weights is None):
                found = "neither" if self.weights is None else "both"
                raise ValueError(
                    f"found {found} of 'weights' and 'random_weights', expected one: "
                    "the path of a state dict, or a seed for a trial"
                )
            return self

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._classifier: Classifier | None = None
        self._images: Callable[[InferenceRequest], Any]

    @override
    def model_load(self, model_name: str) -> bool:
        """Read or make the weights and put them on the device.

        A directory stands for the one file of weights in it. Raises RuntimeError for a
        device that torch does not see, FileNotFoundError for a missing file, and
        ValueError for one that does not fit.
        """
        import torch

        from oip_handler_alexnet import batch, weights
        from oip_handler_alexnet.classifier import Classifier, find_device

        settings = self.settings
        names, device = labels.read(settings.labels), find_device(settings.device)
        if settings.top > len(names):
            raise ValueError(
                f"top: found {settings.top}, expected up to {len(names)} labels"
            )
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        if settings.random_weights is None:
            assert settings.weights is not None  # the settings have one of both
            path = model_file(settings.weights, (".pth", ".pt"))
            network = weights.read(path, device)
        else:
            network = weights.draw(settings.random_weights, len(names), device)
        self._classifier = Classifier(network, names, device)
        self._images = partial(
            batch.read,
            name=_INPUT,
            max_images=settings.max_images,
            max_pixels=settings.max_pixels,
        )
        return True

    @override
    def model_unload(self, model_name: str) -> None:
        """Release the network, and with it the model's memory."""
        self._classifier = None

    @override
    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return ready while a network is loaded."""
        return ModelReadyResponse(name=model_name, ready=self._classifier is not None)

    @override
    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Describe the input, files of images, and two outputs with a row for each."""
        self._require_classifier(model_name)
        shape = [-1, self.settings.top]
        return ModelMetadataResponse(
            name=model_name,
            platform="pytorch",
            inputs=[MetadataTensor(name=_INPUT, datatype=Datatype.BYTES, shape=[-1])],
            outputs=[
                MetadataTensor(name=_LABELS, datatype=Datatype.BYTES, shape=shape),
                MetadataTensor(
                    name=_PROBABILITIES, datatype=Datatype.FP32, shape=shape
                ),
            ],
        )

    @override
    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Return the labels of each image, the most probable one first.

        Raises InvalidRequest if the request does not fit or a file is not an image.
        """
        classifier = self._require_classifier(model_name)
        names, probabilities = classifier.top(self._images(payload), self.settings.top)
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            outputs=[
                ResponseOutput.from_numpy(_LABELS, names),
                ResponseOutput.from_numpy(_PROBABILITIES, probabilities),
            ],
        )

    def _require_classifier(self, model_name: str) -> Classifier:
        if self._classifier is None:
            raise ModelNotReady(f"model '{model_name}' is not loaded")
        return self._classifier
