"""The handler contract under its upstream import path."""

from oip_host.handler import DefaultModelHandler, ModelHandler

__all__ = ["DefaultModelHandler", "ModelHandler"]
