"""The in-process data plane under its upstream import path."""

from oip_handler.dataplane import DataplaneHandler

__all__ = ["DataplaneHandler"]
