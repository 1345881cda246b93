"""The certificate that both protocols show, and its renewal when the files change."""

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
from oip_host.edge.transport.certificates import Files, Stamp, certificate_files
from oip_host.errors import ConfigurationError

__all__ = ["Tls", "tls"]

log = logging.getLogger("oip_host")

LOOK_EVERY_S = 1.0
"""Seconds between two looks at the files."""
WARN_S = 7 * 86400.0
"""Seconds before its end in which a certificate is warned of.

A fifth of its time if that is less: some live for a day, and are renewed in time.
"""
WARN_EVERY_S = 86400.0


def tls(settings: Settings, kserve_args: Namespace) -> Tls | None:
    """TLS as the options have it; None without. Raises ConfigurationError."""
    files, wrong = certificate_files(settings, kserve_args)
    if wrong:
        raise ConfigurationError(wrong)
    return None if files is None else Tls(files)


class Tls:
    """A certificate for each new connection; `start` and `stop` begin and end renewal.

    Whoever is connected goes on with the one that there was.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._stamp = files.stamp()  # before: what changes meanwhile is read again
        self.certificate = files.read()
        self.context = _Newest(self)
        """For REST."""
        self._given = self.certificate
        self._wrong: Stamp | None = None
        self._told: Stamp | None = None
        self._warn_at = 0.0
        self._expiry = _Expiry(self)
        self._watching: asyncio.Task[None] | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        return grpc.dynamic_ssl_server_credentials(
            self.certificate.grpc,
            self._newer,
            require_client_authentication=self._files.authorities is not None,
        )

    def start(self) -> None:
        """Look at the files from now on."""
        if self._files.readable_by_all():
            log.warning(
                "%s: every user of this machine may read it, expected mode 0600",
                self._files.key,
            )
        self._tell()
        REGISTRY.register(self._expiry)
        self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            REGISTRY.unregister(self._expiry)

    def look(self) -> None:
        """Take what is new in the files, where it is whole."""
        stamp = self._files.stamp()
        if stamp != self._stamp:
            self._renew(stamp)
        self._warn()

    async def _watch(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                log.exception("the TLS files cannot be looked at")
            await asyncio.sleep(LOOK_EVERY_S)

    def _renew(self, stamp: Stamp) -> None:
        try:
            self.certificate = self._files.read()
        except ConfigurationError as error:
            # files that are written one by one do not fit together for a moment
            if stamp == self._wrong != self._told:
                self._told = stamp
                for fault in error.faults:
                    log.error("the TLS files changed, the old ones hold: %s", fault)
            self._wrong = stamp
        else:
            self._stamp = stamp
            self._tell()

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks for before each handshake, in a thread of its own."""
        newest = self.certificate
        if newest is self._given:
            return None
        self._given = newest
        return newest.grpc

    def _tell(self) -> None:
        log.info(
            "TLS by %s, serial %x, valid until %s",
            self._files.certificate,
            self.certificate.serial,
            _shown(self.certificate.expires),
        )

    def _warn(self) -> None:
        """Tell, once a day, that the certificate ends soon."""
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
                _shown(expires),
            )


class _Newest(ssl.SSLContext):
    """A context whose every handshake is by the certificate of that moment.

    A context of its own for each certificate has neither old authorities nor sessions
    that were begun with a client whose certificate is no longer good.
    """

    _tls: Tls

    def __new__(cls, tls: Tls) -> _Newest:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._tls = tls
        return self

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self._tls.certificate.context.wrap_bio(*arguments, **options)


class _Expiry(Collector):
    """The metric of when the certificate in effect ends."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def describe(self) -> list[Metric]:
        """No name, so that two servers in one process may both have it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The family with the value of now."""
        yield GaugeMetricFamily(
            "oip_tls_certificate_expiry_timestamp_seconds",
            "Expiry of the TLS certificate in use, in seconds since 1970",
            value=self._tls.certificate.expires,
        )


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
