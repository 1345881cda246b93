"""The workloads: requests, models and numbers of clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

__all__ = ["WORKLOADS", "Job", "Workload"]

Shape = tuple[int, int]

SMALL: Shape = (1, 4)
MEDIUM: Shape = (32, 128)
LARGE: Shape = (1, 224 * 224 * 3)


@dataclass(frozen=True)
class Workload:
    """One kind of request. Every model computes y = 2x + 1 of one FP32 tensor."""

    name: str
    carrier: Literal["json", "binary", "raw", "typed"]
    """JSON or binary by REST; raw contents or typed ones by gRPC."""
    shape: Shape
    clients: tuple[int, ...]
    """Each number of clients is a load of its own."""
    handler: str = "arrays"
    models: int = 0
    """Models of the handler that are asked in turn; 0: one, with its name."""
    counts: Literal["cpu", "rate"] = "cpu"
    """The figure that counts: CPU a request, or requests a second."""
    probe: bool = False
    """True to ask GET /v2/health/live meanwhile."""
    about: str = ""

    @property
    def rest(self) -> bool:
        """True for REST, False for gRPC."""
        return self.carrier in ("json", "binary")

    @property
    def names(self) -> list[str]:
        """The models that are asked."""
        numbers = range(self.models)
        return [f"m{number:03}" for number in numbers] or [self.handler]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("rest-small", "json", SMALL, (1, 16), about="JSON, 4 numbers"),
        Workload("rest-medium", "json", MEDIUM, (16,), about="JSON, 32 x 128 numbers"),
        Workload("rest-large", "json", LARGE, (4,), about="JSON, 150,528 numbers"),
        Workload(
            "rest-large-lists", "json", LARGE, (4,), handler="lists",
            about="the same, to a handler that reads and returns Python lists",
        ),
        Workload(
            "bin-large", "binary", LARGE, (4,),
            about="150,528 numbers in the binary extension, both ways",
        ),
        Workload("grpc-small", "raw", SMALL, (16,), about="raw contents, 4 numbers"),
        Workload(
            "grpc-large", "raw", LARGE, (4,),
            about="raw contents, 150,528 numbers",
        ),
        Workload(
            "grpc-large-typed", "typed", LARGE, (4,),
            about="`fp32_contents`, 150,528 numbers",
        ),
        Workload(
            "many", "json", SMALL, (16,), models=500,
            about="as rest-small, to 500 models in turn",
        ),
        Workload(
            "batchable", "json", SMALL, (64,), handler="fixedcost", counts="rate",
            about="as rest-small; a call of the handler takes 5 ms, however many rows",
        ),
        Workload(
            "blocking", "json", SMALL, (16,), handler="sleeper", counts="rate",
            probe=True, about="as rest-small; the handler sleeps 0.1 s",
        ),
    )
}  # fmt: skip


class Job(BaseModel):
    """One load of one server, as the load generator gets it."""

    workload: str
    clients: int
    seconds: float
    http_port: int
    grpc_port: int
    pid: int
    """The server's, whose CPU time is read."""
