"""The handler in a real server, with clients of both protocols and of V1."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("oip_host", reason="the host is not installed")
pytest.importorskip("oip_handler_alexnet", reason="the plugin is not installed")
pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("tritonclient", reason="tritonclient is not installed")

import tritonclient.http as triton  # type: ignore[import-untyped]  # has no types

from oip_handler.datatypes import from_raw, to_raw
from oip_host.edge.grpc.messages import message
from support.process import Server
from support.wire import infer_rest, rpc, rpc_error

Picture = Callable[..., bytes]
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    """A host with the same network twice, once in batches, and one that cannot load."""
    models = ["alexnet", "batched=alexnet", "absent=alexnet?"]
    with Server(
        f"--handlers={','.join(models)}",
        "--models.alexnet.settings.random_weights=0",
        "--models.batched.settings.random_weights=0",
        "--models.batched.max_batch_size=8",
        "--models.batched.max_batch_delay_ms=200",
        "--models.absent.settings.weights=/nowhere/absent.pth",
    ) as server:
        yield server.wait_until_ready()


def text(file: bytes) -> str:
    return base64.b64encode(file).decode()


def predicted(server: Server, instances: Any, model: str = "alexnet") -> Any:
    """Return the predictions of V1."""
    answer = server.post(f"/v1/models/{model}:predict", json={"instances": instances})
    assert 200 == answer.status_code, answer.text
    return answer.json()["predictions"]


def asked(elements: list[Any], shape: list[int] | None = None) -> Any:
    """Return a V2 request in JSON."""
    shape = [len(elements)] if shape is None else shape
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "data": elements}
    return {"inputs": [tensor]}


def by_triton(server: Server, elements: NDArray[Any]) -> list[Any]:
    """Return rows in V1's form by Triton's REST client, which sends binary tensors."""
    tensor = triton.InferInput("image", list(elements.shape), "BYTES")
    tensor.set_data_from_numpy(elements)
    with triton.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        answer = client.infer("alexnet", [tensor])
    labels = [label.decode() for label in answer.as_numpy("labels").ravel()]
    return rows(labels, answer.as_numpy("probabilities").ravel().tolist())


def by_grpc(server: Server, files: list[bytes], shape: list[int], raw: bool) -> Any:
    """Return rows in V1's form by gRPC, with raw or with typed contents."""
    answer = rpc(server, "ModelInfer", wire(files, shape, raw))
    labels, numbers = answer.outputs
    if not raw:
        names = [name.decode() for name in labels.contents.bytes_contents]
        return rows(names, list(numbers.contents.fp32_contents))
    names = [name.decode() for name in from_raw(answer.raw_output_contents[0], "BYTES")]
    return rows(names, from_raw(answer.raw_output_contents[1], "FP32").tolist())


def wire(files: list[bytes], shape: list[int], raw: bool = False) -> Any:
    """Return the message of a request to `alexnet`."""
    asked = message("ModelInferRequest")(model_name="alexnet")
    added = asked.inputs.add(name="image", datatype="BYTES", shape=shape)
    if raw:
        asked.raw_input_contents.append(bytes(to_raw(np.array(files, object))))
    else:
        added.contents.bytes_contents.extend(files)
    return asked


def rows(labels: list[Any], probabilities: list[Any]) -> list[Any]:
    """Return rows in V1's form from the elements of V2's two outputs, five a row."""
    assert len(labels) == len(probabilities)
    return [
        {"labels": labels[i : i + 5], "probabilities": probabilities[i : i + 5]}
        for i in range(0, len(labels), 5)
    ]


def assert_same(expected: list[Any], found: list[Any]) -> None:
    """Expect rows with the same labels and nearly the same probabilities."""
    labels, numbers = (
        [[row[name] for row in rows] for rows in (expected, found)]
        for name in ("labels", "probabilities")
    )
    assert labels[0] == labels[1]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-3, atol=1e-6)


def test_every_form_of_v1_is_the_same_image(host: Server, picture: Picture) -> None:
    """`b64`, `b64` by name as in KServe's document, and plain base64 are equal."""
    b64 = text(picture())
    found = predicted(host, [{"b64": b64}, b64])
    found += predicted(host, [{"image": {"b64": b64}}, {"image": b64}])
    assert [["labels", "probabilities"]] * 4 == [list(row) for row in found]
    assert 5 == len(found[0]["labels"]) == len(found[0]["probabilities"])
    assert_same([found[0]] * 4, found)


