"""What a model takes and gives, and a request's names held against it.

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
from oip_handler_onnx.convert import fed

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
"""What ZipMap gives: for each example a map from class label to score."""


class Node(Protocol):
    """An input or output as onnxruntime reports it (its `NodeArg`)."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def shape(self) -> Sequence[int | str | None]: ...


@dataclass(frozen=True)
class Signature:
    """The tensors of one model by name, in the model's order."""

    inputs: dict[str, MetadataTensor]
    optional: dict[str, MetadataTensor]
    """Inputs that have a value of their own (overridable initializers)."""
    outputs: dict[str, MetadataTensor]
    left_out: dict[str, str]
    """The ONNX types of the outputs that the protocol cannot carry."""

    @classmethod
    def of(
        cls, inputs: Sequence[Node], optional: Sequence[Node], outputs: Sequence[Node]
    ) -> Signature:
        """The signature of what a session reports.

        Raises ValueError for a required input that cannot be fed, and where there is no
        output that can be carried.
        """
        takes, refused = _described(inputs, _DATATYPES)
        gives, left_out = _described(outputs, _DATATYPES | _SCORES)
        if refused:
            raise ValueError(
                f"inputs: found {_typed(refused)}, expected types among "
                f"{', '.join(_DATATYPES)}"
            )
        if not gives:
            raise ValueError(
                f"outputs: found {_typed(left_out)}, expected at least one type among "
                f"{', '.join(_DATATYPES | _SCORES)}"
            )
        return cls(takes, _described(optional, _DATATYPES)[0], gives, left_out)

    def wanted(self, outputs: Sequence[RequestOutput] | None) -> list[str]:
        """The names of the outputs to fetch: those asked for, each once, or all.

        Raises InvalidRequest for a name that the model does not offer.
        """
        names = list(dict.fromkeys(output.name for output in outputs or ()))
        for name in names:
            if name in self.left_out:
                raise InvalidRequest(
                    f"output '{name}' is a {self.left_out[name]}, which the protocol "
                    f"cannot carry: expected outputs among {_listed(self.outputs)}"
                )
        unknown = [name for name in names if name not in self.outputs]
        if unknown:
            raise InvalidRequest(
                f"outputs: unknown {_listed(unknown)}, expected names among "
                f"{_listed(self.outputs)}"
            )
        return names or list(self.outputs)

    def feeds(self, tensors: Sequence[RequestInput]) -> dict[str, NDArray[Any]]:
        """The arrays to run the model with, by name.

        Raises InvalidRequest where an input is missing, unknown or given twice, or does
        not have the datatype and shape that the model takes.
        """
        known = self.inputs | self.optional
        self._check_names([tensor.name for tensor in tensors], known)
        return {tensor.name: fed(tensor, known[tensor.name]) for tensor in tensors}

    def _check_names(self, found: Sequence[str], known: Container[str]) -> None:
        times = Counter(found)
        faults = {
            "missing": [name for name in self.inputs if name not in times],
            "unknown": [name for name in times if name not in known],
            "repeated": [name for name in times if times[name] > 1],
        }
        said = [f"{fault} {_listed(names)}" for fault, names in faults.items() if names]
        if said:
            optional = f", optional {_listed(self.optional)}" if self.optional else ""
            raise InvalidRequest(
                f"inputs: {', '.join(said)}: found {_listed(found)}, "
                f"expected {_listed(self.inputs)}{optional}"
            )


def _described(
    nodes: Sequence[Node], types: Mapping[str, Datatype]
) -> tuple[dict[str, MetadataTensor], dict[str, str]]:
    """The tensors of the types that can be carried, and the types of the others."""
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _typed(types: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}' as {kind}" for name, kind in types.items())
