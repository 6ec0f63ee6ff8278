"""The floor of gRPC in Python: grpcio.aio on uvloop, whose one method gives back the bytes that it got. No model, no message is read.

python grpc_echo.py PORT
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import uvloop


async def serve(port: int) -> None:
    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    server.add_registered_method_handlers(
        "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
