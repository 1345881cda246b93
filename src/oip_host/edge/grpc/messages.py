"""The protobuf classes of `oip.proto`, in a pool of their own.

KServe's generated module defines the same full names with fewer fields, and protobuf
allows a name only once in its default pool. `oip.binpb` is compiled by `make proto`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

__all__ = ["SERVICE", "message", "pool"]

SERVICE = "inference.GRPCInferenceService"


def _pool() -> descriptor_pool.DescriptorPool:
    compiled = files("oip_host.edge.grpc").joinpath("oip.binpb").read_bytes()
    own = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        own.AddSerializedFile(file.SerializeToString())
    # the reflection service describes these two services too
    for other in (health_pb2, reflection_pb2):
        own.AddSerializedFile(other.DESCRIPTOR.serialized_pb)
    return own


pool = _pool()


@cache
def message(name: str) -> Any:
    """Return the class of a message of the package `inference`."""
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"inference.{name}")
    )
