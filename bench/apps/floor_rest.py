"""The floor by REST: a bare ASGI application, orjson and numpy.

It answers JSON with JSON, and the binary tensor data extension with binary. `fixedcost`
has the plainest batcher that works, and `sleeper` a pool of threads.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson

HEADER_LENGTH = b"inference-header-content-length"
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
MAX_BATCH = 64

_threads = ThreadPoolExecutor(16)
_waiting: list[tuple[Any, asyncio.Future[Any]]] = []
_worker: list[asyncio.Task[None]] = []


def slow(x: Any, seconds: float) -> Any:
    """Compute after a pause that blocks its thread."""
    time.sleep(seconds)
    return 2 * x + 1


async def in_a_thread(x: Any, seconds: float) -> Any:
    """Compute in a thread, after a pause."""
    return await asyncio.get_running_loop().run_in_executor(_threads, slow, x, seconds)


async def in_a_batch(x: Any) -> Any:
    """Compute in the next batch: all rows that wait when the model is free."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    _waiting.append((x, answer))
    if not _worker:
        _worker.append(asyncio.create_task(work_off()))
    return await answer


async def work_off() -> None:
    """Compute batch after batch until nothing waits."""
    while _waiting:
        batch = _waiting[:MAX_BATCH]
        del _waiting[:MAX_BATCH]
        y = await in_a_thread(np.concatenate([x for x, _ in batch]), 0.005)
        for (_, answer), row in zip(batch, y, strict=True):
            answer.set_result(row[np.newaxis])
    _worker.clear()


async def compute(model: str, x: Any) -> Any:
    """Compute as the handler of that name does."""
    if model == "fixedcost":
        return await in_a_batch(x)
    if model == "sleeper":
        return await in_a_thread(x, 0.1)
    return 2 * x + 1


def output(y: Any, **more: Any) -> dict[str, Any]:
    """Return the description of an output."""
    return {"name": "y", "shape": y.shape, "datatype": "FP32", **more}


async def answer_json(model: str, body: bytes) -> tuple[bytes, list[Any]]:
    """Answer a request in JSON with JSON."""
    tensor = orjson.loads(body)["inputs"][0]
    x = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    y = await compute(model, x)
    document = {"model_name": model, "outputs": [output(y, data=y.ravel())]}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), [JSON]


async def answer_binary(
    model: str, body: bytes, length: int
) -> tuple[bytes, list[Any]]:
    """Answer a request with binary tensors in the same form."""
    view = memoryview(body)
    tensor = orjson.loads(view[:length])["inputs"][0]
    x = np.frombuffer(view[length:], np.float32).reshape(tensor["shape"])
    raw = (await compute(model, x)).tobytes()
    shape = {"parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"model_name": model, "outputs": [output(x, **shape)]})
    return head + raw, [BINARY, (HEADER_LENGTH, b"%d" % len(head))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """POST /v2/models/<name>/infer; every other request is answered with `{}`."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return  # the client left
        parts.append(message["body"])
        more = message["more_body"]
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if scope["method"] == "POST":
        model = scope["path"].split("/")[3]
        length = dict(scope["headers"]).get(HEADER_LENGTH)
        if length is None:
            content, headers = await answer_json(model, body)
        else:
            content, headers = await answer_binary(model, body, int(length))
    else:
        content, headers = b"{}", [JSON]
    headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
