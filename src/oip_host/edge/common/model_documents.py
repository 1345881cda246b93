"""What both edges tell of a model: plain documents, whose fields are the protocol's."""

from __future__ import annotations

from typing import Any

from oip_handler.messages import ModelMetadataResponse
from oip_host.models.model import Model

__all__ = ["config", "metadata"]


def metadata(
    described: ModelMetadataResponse, name: str, versions: list[str]
) -> dict[str, Any]:
    """A model's metadata (`inference_rest.md`), under the name that is served."""
    return {
        "name": name,
        "versions": versions,
        "platform": described.platform or "",
        "inputs": [_tensor(tensor) for tensor in described.inputs],
        "outputs": [_tensor(tensor) for tensor in described.outputs],
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": _datatype(tensor),
        "shape": list(tensor.shape),
    }


def _datatype(tensor: Any) -> str:
    return str(getattr(tensor.datatype, "value", tensor.datatype))


def config(described: ModelMetadataResponse, model: Model) -> dict[str, Any]:
    """A model's configuration in the fields of Triton's `ModelConfig`.

    `max_batch_size` is 0, which means there that the dimensions are those of the
    metadata, the first one included, whether the host merges requests or not.
    """
    return {
        "name": model.name,
        "platform": described.platform or "",
        "backend": "python",
        "max_batch_size": 0,
        "input": [_config_tensor(tensor) for tensor in described.inputs],
        "output": [_config_tensor(tensor) for tensor in described.outputs],
    }


def _config_tensor(tensor: Any) -> dict[str, Any]:
    datatype = _datatype(tensor)
    kind = "STRING" if datatype == "BYTES" else datatype
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{kind}",
        "dims": list(tensor.shape),
    }
