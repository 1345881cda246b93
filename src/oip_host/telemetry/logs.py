"""The form of log lines: text as KServe writes it, or JSON objects.

Both name the request that a line belongs to, if it belongs to one.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from oip_host.telemetry.context import current

if TYPE_CHECKING:
    from oip_host.config.settings import Settings

__all__ = ["JSON", "build_formatter", "format_time", "log_to_stderr", "set_level"]

JSON = "json"
TEXT = (
    "%(asctime)s.%(msecs)03d %(process)s %(name)s %(levelname)s "
    "[%(filename)s:%(funcName)s():%(lineno)s] %(message)s"
)
"""KServe's form, also for processes that do not import KServe."""
TEXT_TIME = "%Y-%m-%d %H:%M:%S"
_FIELDS = {"levelname": "level", "name": "logger", "process": "pid"}
"""The attributes of a record that a JSON line has, and their names there."""


def log_to_stderr(settings: Settings) -> logging.StreamHandler[Any]:
    """Write everything that this process logs to its standard error.

    With JSON lines, Python's warnings are logged too: as text they have two lines.
    """
    logging.captureWarnings(settings.oip_log_format == JSON)
    handler = logging.StreamHandler()
    handler.setFormatter(build_formatter(settings.oip_log_format))
    logging.getLogger().addHandler(handler)
    set_level(settings.oip_log_level)
    return handler


def set_level(level: str) -> None:
    """Set the minimum level of what the host and the handlers log."""
    logging.getLogger().setLevel(level)


def build_formatter(form: str) -> logging.Formatter:
    """Return a formatter for a value of `oip_log_format`."""
    return _build_json() if form == JSON else _Text(TEXT, TEXT_TIME)


def format_time(seconds: float) -> str:
    """Return a time as in JSON lines, without fractions: ISO 8601, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        text = super().formatMessage(record)
        context = current.get()
        return text if context is None else f"{text} request_id={context.id}"


def _build_json() -> logging.Formatter:
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    class Json(JsonFormatter):
        def add_fields(
            self,
            log_data: dict[str, Any],
            record: logging.LogRecord,
            message_dict: dict[str, Any],
        ) -> None:
            stamp = format_time(record.created)
            log_data["timestamp"] = f"{stamp}.{int(record.msecs):03d}Z"
            super().add_fields(log_data, record, message_dict)
            context = current.get()
            if context is not None:
                log_data.setdefault("request_id", context.id)
                if context.span is not None:
                    for name, text in context.span.ids().items():
                        log_data.setdefault(name, text)
                if context.model:
                    log_data.setdefault("model", context.model)
                    log_data.setdefault("version", context.version)

    return Json(
        [*_FIELDS, "message"],
        rename_fields=_FIELDS,
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
    )
