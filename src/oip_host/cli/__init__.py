"""The command line: a module for each command."""

from __future__ import annotations

from oip_host.cli.app import main

__all__ = ["main"]
