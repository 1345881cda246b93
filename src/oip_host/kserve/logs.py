"""Logging of a process that serves: KServe's loggers and the host's, set up alike."""

from __future__ import annotations

import logging
from typing import Any

from oip_host.config.settings import Settings
from oip_host.kserve.api import kserve, model_server
from oip_host.telemetry import logs

__all__ = ["configure"]

_KSERVES = ("kserve", "kserve.trace", "uvicorn", "uvicorn.access")
"""The loggers that have handlers in KServe's own configuration."""


def configure(settings: Settings) -> logging.StreamHandler[Any] | None:
    """Log as KServe does, unless the program has set up its own logging.

    KServe's own `configure_logging=false` and `log_config_file` hold for both. Returns
    the host's handler, where it has one of its own.
    """
    if not model_server.args.configure_logging:
        return None
    own = logging.getLogger("oip_host").hasHandlers()
    config_file = model_server.args.log_config_file
    kserve.logging.configure_logging(config_file)
    if own or logging.getLogger("oip_host").hasHandlers():
        return None
    if config_file is None and settings.oip_log_format == logs.JSON:
        formatter = logs.build_formatter(settings.oip_log_format)
        for name in _KSERVES:
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(formatter)
    return logs.log_to_stderr(settings)
