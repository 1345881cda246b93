"""Which of several workers this process is, and where the others are."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from oip_host.config.settings import WORKER

__all__ = ["WorkerIdentity", "from_environment"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerIdentity:
    """One of several workers that serve at the same ports; the supervisor sets it."""

    index: int
    count: int
    directory: str
    """The directory of the workers' files; only their user may enter it."""
    supervisor: int
    """The process id of the supervisor."""
    http_port: int
    grpc_port: int
    is_replacement: bool
    """Whether the other workers serve already."""
    announce_fd: int
    """The file descriptor for `announce`; -1 if nobody waits for it."""
    plugins: Sequence[str] = ()
    """The supervisor's import paths of the plugin directory."""
    probe_port: int | None = None

    @property
    def path(self) -> Path:
        """The directory as a path."""
        return Path(self.directory)

    @property
    def others(self) -> list[int]:
        """The indexes of the other workers."""
        return [index for index in range(self.count) if index != self.index]

    @property
    def is_first(self) -> bool:
        """Whether it announces the addresses for all workers."""
        return self.announce_fd >= 0

    @property
    def is_orphan(self) -> bool:
        """Whether the supervisor has died."""
        return os.getppid() != self.supervisor

    def to_environment(self) -> dict[str, str]:
        """Return this process's environment with the identity in it."""
        return {**os.environ, WORKER: json.dumps(asdict(self))}

    def announce(self, addresses: str) -> None:
        """Tell the supervisor that the worker listens, and where."""
        if self.is_first:
            os.write(self.announce_fd, addresses.encode())
            os.close(self.announce_fd)


def from_environment() -> WorkerIdentity | None:
    """Take the identity out of the environment; return None if this is no worker.

    Afterwards the process ends with its supervisor, and its own children do not
    inherit the identity. Exits if the supervisor has died already.
    """
    text = os.environ.pop(WORKER, None)
    if text is None:
        return None
    identity = WorkerIdentity(**json.loads(text))
    if identity.is_first:
        os.set_inheritable(identity.announce_fd, False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an import
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is about to read the options
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if identity.is_orphan:
        raise SystemExit(1)
    return identity
