"""The models that `scaling.py` measures, and the ways to serve them, by settings."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson

from bench.bodies import body_of, headers_of, numbers
from bench.clients import post
from bench.workloads import SMALL, Workload

__all__ = ["MODEL", "SUBJECTS", "Request", "Subject", "Way", "photograph"]

MODEL = "m"
"""The name that every model is served under."""
WIDTH, HEIGHT = 500, 375


@dataclass(frozen=True)
class Way:
    """A way to serve a model: the options that it sets in addition."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """The bytes of a request, and the check of an answer to it."""

    head: bytes
    body: bytes
    check: Callable[[bytes], None]
    """Raises ValueError or LookupError."""


@dataclass(frozen=True)
class Subject:
    """A model, and the ways to serve it; the others are held against the first."""

    title: str
    arguments: tuple[str, ...]
    ways: tuple[Way, ...]
    request: Callable[[], Request]


def photograph() -> bytes:
    """Return a JPEG of WIDTH x HEIGHT pixels, the same in every run."""
    from PIL import Image  # the plugin brings it

    generator = np.random.default_rng(7)
    patches = generator.integers(0, 256, (12, 16, 3), np.uint8)
    smooth = Image.fromarray(patches).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = generator.normal(scale=6, size=(HEIGHT, WIDTH, 3))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def _image() -> Request:
    """Return a photograph in the binary extension; the answer to it comes in JSON."""
    file = photograph()
    element = len(file).to_bytes(4, "little") + file
    size = {"binary_data_size": len(element)}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": size}
    document = orjson.dumps({"inputs": [tensor]})
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(document)),
        "Content-Length": str(len(document) + len(element)),
    }
    return Request(post(MODEL, headers), document + element, _five_labels)


def _five_labels(answer: bytes) -> None:
    shapes = {one["name"]: one["shape"] for one in orjson.loads(answer)["outputs"]}
    if shapes != {"labels": [1, 5], "probabilities": [1, 5]}:
        raise ValueError(f"found outputs {shapes}, expected labels and probabilities")


def _numbers() -> Request:
    """Four numbers in JSON."""
    workload = Workload("counter", "json", SMALL, ())
    body = body_of(workload, MODEL)
    expected = (2 * numbers(workload) + 1).ravel().tolist()

    def check(answer: bytes) -> None:  # that of `bodies` costs the client too much here
        output = orjson.loads(answer)["outputs"][0]
        apart = zip(output["data"], expected, strict=True)
        if output["shape"] != [*SMALL] or any(abs(a - b) > 1e-4 for a, b in apart):
            raise ValueError(f"found {output}, expected {expected}")

    return Request(post(MODEL, headers_of(workload, body)), body, check)


def _of_model(*options: str) -> tuple[str, ...]:
    return tuple(f"--models.{MODEL}.{option}" for option in options)


_ONE = Way("one process")
_BATCHES = Way("batches", _of_model("max_batch_size=8", "max_batch_delay_ms=5"))
_CALLS = Way("two calls at once", _of_model("max_concurrency=2"))
_WORKERS = Way("two workers", ("--workers=2",))
_REPLICAS = Way("two replicas", _of_model("replicas=2"))

SUBJECTS = (
    Subject(
        "AlexNet, with one thread of PyTorch",
        (
            f"--handlers={MODEL}=alexnet",
            *_of_model("settings.random_weights=1", "settings.threads=1"),
        ),
        (_ONE, _BATCHES, _CALLS, _WORKERS, _REPLICAS),
        _image,
    ),
    Subject(
        "A handler in plain Python",
        (f"--handlers={MODEL}=counter",),
        (_ONE, _CALLS, _WORKERS, _REPLICAS),
        _numbers,
    ),
)
