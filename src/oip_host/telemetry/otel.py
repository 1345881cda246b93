"""The export of spans by OpenTelemetry's SDK, set up by its own `OTEL_*` variables.

Nothing of OpenTelemetry is imported unless the host traces.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import importlib_metadata

from oip_host.config.settings import Settings
from oip_host.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from oip_host.telemetry.tracing import Tracing

__all__ = [
    "Export",
    "export_spans",
    "find_faults",
    "join_export",
    "list_variables",
]

log = logging.getLogger("oip_host")

FLUSH_S = 2.0
"""Seconds in which the last spans are sent when the process ends."""
REPEAT_S = 60.0
"""Seconds before the same line of OpenTelemetry is logged again."""
MISSING = "oip_tracing: OpenTelemetry is not installed: pip install 'oip-host[otel]'"
_GROUP = "opentelemetry_traces_exporter"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_SIGNALS, _ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_BY_PROTOCOL = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_HEADER_LOGGERS = (
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)
"""Loggers that warn of what clients send in headers, with all of its text."""


class Export:
    """A provider of spans in use; `tracing` makes the spans of requests."""

    def __init__(self) -> None:
        from opentelemetry import trace

        from oip_host.telemetry.tracing import Tracing

        self._own = _build_provider() if _is_ours() else None
        if self._own is not None:
            trace.set_tracer_provider(self._own)
        _quieten()
        self.tracing: Tracing = Tracing(trace.get_tracer_provider())

    def close(self) -> None:
        """Send the remaining spans, for at most `FLUSH_S` seconds.

        A provider that the host has not made is left to whoever made it.
        """
        if self._own is None:
            return
        sending = threading.Thread(target=self._own.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)
        if sending.is_alive():
            log.warning("gave up exporting the last spans after %g s", FLUSH_S)


class RepeatFilter(logging.Filter):
    """A filter that passes the same message once in `REPEAT_S` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        key, now = (record.levelno, str(record.msg)), time.monotonic()
        self._passed = {k: at for k, at in self._passed.items() if now < at + REPEAT_S}
        if key in self._passed:
            return False
        self._passed[key] = now
        return True


def _quieten() -> None:
    """Keep the log usable if the collector fails, or clients send invalid headers.

    OpenTelemetry logs a line or more for each export that fails.
    """
    for name in _HEADER_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("opentelemetry."):
            logging.getLogger(name).addFilter(RepeatFilter())


@contextmanager
def export_spans(settings: Settings) -> Iterator[Tracing | None]:
    """Export spans during the block; yield None if the host does not trace.

    Raises ConfigurationError if the variables are wrong.
    """
    if not _is_on(settings):
        yield None
        return
    export = _start_export()
    try:
        yield export.tracing
    finally:
        export.close()


def join_export(variables: Mapping[str, str] | None) -> Export | None:
    """Start the export of a replica with its host's variables; None if it has none.

    Variables that the replica has itself take precedence. If they do not work here, for
    example without a package that the host has, the model serves without spans.
    """
    if variables is None:
        return None
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        return _start_export()
    except ConfigurationError as error:
        log.warning(
            "could not start tracing in this replica, serving without: %s",
            "; ".join(error.faults),
        )
        return None


def list_variables(settings: Settings) -> dict[str, str] | None:
    """Return the variables by which a replica traces too; None if the host does not."""
    if not _is_on(settings):
        return None
    return {n: value for n, value in os.environ.items() if n.startswith("OTEL_")}


def find_faults(settings: Settings) -> list[str]:
    """Return a line for each fault that prevents tracing."""
    return _check() if _is_on(settings) else []


def _is_on(settings: Settings) -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "")
    return settings.oip_tracing and disabled.strip().lower() != "true"


def _check() -> list[str]:
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        return [MISSING]
    return _choose_exporters()[1] if _is_ours() else []


def _is_ours() -> bool:
    """Return whether the host makes the provider: no program or tool has made one."""
    from opentelemetry import trace

    return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _start_export() -> Export:
    """Return a new export; raises ConfigurationError."""
    wrong = _check()
    if wrong:
        raise ConfigurationError(wrong)
    try:
        return Export()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError([f"oip_tracing: OTEL_*: {error}"]) from error


def _build_provider() -> Any:
    """Return a provider with each exporter that the variables name."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_describe_process(), shutdown_on_exit=False)
    for exporter in _choose_exporters()[0]:
        provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    return provider


def _describe_process() -> Resource:
    """Return what each span says of this process; the variables take precedence."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own: dict[str, str | int] = {
        "service.name": "oip-host",
        "service.version": importlib_metadata.version("oip-host"),
        "process.pid": os.getpid(),
    }
    given = Resource(own).merge(OTELResourceDetector().detect())
    return Resource.create(given.attributes)


def _choose_exporters() -> tuple[list[importlib_metadata.EntryPoint], list[str]]:
    """Return the exporters that the variables name, and a line for each fault."""
    installed = {
        each.name: each for each in importlib_metadata.entry_points(group=_GROUP)
    }
    names = [name.strip() for name in os.environ.get(_EXPORTER, "").split(",")]
    chosen, wrong = [], []
    for name in names:
        if name == "none":
            continue
        if name in ("", "otlp"):
            name, fault = _choose_otlp(installed)
        else:
            fault = _find_unknown(name, installed)
        if fault:
            wrong.append(fault)
        else:
            chosen.append(installed[name])
    return chosen, wrong


def _find_unknown(name: str, installed: Mapping[str, Any]) -> str:
    if name in installed:
        return ""
    known = sorted({"none", "otlp", *installed})
    return (
        f"{_EXPORTER}: found {name!r}, expected one of {', '.join(known)}"
        f"{nearest(name, known)}"
    )


def _choose_otlp(installed: Mapping[str, Any]) -> tuple[str, str]:
    """Return the exporter for OTLP by its protocol, and its fault or an empty text."""
    variable, protocol = _read_variable("PROTOCOL")
    name = _BY_PROTOCOL.get(protocol or "http/protobuf", "")
    if not name:
        known = ", ".join(_BY_PROTOCOL)
        return "", f"{variable}: found {protocol!r}, expected one of {known}"
    if name not in installed:
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        return name, f"oip_tracing: {package} is not installed: pip install {package}"
    variable, endpoint = _read_variable("ENDPOINT")
    if endpoint and name == "otlp_proto_http" and not _is_url(endpoint):
        return name, f"{variable}: found {endpoint!r}, expected http://host:port"
    return name, ""


def _read_variable(what: str) -> tuple[str, str]:
    """Return an exporter's variable for traces, or else for all, and its value."""
    name = _SIGNALS + what if os.environ.get(_SIGNALS + what) else _ALL + what
    return name, os.environ.get(name, "").strip()


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
