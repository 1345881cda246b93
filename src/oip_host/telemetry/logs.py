"""The form of a log line: text as KServe writes it, or a JSON object.

Both say which request a line belongs to, where it belongs to one.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from oip_host.telemetry.context import current

if TYPE_CHECKING:
    from oip_host.config.settings import Settings

__all__ = ["JSON", "formatter", "set_level", "timestamp", "to_stderr"]

JSON = "json"
TEXT = (
    "%(asctime)s.%(msecs)03d %(process)s %(name)s %(levelname)s "
    "[%(filename)s:%(funcName)s():%(lineno)s] %(message)s"
)
"""KServe's own form, also for processes that do not import KServe."""
TEXT_TIME = "%Y-%m-%d %H:%M:%S"
_FIELDS = {"levelname": "level", "name": "logger", "process": "pid"}
"""What a JSON line has of each record, and how it is called there."""


def to_stderr(settings: Settings) -> logging.StreamHandler[Any]:
    """Write all that is logged in this process to its standard error.

    Python's own warnings too, where lines are JSON: each of them has two lines.
    """
    logging.captureWarnings(settings.oip_log_format == JSON)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.oip_log_format))
    logging.getLogger().addHandler(handler)
    set_level(settings.oip_log_level)
    return handler


def set_level(level: str) -> None:
    """Log from this level on, the host and the handlers alike."""
    logging.getLogger().setLevel(level)


def formatter(form: str) -> logging.Formatter:
    """What makes lines of records, in the form that `oip_log_format` names."""
    return _json() if form == JSON else _Text(TEXT, TEXT_TIME)


def timestamp(seconds: float) -> str:
    """A time as a JSON line has it, without fractions: ISO 8601, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        text = super().formatMessage(record)
        context = current.get()
        return text if context is None else f"{text} request_id={context.id}"


def _json() -> logging.Formatter:
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    class Json(JsonFormatter):
        def add_fields(
            self,
            log_data: dict[str, Any],
            record: logging.LogRecord,
            message_dict: dict[str, Any],
        ) -> None:
            stamp = timestamp(record.created)
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
