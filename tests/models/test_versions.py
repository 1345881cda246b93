"""Versions of a model side by side: how they are addressed, chosen and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oip_host.edge.grpc.messages import message
from support.control import (
    NOT_FOUND,
    NOT_READY,
    OK,
    PROTOCOLS,
    agreed,
    change,
    described,
    index,
    metric,
)
from support.process import Server
from support.wire import ONE, Reply, infer_both, infer_grpc, infer_rest, rpc, rpc_error

Ask = Callable[..., Reply]
ASK: dict[str, Ask] = {"rest": infer_rest, "grpc": infer_grpc}
ORDER = ["alpha", "beta-2", "2", "2.10", "10"]
"""The versions of `many`, oldest first: words before numbers, numbers by value."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("life")


@pytest.fixture(scope="module")
def host(life: Path) -> Iterator[Server]:
    """A server with models of several versions; the newest of `half` fails to load."""
    (life / "half.fail").touch()
    models = [f"many@{version}=fakes:Tells" for version in reversed(ORDER)]
    models += ["words@zeta=fakes:Tells", "words@eta=fakes:Tells"]
    models += ["half@1=fakes:Tells", "half@2=fakes.lives:Fickle?", "one=fakes:Tells"]
    with Server(
        f"--handlers={','.join(models)}",
        "--model_control=explicit",
        env={"LIFE_DIR": str(life)},
    ) as server:
        yield server.wait_until_ready()


def answering(reply: Reply) -> str:
    """Return the version in the response."""
    return str(reply.document["model_version"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", ORDER)
def test_each_version_is_addressed_by_its_name(
    host: Server, protocol: str, version: str
) -> None:
    """A version is any text, and a request reaches the version that it names."""
    reply = ASK[protocol](host, "many", ONE, version)
    assert (OK[protocol], version) == (reply.status, answering(reply))
    assert version == reply.document["parameters"]["version"]


@pytest.mark.parametrize(
    ("model", "newest"), [("many", "10"), ("words", "zeta"), ("one", "1")]
)
def test_newest_version_answers_by_default(
    host: Server, model: str, newest: str
) -> None:
    """Numbers are compared by value and are newer than words, which compare as text."""
    assert [newest, newest] == [answering(one) for one in infer_both(host, model, ONE)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("asked", ["", "2"], ids=["none", "one"])
def test_metadata_list_all_versions(host: Server, protocol: str, asked: str) -> None:
    """The metadata of each version list all versions, the oldest first."""
    document = described(host, protocol, "metadata", "many", asked).document
    assert ORDER == document["versions"]
    single = described(host, protocol, "metadata", "one").document
    assert ["1"] == single["versions"]


@pytest.mark.parametrize("what", ["metadata", "config", "stats"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unknown_version_is_not_found(host: Server, protocol: str, what: str) -> None:
    """The error names the existing versions, on every path to a version."""
    text = f"model 'many' has no version '3', only {', '.join(ORDER)}"
    reply = described(host, protocol, what, "many", "3")
    assert (NOT_FOUND[protocol], text) == (reply.status, reply.error)
    asked = ASK[protocol](host, "many", ONE, "3")
    assert (NOT_FOUND[protocol], text) == (asked.status, asked.error)


def test_readiness_of_an_unknown_version_is_not_found(host: Server) -> None:
    """The readiness of an unknown version is an error on both protocols."""
    text = f"model 'many' has no version '3', only {', '.join(ORDER)}"
    answer = host.get("/v2/models/many/versions/3/ready")
    assert (404, {"error": text}) == (answer.status_code, answer.json())
    wire = message("ModelReadyRequest")(name="many", version="3")
    assert ("NOT_FOUND", text) == rpc_error(host, "ModelReady", wire)


@pytest.mark.parametrize("version", ["02", "2.0", "10 ", "Alpha"])
def test_version_matches_by_exact_text(host: Server, version: str) -> None:
    """Equal numbers written differently are different versions."""
    for protocol in PROTOCOLS:
        reply = ASK[protocol](host, "many", ONE, version)
        assert NOT_FOUND[protocol] == reply.status


def test_index_lists_versions_newest_first(host: Server) -> None:
    """Each version has a separate entry."""
    for protocol in PROTOCOLS:
        found = [e["version"] for e in index(host, protocol) if e["name"] == "many"]
        assert list(reversed(ORDER)) == found


def test_versions_are_counted_apart(host: Server) -> None:
    """Each version has its own statistics and metrics."""

    def counts() -> list[int]:
        stats = described(host, "rest", "stats", "words").document["model_stats"]
        return [one["inference_count"] for one in stats]

    versions = [
        one["version"]
        for one in described(host, "rest", "stats", "words").document["model_stats"]
    ]
    assert ["zeta", "eta"] == versions
    before = counts()
    infer_both(host, "words", ONE, "eta")
    assert [before[0], before[1] + 2] == counts()
    labels = {"model_name": "words", "model_version": "eta"}
    assert counts()[1] == metric(host, "oip_requests_total", **labels)


def test_newest_loaded_version_answers(host: Server, life: Path) -> None:
    """A newer version takes over as soon as it has loaded.

    A version that is not ready says so when it is named; after an unload of the model
    the newest one says so.
    """
    text = "model 'half' version '2' is not ready: RuntimeError: no weights today"
    assert ["1", "1"] == [answering(one) for one in infer_both(host, "half", ONE)]
    for protocol in PROTOCOLS:
        reply = ASK[protocol](host, "half", ONE, "2")
        assert (NOT_READY[protocol], text) == (reply.status, reply.error)
    assert agreed(host, "half")
    assert 503 == host.get("/v2/models/half/versions/2/ready").status_code
    assert 200 == host.get("/v2/models/half/versions/1/ready").status_code
    wire = message("ModelReadyRequest")(name="half", version="2")
    assert rpc(host, "ModelReady", wire).ready is False
    (life / "half.fail").unlink()
    assert 200 == change(host, "rest", "load", "half").status
    assert ["2", "2"] == [answering(one) for one in infer_both(host, "half", ONE)]
    assert ["1", "1"] == [answering(one) for one in infer_both(host, "half", ONE, "1")]
    assert "OK" == change(host, "grpc", "unload", "half").status
    text = "model 'half' version '2' is not ready: unloaded"
    for protocol, reply in zip(PROTOCOLS, infer_both(host, "half", ONE), strict=True):
        assert (NOT_READY[protocol], text) == (reply.status, reply.error)
