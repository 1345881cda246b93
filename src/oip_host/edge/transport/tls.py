"""The certificate that both protocols present, renewed when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import grpc
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oip_host.config.settings import Settings
from oip_host.config.watched_file import WatchedFile, watch_files
from oip_host.edge.transport.certificates import (
    Certificate,
    CertificateFiles,
    choose_files,
)
from oip_host.errors import ConfigurationError

__all__ = ["Tls", "build_tls"]

log = logging.getLogger("oip_host")

WARN_S = 7 * 86400.0
"""Seconds before a certificate expires in which the log warns of it.

A fifth of its lifetime if that is less: some live for a day, and are renewed in time.
"""
WARN_EVERY_S = 86400.0


def build_tls(settings: Settings, kserve_args: Namespace) -> Tls | None:
    """Return TLS as the options say, or None without; raises ConfigurationError."""
    files, wrong = choose_files(settings, kserve_args)
    if wrong:
        raise ConfigurationError(wrong)
    return None if files is None else Tls(files)


class Tls:
    """The certificate for new connections; `start` and `stop` begin and end renewal.

    Open connections go on with the certificate that they began with.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self.file = WatchedFile(files.paths, files.load, "TLS files", "certificate")
        self.context = _CurrentContext(self)
        """For REST."""
        self._certificate_of_grpc = self.certificate
        self._warn_at = 0.0
        self._expiry = _ExpiryMetric(self)
        self._watching: asyncio.Task[None] | None = None

    @property
    def certificate(self) -> Certificate:
        """The certificate in use."""
        return self.file.value

    def build_credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server, which renew themselves."""
        return grpc.dynamic_ssl_server_credentials(
            self.certificate.grpc,
            self._renew_grpc,
            require_client_authentication=self._files.authorities is not None,
        )

    def start(self) -> None:
        """Watch the files, and use what is new in them."""
        if self._files.is_key_public():
            log.warning(
                "%s: every user of this machine can read it, expected mode 0600",
                self._files.key,
            )
        self._log_certificate()
        REGISTRY.register(self._expiry)
        self._watching = asyncio.create_task(watch_files([self.file], self.react))

    def stop(self) -> None:
        """End the watch."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            REGISTRY.unregister(self._expiry)

    def react(self, is_renewed: bool) -> None:
        """Log a renewed certificate, and warn of one that expires soon."""
        if is_renewed:
            self._log_certificate()
        self._warn()

    def _renew_grpc(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a newer certificate, if any; gRPC calls this before each handshake."""
        certificate = self.certificate
        if certificate is self._certificate_of_grpc:
            return None
        self._certificate_of_grpc = certificate
        return certificate.grpc

    def _log_certificate(self) -> None:
        log.info(
            "TLS by %s, serial %x, valid until %s",
            self._files.certificate,
            self.certificate.serial,
            _format_time(self.certificate.expires),
        )

    def _warn(self) -> None:
        """Log once a day that the certificate expires soon, or has expired."""
        begins, expires = self.certificate.begins, self.certificate.expires
        left_s = expires - time.time()
        if left_s > min(WARN_S, (expires - begins) / 5):
            return
        if time.monotonic() >= self._warn_at:
            self._warn_at = time.monotonic() + WARN_EVERY_S
            log.warning(
                "%s: the certificate %s on %s",
                self._files.certificate,
                "expires" if left_s > 0 else "has expired",
                _format_time(expires),
            )


class _CurrentContext(ssl.SSLContext):
    """A context whose every handshake uses the certificate of that moment.

    Each certificate has a context of its own, so that neither old authorities nor the
    sessions of clients whose certificates are no longer valid outlive it.
    """

    _tls: Tls

    def __new__(cls, tls: Tls) -> _CurrentContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._tls = tls
        return self

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self._tls.certificate.context.wrap_bio(*arguments, **options)


class _ExpiryMetric(Collector):
    """The metric of the expiry of the certificate in use."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def describe(self) -> list[Metric]:
        """Return no name, so that two servers in one process may both have it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the family with its present value."""
        yield GaugeMetricFamily(
            "oip_tls_certificate_expiry_timestamp_seconds",
            "Expiry of the TLS certificate in use, in seconds since 1970",
            value=self._tls.certificate.expires,
        )


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
