"""The function that the bridge's benchmark calls, behind gRPC: grpcio's aio server on uvloop, JSON by msgspec as the message.

python measured_grpc.py PORT
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import msgspec
import uvloop


async def serve(port: int) -> None:
    async def score(asked: Any, _context: Any) -> Any:
        features = asked["features"]
        return {"user": asked["user"], "score": features[0] + features[1], "tags": asked["tags"]}

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        score, request_deserializer=msgspec.json.decode, response_serializer=msgspec.json.encode
    )
    server.add_registered_method_handlers("measured.Model", {"Score": handler})
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
