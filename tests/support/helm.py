"""Helm, from the package `helm-sdkpy`, against a fake API server.

Helm runs in a separate process: it is a library in Go, with threads and signals.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from support.process import clean_environment

CHART = Path(__file__).parent.parent.parent / "deploy" / "helm" / "oip-host"
KINDS = {
    "v1": ["Service"],
    "apps/v1": ["Deployment"],
    "serving.kserve.io/v1beta1": ["InferenceService"],
    "serving.kserve.io/v1alpha1": ["ServingRuntime", "ClusterServingRuntime"],
}
_PROGRAM = """
import asyncio, json, sys
import helm_sdkpy as helm
chart, server, release, values = sys.argv[1:]
config = helm.Configuration(namespace="ml", kubeconfig=server)
asyncio.run(helm.Lint(config).run(chart))
install = helm.Install(config)
asyncio.run(install.run(release, chart, values=json.loads(values), wait=False))
"""


class HelmError(Exception):
    """Helm's message about a chart that it does not install."""


def installed(values: dict[str, Any], release: str = "oip-host") -> list[Any]:
    """Return the documents that Helm creates for a release of the chart."""
    created: list[Any] = []
    with _api(created) as url:
        kubeconfig = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {"server": url}}],
                "contexts": [{"name": "x", "context": {"cluster": "here"}}],
                "current-context": "x",
            }
        )
        program = [sys.executable, "-c", _PROGRAM, str(CHART), kubeconfig]
        done = subprocess.run(
            [*program, release, json.dumps(values)],
            env=clean_environment({"HELM_DRIVER": "memory"}),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    if done.returncode:
        raise HelmError(done.stderr)
    return created


@contextmanager
def _api(created: list[Any]) -> Iterator[str]:
    """Run an API server that knows some kinds and records the objects created."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(*_found(self.path.partition("?")[0]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            created.append(json.loads(body))
            self._answer(201, created[-1])

        def _answer(self, code: int, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _found(path: str) -> tuple[int, Any]:
    """Return the discovery document of a path; other paths are not found."""
    if path == "/version":
        return 200, {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = sorted({known.partition("/")[0] for known in KINDS if "/" in known})
        return 200, {"kind": "APIGroupList", "groups": [_group(g) for g in groups]}
    known = path.removeprefix("/apis/").removeprefix("/api/")
    if known in KINDS:
        resources = [_resource(kind) for kind in KINDS[known]]
        listed = {"groupVersion": known, "resources": resources}
        return 200, {"kind": "APIResourceList", "apiVersion": "v1", **listed}
    missing = {"status": "Failure", "reason": "NotFound", "code": 404}
    return 404, {"kind": "Status", "apiVersion": "v1", **missing}


def _group(name: str) -> Any:
    versions = [
        {"groupVersion": known, "version": known.rpartition("/")[2]}
        for known in KINDS
        if known.startswith(f"{name}/")
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resource(kind: str) -> Any:
    return {
        "name": f"{kind.lower()}s",
        "kind": kind,
        "namespaced": not kind.startswith("Cluster"),
        "verbs": ["create", "get"],
    }
