"""The model class under its upstream import path."""

from oip_host.model_server import AissembleOIPKServe

__all__ = ["AissembleOIPKServe"]
