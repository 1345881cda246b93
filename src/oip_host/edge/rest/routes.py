"""The routes of V2: the action of a path, its method, and whether it needs a token."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from oip_handler.errors import NotFound
from oip_host.auth.authorizer import OPEN

__all__ = ["MODEL", "REPOSITORY", "SERVER", "Route", "find_route", "is_open"]

_POSTS = frozenset({"infer", "index", "load", "unload"})
SERVER = {
    "/v2": "server",
    "/v2/": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "health",
    "/v2/models": "models",
    "/v2/models/stats": "stats",
    "/v2/repository/index": "index",
    "/metrics": "metrics",
}
MODEL = {
    (): "metadata",
    ("ready",): "ready",
    ("infer",): "infer",
    ("config",): "config",
    ("stats",): "stats",
}
REPOSITORY: dict[tuple[str, ...], str] = {
    ("load",): "load",
    ("unload",): "unload",
}


class Route(NamedTuple):
    """The meaning of a path."""

    action: str
    method: str
    """GET, which stands for HEAD too, or POST."""
    name: str = ""
    """The model; empty where the action is the server's."""
    version: str | None = None


@lru_cache(maxsize=4096)
def find_route(path: str) -> Route:
    """Return the route of a path; raise NotFound."""
    name = ""
    version: str | None = None
    action: str | None = None
    match path.split("/")[2:]:
        case _ if path in SERVER:
            action = SERVER[path]
        case ["models", name, "versions", version, *rest] if name and version:
            action = MODEL.get(tuple(rest))
        case ["models", name, *rest] if name:
            version, action = None, MODEL.get(tuple(rest))
        case ["repository", "models", name, *rest] if name:
            action = REPOSITORY.get(tuple(rest))
    if action is None:
        raise NotFound(f"no such path: {path}")
    return Route(action, "POST" if action in _POSTS else "GET", name, version)


def is_open(path: str) -> bool:
    """Return True for a path of V2 that is answered without a token."""
    try:
        return path.startswith("/v2/") and find_route(path).action in OPEN
    except NotFound:
        return False
