"""The floor: the least that a Python server does to answer, by REST and by gRPC.

    python -m bench.apps.floor HTTP_PORT GRPC_PORT

Nothing is checked, measured or logged: it is no server to use, but the 1.00 of all
ratios. Both listen in one process and on one loop, as in the host.
"""

from __future__ import annotations

import sys

import uvicorn
import uvloop

from bench.apps import floor_grpc, floor_rest


async def main(http_port: int, grpc_port: int) -> None:
    """Serve both protocols until a signal ends it."""
    grpc_server = await floor_grpc.start(f"127.0.0.1:{grpc_port}")
    config = uvicorn.Config(
        floor_rest.app,
        host="127.0.0.1",
        port=http_port,
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
    )
    await uvicorn.Server(config).serve()
    await grpc_server.stop(None)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
