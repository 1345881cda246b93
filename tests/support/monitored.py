"""A host that has answered every kind of request, so that it has every metric."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import httpx

from support.credentials import bearer, static_entry
from support.pki import Authority
from support.process import Server, wait_for
from support.scrapes import series
from support.wire import ONE

TOKEN = "a-token-of-the-tests"
INSTANCES = {"instances": [1]}
ASKED = {
    "/v2/models/echo/infer": (ONE, 200),
    "/v2/models/raises/infer": (ONE, 500),
    "/v1/models/kserve:predict": (INSTANCES, 200),
    "/v1/models/kserve:explain": (INSTANCES, 200),
    "/v2/nowhere": ({}, 404),
}
"""An answer, a fault, what KServe takes metrics of, and a refusal."""


@dataclass(frozen=True)
class Monitored:
    """A host with TLS and tokens, with its metrics on the probe port."""

    server: Server
    client: httpx.Client

    @property
    def address(self) -> str:
        """Return the address of the metrics in Prometheus's form."""
        return self.server.log.split("probes at ")[1].split()[0].rstrip(",")

    def scrape(self) -> str:
        """Return the text of a scrape."""
        with urlopen(f"http://{self.address}/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    def ask(self) -> None:
        """Send each kind of request once with a token, and one without a token."""
        for path, (document, status) in ASKED.items():
            answer = self.client.post(path, json=document, headers=bearer(TOKEN))
            assert status == answer.status_code, answer.text
        assert 401 == self.client.post("/v2/models/echo/infer", json=ONE).status_code


@contextmanager
def monitored(directory: Path) -> Iterator[Monitored]:
    """Run such a host after its requests; its files are in the directory."""
    authority = Authority()
    certificate, key = authority.issue(timedelta(days=90)).write(directory)
    tokens = directory / "tokens.json"
    entry = static_entry("tests", TOKEN, "infer", "metadata")
    tokens.write_text(json.dumps([entry]))
    with Server(
        "--handlers=echo=fakes:Echo,raises=fakes:Raises,kserve=fakes.v1:Explains",
        f"--tls_cert_file={certificate}",
        f"--tls_key_file={key}",
        "--auth_enabled=true",
        f"--auth_tokens_file={tokens}",
        "--probe_port=0",
    ) as server:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        url = f"https://127.0.0.1:{server.http_port}"
        with httpx.Client(base_url=url, verify=context, timeout=30) as client:
            host = Monitored(server, client)
            wait_for(lambda: _ready(host.scrape()) == 3, "three models")
            host.ask()
            yield host


def _ready(text: str) -> float:
    """Return the number of ready models."""
    return sum(series(text, "oip_model_ready").values())
