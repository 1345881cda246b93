"""One host, several models, both protocols, as a user meets them."""

from __future__ import annotations

from collections.abc import Callable

from support.process import Server

Serve = Callable[..., Server]


def body(data: list[float], shape: list[int]) -> dict[str, object]:
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "data": data}
    return {"inputs": [tensor]}


def test_two_models_answer_side_by_side(serve: Serve) -> None:
    """Each model answers with its own handler, under its own name."""
    server = serve("--handlers=a=fakes:Echo,b=fakes:Lists").wait_until_ready()
    for name, expected in {"a": [1.0, 2.0], "b": [2.0, 4.0]}.items():
        answer = server.post(f"/v2/models/{name}/infer", json=body([1, 2], [1, 2]))
        assert answer.status_code == 200
        assert answer.json()["model_name"] == name
        assert answer.json()["outputs"][0]["data"] == expected
