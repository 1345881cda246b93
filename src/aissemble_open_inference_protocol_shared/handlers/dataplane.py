"""The in-process data plane under its upstream import path."""

from oip_host.dataplane import DataplaneHandler

__all__ = ["DataplaneHandler"]
