"""Taking a port, for one process alone or for several that share it."""

from __future__ import annotations

import socket

__all__ = ["bind_socket", "reserve_port"]


def bind_socket(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket bound to a port, 0 for any free one.

    With `shared`, other processes of the same user can bind it too if they also share
    it. Raises OSError if the port is taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # `::` takes IPv4 too, as KServe's gRPC port does
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


def reserve_port(address: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for processes that share it.

    It accepts no connections. While it is open, nobody can bind the port unshared.
    Raises OSError if anybody has the port, even if they would share it.
    """
    with bind_socket(address, port) as exclusive:
        exclusive.listen()  # otherwise a second process could be bound at the same time
        exclusive.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved = bind_socket(address, exclusive.getsockname()[1], shared=True)
    # binding over the remains of old connections was needed only once, and with it
    # anybody else could do the same while no worker listens
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved
