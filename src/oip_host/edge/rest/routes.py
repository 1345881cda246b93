"""The routes of V2: what a path means, with which method, and to whom it is open."""

from __future__ import annotations

from functools import lru_cache

from oip_handler.errors import NotFound
from oip_host.auth.authorizer import OPEN

__all__ = ["MODEL", "REPOSITORY", "SERVER", "is_open", "method_of", "route"]

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


@lru_cache(maxsize=4096)
def route(path: str) -> tuple[str, str | None, str]:
    """The model, its version and the action that a path means; raises NotFound."""
    if path in SERVER:
        return "", None, SERVER[path]
    _, _, *parts = path.split("/")
    version = None
    routes: dict[tuple[str, ...], str] = {}
    if parts[0] == "models":
        name, *rest = [*parts[1:], ""][: max(1, len(parts) - 1)]
        routes = MODEL
        if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
            version, rest = rest[1], rest[2:]
    elif parts[:2] == ["repository", "models"] and len(parts) > 2:
        name, *rest = parts[2:]
        routes = REPOSITORY
    else:
        name, rest = "", []
    action = routes.get(tuple(rest))
    if not name or action is None:
        raise NotFound(f"no such path: {path}")
    return name, version, action


def method_of(action: str) -> str:
    """The method that an action takes."""
    return "POST" if action in _POSTS else "GET"


def is_open(path: str) -> bool:
    """Whether a path, as the routes have it, is answered to everybody."""
    try:
        return path.startswith("/v2/") and route(path)[2] in OPEN
    except NotFound:
        return False
