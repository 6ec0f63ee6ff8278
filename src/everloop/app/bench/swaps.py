"""200 swaps while 64 connections ask as fast as they can: nobody is refused, and no connection sees a version go back."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from everloop.app.bench.load import Client, post
from everloop.app.bench.processes import everloop_server
from everloop.app.bench.rows import Context, Result, counted
from everloop.app.bench.versions import numbered_versions
from everloop.app.continuum import Continuum

CONNECTIONS = 64
SWAPS = 200
MODEL = "numbered"


class _Answer(msgspec.Struct):
    prediction: float
    model_version: int


def run(context: Context, folder: Path) -> Result:
    swaps = SWAPS if not context.quick else 20
    data = folder / "swaps"
    with Continuum(data_dir=data) as engine:
        answers = numbered_versions(engine, MODEL, swaps + 1)
        engine.promote(MODEL, 1)
    request = post(f"/v1/models/{MODEL}/predict", b'{"features":[1.0]}')
    decode = msgspec.json.Decoder(_Answer).decode
    last = [0] * CONNECTIONS
    refused: dict[int, int] = {}
    asked = back = torn = 0

    def answered(connection: int, status: int, body: bytes) -> None:
        nonlocal asked, back, torn
        asked += 1
        if status != 200:
            refused[status] = refused.get(status, 0) + 1
            return
        answer = decode(body)
        back += answer.model_version < last[connection]
        torn += answers.get(answer.model_version) != answer.prediction
        last[connection] = answer.model_version

    with everloop_server(folder, "--data-dir", str(data)) as server:
        server.wait()
        client = Client(server.port, CONNECTIONS, lambda _connection: request, answered)
        failed: list[str] = []

        def swap() -> None:
            try:
                for version in range(2, swaps + 2):
                    if version % 25 == 0:
                        context.say(f"swaps under load: {version} of {swaps}")
                    status, text = server.call("POST", f"/v1/models/{MODEL}/promote", {"version": version})
                    if status != 200:
                        failed.append(f"promote {version}: {status} {text.decode()[:200]}")
                time.sleep(0.3)
            finally:
                client.stop()

        began = time.perf_counter()
        swapper = threading.Thread(target=swap)
        swapper.start()
        client.run()
        swapper.join()
        seconds = time.perf_counter() - began
    newest = max(last)
    passed = not refused and not client.socket_errors and not back and not torn and not failed and newest == swaps + 1
    measured = f"{sum(refused.values())} non-2xx, {client.socket_errors} socket errors, {back} backwards, {torn} torn"
    detail = f"{asked:,} answers in {seconds:.1f} s, last version seen {newest}; {'; '.join(failed[:2])}".rstrip("; ")
    what = f"{swaps} swaps under {CONNECTIONS} connections"
    row = counted("swaps", what, "no non-2xx, no socket error, no version back", measured, passed=passed, detail=detail)
    return Result([row], {"answers": asked, "seconds": seconds})