@pytest.mark.parametrize("shape", [[2], [2, 1]], ids=str)
def test_every_protocol_gives_the_same_answer(
    host: Server, picture: Picture, shape: list[int]
) -> None:
    """JSON, binary by REST, and raw and typed gRPC give the rows of V1."""
    files = [picture(), picture(1, kind="JPEG")]
    expected = predicted(host, [{"b64": text(file)} for file in files])
    assert_same(expected, by_triton(host, np.array(files, object).reshape(shape)))
    assert_same(expected, by_grpc(host, files, shape, raw=True))
    assert_same(expected, by_grpc(host, files, shape, raw=False))
    answer = infer_rest(host, "alexnet", asked([text(file) for file in files], shape))
    outputs = answer.document["outputs"]
    assert [[2, 5], [2, 5]] == [output["shape"] for output in outputs]
    assert_same(expected, rows(*(output["data"] for output in outputs)))


def test_body_may_be_just_the_file(host: Server, picture: Picture) -> None:
    """The protocol's raw binary request gets a binary answer."""
    answer = host.post(
        "/v2/models/alexnet/infer",
        content=picture(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert 200 == answer.status_code
    size = int(answer.headers["Inference-Header-Content-Length"])
    outputs = json.loads(answer.content[:size])["outputs"]
    assert ["labels", "probabilities"] == [output["name"] for output in outputs]
    numbers = np.frombuffer(answer.content[-20:], np.float32)
    expected = predicted(host, [text(picture())])[0]["probabilities"]
    np.testing.assert_allclose(expected, numbers, rtol=1e-3)


def test_requests_in_one_batch_get_their_own_answers(
    host: Server, picture: Picture
) -> None:
    """Concurrent requests share calls of the handler, and each gets its own rows."""
    instances = [{"b64": text(picture(n))} for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda one: predicted(host, [one], "batched")[0], instances)
        assert_same(predicted(host, instances), list(found))
    stats = host.get("/v2/models/batched/stats").json()["model_stats"][0]
    assert stats["execution_count"] < stats["inference_count"] == 4


def test_bad_image_fails_alone_in_a_batch(host: Server, picture: Picture) -> None:
    """The other requests of its batch are answered."""
    instances = [{"b64": text(file)} for file in (picture(), b"rubbish", picture(1))]
    path = "/v1/models/batched:predict"
    with ThreadPoolExecutor(3) as threads:
        answers = threads.map(
            lambda one: host.post(path, json={"instances": [one]}), instances
        )
        assert [200, 400, 200] == [answer.status_code for answer in answers]


def test_bad_image_is_the_clients_fault(host: Server, picture: Picture) -> None:
    """By every protocol the error has the same status and names the row."""
    files = [picture(), picture()[:1000]]
    said = "image 1: a broken PNG (image file is truncated)"
    answer = host.post(
        "/v1/models/alexnet:predict",
        json={"instances": [{"b64": text(file)} for file in files]},
    )
    assert (400, {"error": said}) == (answer.status_code, answer.json())
    refused = infer_rest(host, "alexnet", asked([text(file) for file in files]))
    assert (400, said) == (refused.status, refused.error)
    for raw in (True, False):
        found = rpc_error(host, "ModelInfer", wire(files, [2], raw))
        assert ("INVALID_ARGUMENT", said) == found


def test_bad_base64_is_named_by_its_instance(host: Server, picture: Picture) -> None:
    """The host refuses it before the handler."""
    good = {"b64": text(picture())}
    for instances in ([good, {"b64": "?"}], [{"image": good}, {"image": {"b64": "?"}}]):
        answer = host.post("/v1/models/alexnet:predict", json={"instances": instances})
        assert 400 == answer.status_code
        assert "instances: element 1 is not base64" in answer.json()["error"]


def test_model_that_did_not_load_says_why(host: Server) -> None:
    """The reason names the file, and has no traceback in it."""
    answer = infer_rest(host, "absent", asked([""]))
    assert 503 == answer.status
    assert answer.error.endswith(
        "FileNotFoundError: weights: there is no file /nowhere/absent.pth"
    )


@pytest.mark.parametrize("path", ["/v2/models/alexnet/infer", ":predict"])
def test_readme_shows_the_real_answers(host: Server, path: str) -> None:
    """A request of the README gets the answer below it, apart from rounding."""
    shown = re.compile(
        rf"curl -s localhost:8080(\S*{path}) (?:-H '[^']*' )?-d '(.*?)'\n```\n\n"
        r"```json\n(.*?)```",
        re.DOTALL,
    ).search(README.read_text())
    assert shown is not None
    headers = {"content-type": "application/json"}
    answer = host.post(shown[1], content=shown[2], headers=headers)
    assert 200 == answer.status_code, answer.text
    assert_like(json.loads(shown[3]), answer.json())


def assert_like(expected: Any, found: Any) -> None:
    """Expect the same keys, texts and integers, and nearly the same floats."""
    if isinstance(expected, dict):
        assert expected.keys() == found.keys()
        for key in expected:
            assert_like(expected[key], found[key])
    elif isinstance(expected, list):
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            assert_like(one, other)
    else:
        assert expected == pytest.approx(found, abs=1e-3)
