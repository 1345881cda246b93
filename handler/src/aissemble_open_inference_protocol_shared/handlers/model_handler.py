"""The handler contract under its upstream import path."""

from oip_handler.handler import DefaultModelHandler, ModelHandler

__all__ = ["DefaultModelHandler", "ModelHandler"]
