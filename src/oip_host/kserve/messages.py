"""KServe's own request and response objects ↔ the host's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oip_handler.datatypes import Datatype
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    as_dict,
)
from oip_handler.tensors import TensorData
from oip_host.kserve.api import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    RequestedOutput,
)

__all__ = [
    "request_from_kserve",
    "request_to_kserve",
    "response_from_kserve",
    "response_to_kserve",
]


class _Input(InferInput):  # type: ignore[misc]  # kserve has no types
    """An input whose array and list are those of the host's message.

    KServe's own keeps only one of the two: raw gRPC tensors have an empty `.data`
    there. Here the list is made when `.data` is read.
    """

    def __init__(self, tensor: RequestInput) -> None:
        self._tensor = tensor
        super().__init__(
            tensor.name,
            list(tensor.shape),
            tensor.datatype.value,
            parameters=as_dict(tensor.parameters),
        )

    @property
    def _data(self) -> Any:
        return self.__dict__.get("_assigned", self._tensor.data.root)

    @_data.setter
    def _data(self, value: Any) -> None:
        if value is not None:
            self.__dict__["_assigned"] = value

    def as_numpy(self) -> NDArray[Any]:
        """Return the tensor as an array of its shape, without a copy if it is one."""
        if "_assigned" in self.__dict__ or self._raw_data is not None:
            return super().as_numpy()  # type: ignore[no-any-return]
        return self._tensor.as_numpy()


def request_to_kserve(request: InferenceRequest, model_name: str) -> InferRequest:
    """Return a request as a `kserve.Model` expects it."""
    outputs = None
    if request.outputs:
        outputs = [
            RequestedOutput(output.name, as_dict(output.parameters))
            for output in request.outputs
        ]
    return InferRequest(
        model_name=model_name,
        infer_inputs=[_Input(tensor) for tensor in request.inputs],
        request_id=request.id,
        parameters=as_dict(request.parameters),
        request_outputs=outputs,
    )


def request_from_kserve(request: InferRequest) -> InferenceRequest:
    """Return the host's message for a request that KServe decoded."""
    outputs = [
        RequestOutput(name=o.name, parameters=_parameters(o.parameters))
        for o in getattr(request, "request_outputs", None) or ()
    ]
    return InferenceRequest(
        id=request.id or None,
        parameters=_parameters(request.parameters),
        inputs=[
            RequestInput(
                name=tensor.name,
                shape=list(tensor.shape),
                datatype=Datatype(tensor.datatype),
                parameters=_parameters(tensor.parameters),
                data=_elements(tensor),
            )
            for tensor in request.inputs
        ],
        outputs=outputs,
    )


def response_from_kserve(response: Any, model_name: str) -> InferenceResponse:
    """Return the host's message for what a `kserve.Model` answered to V2.

    Takes an `InferResponse`, or a dictionary in the protocol's own form. Raises
    TypeError for anything else.
    """
    if isinstance(response, Mapping) and "outputs" in response:
        return InferenceResponse.model_validate({"model_name": model_name, **response})
    if not isinstance(response, InferResponse):
        raise TypeError(
            f"predict answered a {type(response).__name__}, expected an InferResponse"
        )
    return InferenceResponse(
        model_name=model_name,
        id=response.id or None,
        parameters=_parameters(response.parameters),
        outputs=[
            ResponseOutput(
                name=tensor.name,
                shape=list(tensor.shape),
                datatype=Datatype(tensor.datatype),
                parameters=_parameters(tensor.parameters),
                data=_elements(tensor),
            )
            for tensor in response.outputs
        ],
    )


def response_to_kserve(response: InferenceResponse) -> InferResponse:
    """Return an answer as KServe's data plane encodes it.

    Always with an id, empty where there is none: its REST model demands one.
    """
    outputs = []
    for tensor in response.outputs:
        output = InferOutput(
            tensor.name,
            list(tensor.shape),
            tensor.datatype.value,
            parameters=as_dict(tensor.parameters),
        )
        array = tensor.as_numpy()
        if tensor.datatype == Datatype.FP16:
            output.set_data_from_numpy(array, binary_data=True)
        elif tensor.datatype == Datatype.BYTES:
            output.data = [_text(element) for element in array.ravel()]
        else:
            output.data = array.ravel().tolist()
        outputs.append(output)
    return InferResponse(
        response_id=response.id or "",
        model_name=response.model_name,
        model_version=response.model_version,
        parameters=as_dict(response.parameters),
        infer_outputs=outputs,
    )


def _text(element: bytes) -> str | bytes:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element


def _elements(tensor: Any) -> TensorData:
    if getattr(tensor, "_raw_data", None) is not None:
        return TensorData(np.asarray(tensor.as_numpy()).ravel())
    return TensorData(tensor.data)


def _parameters(parameters: Any) -> Parameters | None:
    """Read parameters from a dictionary or from KServe's map of protobuf messages."""
    if not parameters:
        return None
    plain = {}
    for name, value in dict(parameters).items():
        choice = getattr(value, "WhichOneof", None)
        plain[name] = getattr(value, choice("parameter_choice")) if choice else value
    return Parameters.model_validate(plain)
