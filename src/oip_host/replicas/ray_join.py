"""Joining a Ray: its settings in this process, and one of the host's own to join.

Ray is an extra, and takes some ten seconds to start, so it is imported here, when the
first model asks for it. A Ray of the host's own listens on the loopback interface, has
a token and a directory of its own, and ends with the host; see `ray_head`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any, NamedTuple

from oip_handler.errors import ModelNotReady
from oip_host.replicas.ray_head import MARK

__all__ = ["QUIET", "Head", "end", "join", "start_head", "start_serve"]

log = logging.getLogger("oip_host")

ENDS_S = 10.0
"""Seconds that the host waits for the end of its own Ray."""
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""How Ray Serve logs: what goes wrong."""


def join(address: str, token_file: str | None) -> str:
    """Join the cluster at an address, and return the id of this process there.

    Raises ModelNotReady.
    """
    # else a call that comes too late starts another Ray
    _switch_off("RAY_ENABLE_AUTO_CONNECT", "auto_init_hook.enable_auto_connect")
    _set_for_all()
    if token_file is not None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = token_file
    if "ray" in sys.modules:  # by the user's program: Ray has read all of that
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")
    import ray

    try:
        ray.init(address=address, namespace="oip-host", logging_level=logging.ERROR)
    except Exception as error:
        raise ModelNotReady(
            f"the Ray cluster at {address} cannot be joined: {_cause(error)}"
        ) from error
    return str(ray.get_runtime_context().get_job_id())


def start_serve() -> None:
    """Start Ray Serve, without a proxy: clients connect to the host."""
    from ray import serve

    _let_threads_pickle()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config=QUIET)


class Head(NamedTuple):
    """A Ray of the host's own: the process that keeps it, and its directory."""

    process: subprocess.Popen[bytes]
    directory: str


def start_head(cpus: int) -> tuple[Head, str]:
    """Start a Ray of the host's own, and return it with its address.

    Raises ModelNotReady.
    """
    # sockets have their paths in there, and those are short
    directory = tempfile.mkdtemp(prefix="oip-ray-", dir="/tmp")
    log.info("starting Ray in %s", directory)
    _set_for_all()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # else Ray replaces 127.0.0.1 by the machine's own address, for clusters of several,
    # and listens on every interface
    _switch_off("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "ray_constants.ENABLE_RAY_CLUSTER")
    process = subprocess.Popen(
        [sys.executable, "-m", "oip_host.replicas.ray_head", directory, str(cpus)],
        env={**os.environ, MARK: directory},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().decode().strip()
    head = Head(process, directory)
    if not address:
        end(head)
        raise ModelNotReady("Ray failed to start; the log has the reason")
    return head, address


def end(head: Head | None) -> None:
    """Leave the cluster that was joined, and end a head of the host's own."""
    if "ray" in sys.modules:
        import ray

        with suppress(Exception):  # one that has died is as good
            ray.shutdown()
    if head is not None:
        assert head.process.stdin is not None
        head.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            head.process.wait(ENDS_S)
        # which it has removed, unless somebody killed it
        shutil.rmtree(head.directory, ignore_errors=True)


def _set_for_all() -> None:
    """Set the variables that Ray's own processes and this one share."""
    # else Ray ends this process, and all other models with it, where it has lost the
    # cluster for a minute
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(2**31 - 1))
    # else replicas wait for every other process of the machine, the host's own too
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # of what replicas print


def _switch_off(variable: str, name: str) -> None:
    """Switch off what Ray reads when it is imported, also if it was before."""
    os.environ[variable] = "0"
    module, _, attribute = name.partition(".")
    imported = sys.modules.get(f"ray._private.{module}")
    if imported is not None:
        setattr(imported, attribute, False)


def _let_threads_pickle() -> None:
    """Let two threads of Ray Serve pickle at the same time.

    For each configuration of a deployment it has a module of its own pickled by value
    for a moment, and the second of two threads that do so at once finds it taken back.
    By reference, as it is then, is as good.
    """
    from ray import cloudpickle

    take_back: Any = cloudpickle.unregister_pickle_by_value

    def take_back_if_there(module: Any) -> None:
        with suppress(ValueError):
            take_back(module)

    cloudpickle.unregister_pickle_by_value = take_back_if_there


def _cause(error: BaseException) -> str:
    """Return what an error of Ray's began with, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
