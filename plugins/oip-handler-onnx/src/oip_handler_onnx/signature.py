"""A model's inputs and outputs, and the check of a request's names against them.

Names, types and shapes are those that onnxruntime reports; a dimension without a fixed
size is -1. onnxruntime reports a scalar and a tensor of unknown rank alike, as `[]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from oip_handler import (
    Datatype,
    InvalidRequest,
    MetadataTensor,
    RequestInput,
    RequestOutput,
)
from oip_handler_onnx.convert import to_array

__all__ = ["Node", "Signature"]

_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
"""The types that onnxruntime exchanges with numpy; bfloat16 and smaller are not."""

_SCORES = {
    "seq(map(int64,tensor(float)))": Datatype.FP32,
    "seq(map(string,tensor(float)))": Datatype.FP32,
}
"""The types of ZipMap's result: for each example a map from label to score."""


class Node(Protocol):
    """An input or output as onnxruntime reports it (its `NodeArg`)."""

    @property
    def name(self) -> str:
        """Its name in the graph."""

    @property
    def type(self) -> str:
        """Its ONNX type, as `tensor(float)`."""

    @property
    def shape(self) -> Sequence[int | str | None]:
        """Its sizes; a name or None for one that is not fixed."""


@dataclass(frozen=True)
class Signature:
    """The tensors of one model by name, in the model's order."""

    inputs: dict[str, MetadataTensor]
    optional: dict[str, MetadataTensor]
    """Inputs that have a value in the file (overridable initializers)."""
    outputs: dict[str, MetadataTensor]
    unsupported: dict[str, str]
    """The ONNX types of the outputs that the protocol cannot carry."""

    @classmethod
    def of(
        cls, inputs: Sequence[Node], optional: Sequence[Node], outputs: Sequence[Node]
    ) -> Signature:
        """Make the signature from what a session reports.

        Raises ValueError for a required input that cannot be fed, and if the protocol
        can carry none of the outputs.
        """
        required, unfeedable = _describe(inputs, _DATATYPES)
        offered, unsupported = _describe(outputs, _DATATYPES | _SCORES)
        if unfeedable:
            raise ValueError(
                f"inputs: found {_quote_types(unfeedable)}, expected types among "
                f"{', '.join(_DATATYPES)}"
            )
        if not offered:
            raise ValueError(
                f"outputs: found {_quote_types(unsupported)}, expected at least one "
                f"type among {', '.join(_DATATYPES | _SCORES)}"
            )
        return cls(required, _describe(optional, _DATATYPES)[0], offered, unsupported)

    def select_outputs(self, outputs: Sequence[RequestOutput] | None) -> list[str]:
        """Return the names of the outputs to fetch: the requested ones, or all.

        Raises InvalidRequest for a name that the model does not offer.
        """
        names = list(dict.fromkeys(output.name for output in outputs or ()))
        for name in names:
            if name in self.unsupported:
                raise InvalidRequest(
                    f"output '{name}' is a {self.unsupported[name]}, which the "
                    "protocol cannot carry: expected outputs among "
                    f"{_quote(self.outputs)}"
                )
        unknown = [name for name in names if name not in self.outputs]
        if unknown:
            raise InvalidRequest(
                f"outputs: unknown {_quote(unknown)}, expected names among "
                f"{_quote(self.outputs)}"
            )
        return names or list(self.outputs)

    def make_feeds(self, tensors: Sequence[RequestInput]) -> dict[str, NDArray[Any]]:
        """Return the arrays to run the model with, by name.

        Raises InvalidRequest if an input is missing, unknown or repeated, or does not
        have the datatype and shape that the model takes.
        """
        known = self.inputs | self.optional
        self._check_names([tensor.name for tensor in tensors], known)
        return {tensor.name: to_array(tensor, known[tensor.name]) for tensor in tensors}

    def _check_names(self, found: Sequence[str], known: Container[str]) -> None:
        times = Counter(found)
        faults = {
            "missing": [name for name in self.inputs if name not in times],
            "unknown": [name for name in times if name not in known],
            "repeated": [name for name in times if times[name] > 1],
        }
        texts = [f"{fault} {_quote(names)}" for fault, names in faults.items() if names]
        if texts:
            optional = f", optional {_quote(self.optional)}" if self.optional else ""
            raise InvalidRequest(
                f"inputs: {', '.join(texts)}: found {_quote(found)}, "
                f"expected {_quote(self.inputs)}{optional}"
            )


def _describe(
    nodes: Sequence[Node], types: Mapping[str, Datatype]
) -> tuple[dict[str, MetadataTensor], dict[str, str]]:
    """Return the tensors that can be carried, and the ONNX types of the others."""
    tensors, others = {}, {}
    for node in nodes:
        if node.type not in types:
            others[node.name] = node.type
            continue
        shape = [size if isinstance(size, int) else -1 for size in node.shape]
        tensors[node.name] = MetadataTensor(
            name=node.name,
            datatype=types[node.type],
            shape=[-1, -1] if node.type in _SCORES else shape,
        )
    return tensors, others


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _quote_types(types: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}' as {kind}" for name, kind in types.items())
