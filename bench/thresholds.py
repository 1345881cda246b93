"""Where the second way of a codec begins to pay: both ways side by side, by size.

    make bench-thresholds     or: python -m bench.thresholds [ROUNDS]

The codecs have a plain way and one for large tensors, and a constant of bytes or of
elements that separates them. For sizes around each constant both ways do the same work
in turns, and the best CPU time of all rounds counts: whatever else runs on the machine
only adds to it. A ratio below 1 says that the second way is the faster one. A constant
is well set where the ratio passes 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import orjson

from oip_handler.messages import InferenceResponse, ResponseOutput
from oip_host.edge.grpc import codec as grpc_codec
from oip_host.edge.grpc import wire
from oip_host.edge.grpc.messages import message
from oip_host.edge.rest import codec as rest_codec
from oip_host.edge.rest import large_json

__all__ = ["THRESHOLDS", "Threshold", "compare", "lines"]

NEVER = sys.maxsize
BATCH_S = 0.002
"""Seconds of work between two readings of the clock, about."""

Work = Callable[[], object]


class Threshold(NamedTuple):
    """A constant that separates two ways, and the work to measure them by."""

    module: ModuleType
    name: str
    unit: str
    sizes: tuple[int, ...]
    work: Callable[[int], Work]
    """Makes the work of a size."""

    @property
    def value(self) -> int:
        """The constant as the host has it."""
        return int(getattr(self.module, self.name))


class Comparison(NamedTuple):
    """The times of both ways for one size, in microseconds."""

    size: int
    plain_us: float
    second_us: float

    @property
    def ratio(self) -> float:
        """The time of the second way by that of the plain one."""
        return self.second_us / self.plain_us


def _floats(count: int) -> np.ndarray[Any, Any]:
    """Return numbers with as many digits as those of a model, the same in every run."""
    return np.random.default_rng(7).normal(size=count).astype("<f4")


def _integers(count: int) -> np.ndarray[Any, Any]:
    """Return integers of an octet, as an image has them."""
    return np.arange(count) % 256


def _json_body(size: int, values: Callable[[int], Any], datatype: str) -> bytes:
    """Return a request of `size` bytes or a little less, with one input."""

    def body(count: int) -> bytes:
        data = values(count)
        entry = {"name": "x", "shape": [count], "datatype": datatype, "data": data}
        return orjson.dumps({"inputs": [entry]}, option=orjson.OPT_SERIALIZE_NUMPY)

    per_number = (len(body(1000)) - len(body(0))) / 1000
    return body(max(1, int((size - len(body(0))) / per_number)))


def _read_json(values: Callable[[int], Any], datatype: str) -> Callable[[int], Work]:
    def work(size: int) -> Work:
        body = _json_body(size, values, datatype)
        return lambda: rest_codec.decode(body)

    return work


def _request(array: np.ndarray[Any, Any], datatype: str, field: str) -> bytes:
    """Return a gRPC request with one input, raw where `field` is empty."""
    made = message("ModelInferRequest")(model_name="model")
    tensor = made.inputs.add(name="x", datatype=datatype, shape=[array.size])
    if field:
        getattr(tensor.contents, field).extend(array.tolist())
    else:
        made.raw_input_contents.append(array.tobytes())
    return bytes(made.SerializeToString())


def _read_grpc(field: str) -> Callable[[int], Work]:
    def work(size: int) -> Work:
        data = _request(_floats(size // 4), "FP32", field)

        def read() -> object:
            parsed = grpc_codec.parse(data, wire.LEAST, wire.LEAST_RAW)
            return grpc_codec.decode(parsed)

        return read

    return work


def _write_grpc(dtype: str, datatype: str, field: str) -> Callable[[int], Work]:
    def work(size: int) -> Work:
        array = (100 * np.abs(_floats(size))).astype(dtype)
        request = grpc_codec.parse(_request(array[:1], datatype, field))
        output = ResponseOutput.from_numpy("x", array)
        response = InferenceResponse(model_name="model", outputs=[output])
        return lambda: grpc_codec.encode(request, response)

    return work


_BYTES = (1000, 2000, 4000, 6000, 8000, 10_000, 12_000, 16_000, 24_000, 100_000)
_RAW = (8000, 40_000, 100_000, 150_000, 200_000, 250_000, 300_000, 600_000)
_COUNTS = (16, 32, 64, 96, 128, 256, 512, 1024, 2048, 8192)
THRESHOLDS = {
    "JSON, floats": Threshold(
        large_json, "LARGE", "bytes", _BYTES, _read_json(_floats, "FP32")
    ),
    "JSON, integers": Threshold(
        large_json, "LARGE", "bytes", _BYTES, _read_json(_integers, "INT64")
    ),
    "gRPC, raw": Threshold(wire, "LEAST_RAW", "bytes", _RAW, _read_grpc("")),
    "gRPC, typed floats": Threshold(
        wire, "LEAST", "bytes", _BYTES, _read_grpc("fp32_contents")
    ),
    "gRPC, floats written": Threshold(
        wire, "FEW", "elements", _COUNTS, _write_grpc("<f4", "FP32", "fp32_contents")
    ),
    "gRPC, integers written": Threshold(
        wire, "FEW_INTEGERS", "elements", _COUNTS,
        _write_grpc("<i8", "INT64", "int64_contents"),
    ),
}  # fmt: skip
"""The comparisons, by name."""


def _seconds(work: Work, times: int) -> float:
    began = time.thread_time()
    for _ in range(times):
        work()
    return time.thread_time() - began


def compare(threshold: Threshold, size: int, rounds: int) -> Comparison:
    """Measure both ways for a size, in turns, and return the best of each."""
    work, value = threshold.work(size), threshold.value
    bests = {NEVER: float("inf"), 0: float("inf")}
    try:
        times = max(1, round(BATCH_S / (_seconds(work, 3) / 3)))
        for _ in range(rounds):
            for constant in bests:
                setattr(threshold.module, threshold.name, constant)
                taken = _seconds(work, times) / times
                bests[constant] = min(bests[constant], taken)
    finally:
        setattr(threshold.module, threshold.name, value)
    return Comparison(size, 1e6 * bests[NEVER], 1e6 * bests[0])


def lines(rounds: int, names: tuple[str, ...] = ()) -> Iterator[str]:
    """Measure the named thresholds, or all of them, and yield a table line by line."""
    for name in names or THRESHOLDS:
        threshold = THRESHOLDS[name]
        module = threshold.module.__name__.rpartition(".")[2]
        yield f"{name}: {module}.{threshold.name} = {threshold.value} {threshold.unit}"
        yield f"{threshold.unit:>12}  plain µs  second µs  ratio"
        for size in threshold.sizes:
            one = compare(threshold, size, rounds)
            mark = "  <" if size >= threshold.value else ""
            yield (
                f"{size:>12}  {one.plain_us:>8.1f}  {one.second_us:>9.1f}"
                f"  {one.ratio:>5.2f}{mark}"
            )


def main(rounds: int) -> None:
    """Print all tables; `<` marks the sizes for which the host takes the second way."""
    for line in lines(rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
