"""Options that change while the host runs: read again, told of, and taken up.

All or nothing: with a fault anywhere every option stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from oip_host.config.property_watch import PropertyWatcher
from oip_host.config.settings import Configuration
from oip_host.errors import ConfigurationError
from oip_host.host.differences import Found, find
from oip_host.host.planning import Planned
from oip_host.telemetry import logs

__all__ = ["Reconfigured", "follow"]

log = logging.getLogger("oip_host")


class Reconfigured(Protocol):
    """What has options, and takes up others while it runs."""

    configuration: Configuration
    planned: tuple[Planned, ...]

    def reconfigure(self, found: Found) -> None:
        """Have other options hold from now on."""


async def follow(watcher: PropertyWatcher, host: Reconfigured) -> None:
    """Read the options again for each reason, and have the host take them up."""
    async for asked in watcher.watch():
        try:
            found = await asyncio.to_thread(find, host.configuration, host.planned)
            _take_up(found, host)
        except ConfigurationError as error:
            for fault in error.faults:
                log.error("%s", fault)
            log.error("every option stays as it is: what was read again has faults")
        except Exception:
            log.exception("every option stays as it is: they cannot be read again")
        else:
            if asked and not found.changes:
                log.info("read again: every option is as it was")


def _take_up(found: Found, host: Reconfigured) -> None:
    """Tell of what changes, at the more talkative of the two levels, and change it."""
    levels = [
        configuration.settings.oip_log_level
        for configuration in (host.configuration, found.configuration)
    ]
    if levels[0] != levels[1]:
        logs.set_level(min(levels, key=logging.getLevelName))
    _tell(found)
    host.reconfigure(found)
    if levels[0] != levels[1]:
        logs.set_level(levels[1])


def _tell(found: Found) -> None:
    """Log each change, and which of them wait for the next start."""
    for change in found.changes:
        log.info("%s", change)
    for line in found.warnings if found.changes else ():
        log.warning("%s", line)
    later = [change.option for change in found.changes if not change.at_once]
    if later:
        log.warning("takes effect at the next start: %s", ", ".join(later))
