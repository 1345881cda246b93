"""The model class under its upstream import path."""

from oip_host.model import AissembleOIPKServe

__all__ = ["AissembleOIPKServe"]
