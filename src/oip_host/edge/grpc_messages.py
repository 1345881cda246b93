"""The protobuf classes of `oip.proto`, in a pool of their own.

KServe's generated module defines the same full names with fewer fields, and protobuf
allows a name only once in its default pool. `oip.binpb` is compiled by `make proto`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["SERVICE", "message", "pool"]

SERVICE = "inference.GRPCInferenceService"


def _pool() -> descriptor_pool.DescriptorPool:
    compiled = files("oip_host.edge").joinpath("oip.binpb").read_bytes()
    own = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        own.AddSerializedFile(file.SerializeToString())
    return own


pool = _pool()


def message(name: str) -> Any:
    """The class of a message of the package `inference`."""
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"inference.{name}")
    )
