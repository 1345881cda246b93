"""What a worker knows of its place: which one it is, and where the others are."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from oip_host.config.settings import WORKER

__all__ = ["Place", "entered"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """One worker among those that serve at the same ports, as the supervisor says."""

    index: int
    count: int
    directory: str
    """Where the workers of this host have their files; only their user may look."""
    supervisor: int
    """The process id of the supervisor."""
    http_port: int
    grpc_port: int
    replaces: bool
    """Whether the others serve already."""
    tells: int
    """The file descriptor on which it says once where it listens; -1: nobody asks."""
    plugins: Sequence[str] = ()
    """Where the supervisor imports from that is of the plugin directory."""
    probe_port: int | None = None

    @property
    def path(self) -> Path:
        """The directory as a path."""
        return Path(self.directory)

    @property
    def siblings(self) -> list[int]:
        """The indexes of the other workers."""
        return [index for index in range(self.count) if index != self.index]

    @property
    def is_first(self) -> bool:
        """Whether it speaks for all when it listens."""
        return self.tells >= 0

    @property
    def is_orphan(self) -> bool:
        """Whether the supervisor has gone."""
        return os.getppid() != self.supervisor

    def environment(self) -> dict[str, str]:
        """This process's environment, and in it the place for the worker."""
        return {**os.environ, WORKER: json.dumps(asdict(self))}

    def tell(self, addresses: str) -> None:
        """Say that the worker listens, and where."""
        if self.is_first:
            os.write(self.tells, addresses.encode())
            os.close(self.tells)


def entered() -> Place | None:
    """The place of this process, once; None where it is no worker.

    From now on the process ends with its supervisor, and its own children are told
    nothing of the place. Exits where the supervisor has gone already.
    """
    text = os.environ.pop(WORKER, None)
    if text is None:
        return None
    place = Place(**json.loads(text))
    if place.is_first:
        os.set_inheritable(place.tells, False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an import
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is about to read the options
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if place.is_orphan:
        raise SystemExit(1)
    return place
