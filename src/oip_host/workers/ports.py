"""Taking a port: for one process alone, or for several that share it."""

from __future__ import annotations

import socket

__all__ = ["listener", "reserved"]


def listener(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket, port 0 for any free one; raises OSError where it is taken.

    With `shared` it is not taken by who shares it too, of the same user.
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


def reserved(address: str, port: int) -> socket.socket:
    """A socket that keeps a port for those who share it, and takes no connection.

    Raises OSError where anybody has the port, also one who would share it. Who asks for
    it alone is refused for as long as the socket is there.
    """
    with listener(address, port) as alone:
        alone.listen()  # else a second one could be bound at the same time as this one
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept = listener(address, alone.getsockname()[1], shared=True)
    # to be bound over what is left of old connections was needed once, and with it
    # anybody else could do the same while no worker listens
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return kept
