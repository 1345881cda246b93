"""One tensor over every carrier: JSON flat and nested, REST binary, gRPC typed and raw.

Written from the protocol's documents alone, with numpy and `struct`, so that the host's
codecs are not checked against themselves.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from oip_host.edge.grpc.messages import message
from support.process import Server
from support.wire import rpc

Array = NDArray[Any]

DTYPES: dict[str, Any] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": object,
}
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Named:
    """A tensor with its name and datatype."""

    name: str
    datatype: str
    array: Array


def octets(*elements: bytes) -> Array:
    """Return a flat BYTES tensor."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def raw(array: Array) -> bytes:
    """Return the raw bytes: row-major, little-endian, BYTES with their lengths."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(e)) + e for e in array.ravel().tolist())
    return array.tobytes()


def unraw(buffer: bytes, shape: list[int], datatype: str) -> Array:
    """Return the tensor that the raw bytes hold."""
    if datatype != "BYTES":
        return np.frombuffer(buffer, DTYPES[datatype]).reshape(shape)
    elements = []
    while buffer:
        (size,) = struct.unpack_from("<I", buffer)
        elements.append(buffer[4 : 4 + size])
        buffer = buffer[4 + size :]
    return octets(*elements).reshape(shape)


def plain(array: Array) -> Any:
    """Return the tensor as values that JSON can hold, nested in its shape."""
    if array.dtype == object:
        flat = octets(*[element.decode() for element in array.ravel().tolist()])
        return flat.reshape(array.shape).tolist()
    if array.dtype.kind in "fV":
        return array.astype(np.float64).tolist()
    return array.tolist()


def unplain(values: list[Any], shape: list[int], datatype: str) -> Array:
    """Return the tensor that the flat values hold."""
    if datatype == "BYTES":
        values = [v.encode() if isinstance(v, str) else v for v in values]
        return octets(*values).reshape(shape)
    wide = np.array(values, np.float64) if "F" in datatype else np.array(values, object)
    return wide.astype(DTYPES[datatype]).reshape(shape)


# -- REST ---------------------------------------------------------------------


def described(tensor: Named) -> dict[str, Any]:
    """Return an input without its data."""
    shape = list(tensor.array.shape)
    return {"name": tensor.name, "shape": shape, "datatype": tensor.datatype}


def json_input(tensor: Named, nested: bool = False) -> dict[str, Any]:
    """Return an input with its data in JSON."""
    array = tensor.array if nested and tensor.array.ndim else tensor.array.ravel()
    return {**described(tensor), "data": plain(array)}


def binary_input(tensor: Named) -> dict[str, Any]:
    """Return an input whose data follow the JSON part."""
    size = len(raw(tensor.array))
    return {**described(tensor), "parameters": {"binary_data_size": size}}


def _has_null(part: dict[str, Any]) -> bool:
    return None in part.values() or None in part.get("data", ())


def rest_outputs(answer: Any) -> list[Named]:
    """Return the outputs of a REST answer, binary or not; it must hold no null."""
    length = answer.headers.get(LENGTH)
    head = answer.content if length is None else answer.content[: int(length)]
    rest = b"" if length is None else answer.content[int(length) :]
    document = json.loads(head)
    assert not any(_has_null(part) for part in (document, *document["outputs"]))
    outputs = []
    for output in document["outputs"]:
        shape, datatype = output["shape"], output["datatype"]
        if "data" in output:
            array = unplain(output["data"], shape, datatype)
        else:
            size = output["parameters"]["binary_data_size"]
            array, rest = unraw(rest[:size], shape, datatype), rest[size:]
        outputs.append(Named(output["name"], datatype, array))
    assert rest == b""
    return outputs


def _json(server: Server, model: str, tensors: list[Named], nested: bool) -> Any:
    body = {"inputs": [json_input(tensor, nested) for tensor in tensors]}
    return rest_outputs(server.post(f"/v2/models/{model}/infer", json=body))


def _flat(server: Server, model: str, tensors: list[Named]) -> Any:
    return _json(server, model, tensors, nested=False)


def _nested(server: Server, model: str, tensors: list[Named]) -> Any:
    return _json(server, model, tensors, nested=True)


def _binary(server: Server, model: str, tensors: list[Named]) -> Any:
    document = {
        "inputs": [binary_input(tensor) for tensor in tensors],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    body = head + b"".join(raw(tensor.array) for tensor in tensors)
    path = f"/v2/models/{model}/infer"
    answer = server.post(path, content=body, headers={LENGTH: str(len(head))})
    assert "application/octet-stream" == answer.headers["content-type"]
    return rest_outputs(answer)


# -- gRPC ---------------------------------------------------------------------


def wire_request(model: str, tensors: list[Named], in_raw: bool) -> Any:
    """Return a ModelInferRequest with raw or typed contents."""
    wire = message("ModelInferRequest")(model_name=model)
    for tensor in tensors:
        added = wire.inputs.add(**described(tensor))
        if in_raw:
            wire.raw_input_contents.append(raw(tensor.array))
        else:
            field = getattr(added.contents, CONTENTS[tensor.datatype])
            field.extend(tensor.array.ravel().tolist())
    return wire


def wire_outputs(answer: Any) -> list[Named]:
    """Return the outputs of a ModelInferResponse."""
    outputs = []
    for i, output in enumerate(answer.outputs):
        shape, datatype = list(output.shape), output.datatype
        if answer.raw_output_contents:
            assert not output.HasField("contents")
            array = unraw(answer.raw_output_contents[i], shape, datatype)
        else:
            values = list(getattr(output.contents, CONTENTS[datatype]))
            array = unplain(values, shape, datatype)
        outputs.append(Named(output.name, datatype, array))
    return outputs


def _typed(server: Server, model: str, tensors: list[Named]) -> Any:
    answer = rpc(server, "ModelInfer", wire_request(model, tensors, in_raw=False))
    assert not answer.raw_output_contents
    return wire_outputs(answer)


def _raw(server: Server, model: str, tensors: list[Named]) -> Any:
    answer = rpc(server, "ModelInfer", wire_request(model, tensors, in_raw=True))
    assert len(tensors) == len(answer.raw_output_contents)
    return wire_outputs(answer)


CARRIERS = {
    "JSON flat": _flat,
    "JSON nested": _nested,
    "REST binary": _binary,
    "gRPC typed": _typed,
    "gRPC raw": _raw,
}
"""Each sends tensors to a model and gives its outputs."""


def carries(carrier: str, datatype: str, array: Array) -> bool:
    """Return whether the carrier has a form for the tensor."""
    if carrier == "gRPC typed":
        return datatype in CONTENTS
    if not carrier.startswith("JSON"):
        return True
    if datatype == "BYTES":
        return all(_is_text(element) for element in array.ravel().tolist())
    return array.dtype.kind not in "fV" or bool(np.isfinite(array).all())


def _is_text(element: bytes) -> bool:
    try:
        element.decode()
    except UnicodeDecodeError:
        return False
    return True


def same(one: Named, other: Named) -> bool:
    """Return whether two tensors are equal to the last bit."""
    return (
        one.name == other.name
        and one.datatype == other.datatype
        and one.array.shape == other.array.shape
        and raw(one.array) == raw(other.array)
    )
