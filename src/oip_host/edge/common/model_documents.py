"""The documents that both edges answer about a model, in the protocol's fields."""

from __future__ import annotations

from typing import Any

from oip_handler.datatypes import datatype_name
from oip_handler.messages import ModelMetadataResponse
from oip_host.models.model import Model

__all__ = ["describe_config", "describe_metadata"]


def describe_metadata(
    described: ModelMetadataResponse, name: str, versions: list[str]
) -> dict[str, Any]:
    """Return a model's metadata (`inference_rest.md`), under its served name."""
    return {
        "name": name,
        "versions": versions,
        "platform": described.platform or "",
        "inputs": [_describe_tensor(tensor) for tensor in described.inputs],
        "outputs": [_describe_tensor(tensor) for tensor in described.outputs],
    }


def _describe_tensor(tensor: Any) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": datatype_name(tensor.datatype),
        "shape": list(tensor.shape),
    }


def describe_config(described: ModelMetadataResponse, model: Model) -> dict[str, Any]:
    """Return a model's configuration in the fields of Triton's `ModelConfig`.

    `max_batch_size` is 0 whether the host merges requests or not: Triton then takes
    the dimensions for those of the metadata, the first one included.
    """
    return {
        "name": model.name,
        "platform": described.platform or "",
        "backend": "python",
        "max_batch_size": 0,
        "input": [_describe_config_tensor(tensor) for tensor in described.inputs],
        "output": [_describe_config_tensor(tensor) for tensor in described.outputs],
    }


def _describe_config_tensor(tensor: Any) -> dict[str, Any]:
    datatype = datatype_name(tensor.datatype)
    kind = "STRING" if datatype == "BYTES" else datatype
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{kind}",
        "dims": list(tensor.shape),
    }
