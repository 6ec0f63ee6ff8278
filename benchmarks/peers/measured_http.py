"""The function that the bridge's benchmark calls, behind HTTP: uvicorn with uvloop and httptools, bare ASGI, msgspec's JSON.

python measured_http.py PORT
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = msgspec.json.decode(body)
    features = asked["features"]
    answer = {"user": asked["user"], "score": features[0] + features[1], "tags": asked["tags"]}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,  # its own 5 s end a connection between two turns, now and then just as it is used again
    )
