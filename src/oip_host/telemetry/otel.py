"""Where spans go: OpenTelemetry's SDK, set up as its own `OTEL_*` variables say.

Nothing of OpenTelemetry is imported where the host does not trace.
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

__all__ = ["Export", "exporting", "faults", "joined", "variables"]

log = logging.getLogger("oip_host")

FLUSH_S = 2.0
"""Seconds in which the last spans are sent, as the process ends."""
AGAIN_S = 60.0
"""Seconds until OpenTelemetry's log tells the same again."""
MISSING = "oip_tracing: OpenTelemetry is not installed: pip install 'oip-host[otel]'"
_GROUP = "opentelemetry_traces_exporter"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_SIGNALS, _ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_BY_PROTOCOL = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_OF_CLIENTS = (
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)
"""Loggers that warn of headers that clients send, with all that is in them."""


class Export:
    """A provider of spans in use; `tracing` makes those of requests."""

    def __init__(self) -> None:
        from opentelemetry import trace

        from oip_host.telemetry.tracing import Tracing

        self._own = _made() if _is_ours() else None
        if self._own is not None:
            trace.set_tracer_provider(self._own)
        _quieten()
        self.tracing: Tracing = Tracing(trace.get_tracer_provider())

    def close(self) -> None:
        """Send what is left, as far as that takes no longer than `FLUSH_S`.

        Whoever made the provider, if not the host, sends it.
        """
        if self._own is None:
            return
        sending = threading.Thread(target=self._own.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)
        if sending.is_alive():
            log.warning(
                "cut off: the last spans, which nobody takes within %g s", FLUSH_S
            )


class Seldom(logging.Filter):
    """Lets the same message of a logger pass once in `AGAIN_S` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        key, now = (record.levelno, str(record.msg)), time.monotonic()
        self._passed = {k: at for k, at in self._passed.items() if now < at + AGAIN_S}
        if key in self._passed:
            return False
        self._passed[key] = now
        return True


def _quieten() -> None:
    """Keep the log usable where nobody takes spans, or clients send rubbish headers.

    OpenTelemetry has a line or more for each export that fails.
    """
    for name in _OF_CLIENTS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("opentelemetry."):
            logging.getLogger(name).addFilter(Seldom())


@contextmanager
def exporting(settings: Settings) -> Iterator[Tracing | None]:
    """Export spans meanwhile; None where the host does not trace.

    Raises ConfigurationError where the variables are wrong.
    """
    if not _is_on(settings):
        yield None
        return
    export = _started()
    try:
        yield export.tracing
    finally:
        export.close()


def joined(given: Mapping[str, str] | None) -> Export | None:
    """The export of a replica whose host has these variables; None: it does not trace.

    Variables that the replica has itself go first. Where they are wrong here, as no
    package or no file is there that the host has, the model serves without spans.
    """
    if given is None:
        return None
    for name, value in given.items():
        os.environ.setdefault(name, value)
    try:
        return _started()
    except ConfigurationError as error:
        log.warning("this replica is not traced: %s", "; ".join(error.faults))
        return None


def variables(settings: Settings) -> dict[str, str] | None:
    """What a replica has to know to trace as this host does; None: it does not."""
    if not _is_on(settings):
        return None
    return {n: value for n, value in os.environ.items() if n.startswith("OTEL_")}


def faults(settings: Settings) -> list[str]:
    """What stands against tracing, a line for each fault."""
    return _wrong() if _is_on(settings) else []


def _is_on(settings: Settings) -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "")
    return settings.oip_tracing and disabled.strip().lower() != "true"


def _wrong() -> list[str]:
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        return [MISSING]
    return _exporters()[1] if _is_ours() else []


def _is_ours() -> bool:
    """Whether the provider is the host's to make: no program or tool has made one."""
    from opentelemetry import trace

    return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _started() -> Export:
    """The export; raises ConfigurationError."""
    wrong = _wrong()
    if wrong:
        raise ConfigurationError(wrong)
    try:
        return Export()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError([f"oip_tracing: OTEL_*: {error}"]) from error


def _made() -> Any:
    """A provider with an exporter for each that the variables name."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    for exporter in _exporters()[0]:
        provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    return provider


def _resource() -> Resource:
    """What each span says of this process; the variables go first."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own: dict[str, str | int] = {
        "service.name": "oip-host",
        "service.version": importlib_metadata.version("oip-host"),
        "process.pid": os.getpid(),
    }
    given = Resource(own).merge(OTELResourceDetector().detect())
    return Resource.create(given.attributes)


def _exporters() -> tuple[list[importlib_metadata.EntryPoint], list[str]]:
    """The exporters that the variables name, and a line for each fault."""
    found = {each.name: each for each in importlib_metadata.entry_points(group=_GROUP)}
    names = [name.strip() for name in os.environ.get(_EXPORTER, "").split(",")]
    chosen, wrong = [], []
    for name in names:
        if name == "none":
            continue
        if name in ("", "otlp"):
            name, fault = _otlp(found)
        else:
            fault = _unknown(name, found)
        if fault:
            wrong.append(fault)
        else:
            chosen.append(found[name])
    return chosen, wrong


def _unknown(name: str, found: Mapping[str, Any]) -> str:
    if name in found:
        return ""
    known = sorted({"none", "otlp", *found})
    return (
        f"{_EXPORTER}: found {name!r}, expected of {', '.join(known)}"
        f"{nearest(name, known)}"
    )


def _otlp(found: Mapping[str, Any]) -> tuple[str, str]:
    """The exporter for OTLP by its protocol, and its fault, which may be empty."""
    variable, protocol = _of_signal("PROTOCOL")
    name = _BY_PROTOCOL.get(protocol or "http/protobuf", "")
    if not name:
        known = ", ".join(_BY_PROTOCOL)
        return "", f"{variable}: found {protocol!r}, expected of {known}"
    if name not in found:
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        return name, f"oip_tracing: {package} is not installed: pip install {package}"
    variable, endpoint = _of_signal("ENDPOINT")
    if endpoint and name == "otlp_proto_http" and not _is_url(endpoint):
        return name, f"{variable}: found {endpoint!r}, expected http://host:port"
    return name, ""


def _of_signal(what: str) -> tuple[str, str]:
    """A variable of the exporter and its value, that for traces or that for all."""
    name = _SIGNALS + what if os.environ.get(_SIGNALS + what) else _ALL + what
    return name, os.environ.get(name, "").strip()


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
