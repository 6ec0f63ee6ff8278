"""The Open Inference Protocol against those who defined it: requests a second of Triton and of MLServer, one core each.

    python benchmarks/oip_peers.py [--quick] [--cache FOLDER]

Every server has the same ONNX model (breast cancer, 30 floats, two outputs), onnxruntime with one thread, and the first core; wrk
asks from the last one, 64 connections, one server at a time, in turns. Each peer as its documentation has it, with what it has for
batching where that made it faster here:

- *PyTriton*, the wheel `nvidia-pytriton`: an inference function bound to it, its dynamic batcher.
- *tritonserver*, the server inside that wheel alone: a model repository by hand, with the Python backend, the only one that the wheel
  brings. No bar was set for it; it is what is left of Triton without PyTriton's own way to the function.
- *MLServer*: a custom runtime, without worker processes (they cost more than they bring on one core). It does not understand binary
  tensors over HTTP.

The peers' environments are made once, with pip, in a folder outside of the repository: `--cache`, or else `everloop/peers` in
`$XDG_CACHE_HOME` (`~/.cache`). A peer that cannot be installed or started is told as skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from everloop.app.bench.load import need_wrk, wrk
from everloop.app.bench.material import breast_cancer_onnx
from everloop.app.bench.processes import Server, everloop_server, free_port
from everloop.app.bench.rows import Context, Row, Skip, against, ratio_in_turns, skipped, spread

HERE = Path(__file__).parent
PEERS = HERE / "peers"
CONNECTIONS = 64
INFER = "/v2/models/bc/infer"
READY = "/v2/models/bc/ready"
TIMES = 10.0
PACKAGES = {
    "triton": (
        "nvidia-pytriton==0.7.0",
        "onnxruntime==1.22.1",
    ),  # needs NumPy 1, as does that onnxruntime at the latest
    "mlserver": ("mlserver==1.7.1", "onnxruntime==1.22.1"),
}
TRITON_CONFIG = """
name: "bc"
backend: "python"
max_batch_size: 256
input [{ name: "X" data_type: TYPE_FP32 dims: [30] }]
output [{ name: "label" data_type: TYPE_INT64 dims: [1] }, { name: "probabilities" data_type: TYPE_FP32 dims: [2] }]
dynamic_batching { }
instance_group [{ kind: KIND_CPU count: 1 }]
"""


@dataclass(frozen=True)
class Question:
    """One request, over and over."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def questions() -> list[Question]:
    from sklearn.datasets import load_breast_cancer

    row = load_breast_cancer().data[:1].astype("<f4")
    tensor: dict[str, Any] = {"name": "X", "shape": [1, 30], "datatype": "FP32"}
    plain = {"inputs": [{**tensor, "data": [float(f"{value:.5g}") for value in row[0]]}]}
    asked = [{"name": name, "parameters": {"binary_data": True}} for name in ("label", "probabilities")]
    head = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": row.nbytes}}], "outputs": asked}
    ).encode()
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return [
        Question("JSON", json.dumps(plain).encode(), {"content-type": "application/json"}),
        Question("binary", head + row.tobytes(), binary),
    ]


# -- the peers --


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "everloop", "peers")


def environment(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Its folder. Raises Skip if it cannot be made."""
    folder = cache / name
    complete = folder / "complete.txt"
    wanted = "\n".join((sys.version, *PACKAGES[name]))
    if complete.exists() and complete.read_text() == wanted:
        return folder
    say(f"{name}: making an environment in {folder}; this takes some minutes, once")
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--only-binary", ":all:", *PACKAGES[name]],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Skip(f"{' '.join(command[-len(PACKAGES[name]) :])} failed: {done.stderr.strip()[-300:]}")
    complete.write_text(wanted)
    return folder


def packages_of(env: Path) -> Path:
    return next((env / "lib").glob("python3*")) / "site-packages"


def pytriton(env: Path, model: Path, folder: Path) -> Server:
    port = free_port()
    # Its stub is linked to libpython, and must not find one of another patch level.
    command = [str(env / "bin" / "python"), str(PEERS / "pytriton_server.py"), str(port), str(model)]
    return Server("pytriton", ["env", f"LD_LIBRARY_PATH={sysconfig.get_config_var('LIBDIR')}", *command], port, folder=folder, ready_path=READY)  # fmt: skip


def tritonserver(env: Path, model: Path, folder: Path) -> Server:
    packages = packages_of(env)
    triton, version = packages / "pytriton" / "tritonserver", f"{sys.version_info.major}.{sys.version_info.minor}"
    backend, repository = folder / "backends" / "python", folder / "repository" / "bc"
    shutil.copytree(triton / "backends" / "python", backend)
    shutil.copy(triton / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    (repository / "1").mkdir(parents=True)
    shutil.copy(model, repository / "1" / "model.onnx")
    shutil.copy(PEERS / "triton_model.py", repository / "1" / "model.py")
    (repository / "config.pbtxt").write_text(TRITON_CONFIG)
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    port = free_port()
    command = [
        "env", f"LD_LIBRARY_PATH={libraries}", f"PYTHONPATH={packages}", f"PATH={env / 'bin'}:{os.environ['PATH']}",
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository.parent}", f"--backend-directory={backend.parent}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
    ]  # fmt: skip
    return Server("tritonserver", command, port, folder=folder, ready_path=READY)


def mlserver(env: Path, model: Path, folder: Path) -> Server:
    shutil.copy(model, folder / "model.onnx")
    shutil.copy(PEERS / "mlserver_runtime.py", folder)
    port, grpc, metrics = free_port(), free_port(), free_port()
    ports = {"http_port": port, "grpc_port": grpc, "metrics_port": metrics}
    quiet = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps({**ports, **quiet}))
    served = {"name": "bc", "implementation": "mlserver_runtime.OnnxModel"}
    (folder / "model-settings.json").write_text(json.dumps(served))
    command = ["env", f"PYTHONPATH={folder}", str(env / "bin" / "mlserver"), "start", str(folder)]
    return Server("mlserver", command, port, folder=folder, ready_path=READY)


@dataclass(frozen=True)
class Peer:
    environment: str
    start: Callable[[Path, Path, Path], Server]
    barred: bool = True
    """Whether it is the one that the bar is about."""
    binary: bool = True


KNOWN = {
    "PyTriton": Peer("triton", pytriton),
    "tritonserver": Peer("triton", tritonserver, barred=False),
    "MLServer": Peer("mlserver", mlserver, binary=False),
}


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """As a process and everything it has started, all of which ends."""
    try:
        server.wait()
        yield server
    finally:
        family = psutil.Process(server.process.pid).children(recursive=True) if server.process.poll() is None else []
        server.stop()
        for process in psutil.wait_procs(family, timeout=10)[1]:
            process.kill()


# -- the measurement --


def answer_of(server: Server, question: Question) -> tuple[int, list[float]]:
    """(label, probabilities). Raises RuntimeError if it was refused."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", INFER, question.body, question.headers)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{server.name} answered {answer.status} to {question.name}: {body[:300]!r}")
    length = answer.headers.get("inference-header-content-length")
    told = json.loads(body if length is None else body[: int(length)])
    values: dict[str, Any] = {}
    at = int(length or 0)
    for output in told["outputs"]:
        if "data" in output:
            values[output["name"]] = np.ravel(output["data"])
            continue
        size = output["parameters"]["binary_data_size"]
        values[output["name"]] = np.frombuffer(body[at : at + size], "<i8" if output["datatype"] == "INT64" else "<f4")
        at += size
    return int(values["label"][0]), [round(float(value), 5) for value in values["probabilities"]]


def run(quick: bool = False, cache: Path | None = None, say: Callable[[str], None] = lambda _text: None) -> list[Row]:
    """Rows for `benchmarks/run.py`."""
    return measure(Context(quick=quick, say=say), cache or default_cache())


def measure(context: Context, cache: Path) -> list[Row]:
    """Raises Skip where wrk is missing."""
    need_wrk()
    rows: list[Row] = []
    asked = questions()
    with tempfile.TemporaryDirectory(prefix="everloop-oip-peers-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        model = breast_cancer_onnx(folder / "bc.onnx")
        ours = stack.enter_context(running(everloop_server(folder, f"bc={model}")))
        servers: dict[str, Server] = {}
        for name, peer in KNOWN.items():
            own = folder / name
            own.mkdir()
            try:
                env = environment(peer.environment, cache, context.say)
                servers[name] = stack.enter_context(running(peer.start(env, model, own)))
            except (Skip, RuntimeError, OSError, StopIteration) as why:
                context.say(f"{name}: skipped: {why}")
                rows.append(skipped(f"oip_peers: {name}", f"{name} could not be had here: {why}"[:600]))
        for question in asked:
            taking = {name: server for name, server in servers.items() if question.name == "JSON" or KNOWN[name].binary}
            expected = answer_of(ours, question)
            for name, server in taking.items():
                if answer_of(server, question) != expected:
                    raise RuntimeError(f"{name} and everloop disagree: {answer_of(server, question)}, {expected}")
            rows += in_turns(context, question, ours, taking, folder)
        for name in servers:
            if not KNOWN[name].binary:
                rows.append(skipped(f"oip_peers: {name}, binary", f"{name} refuses binary tensors over HTTP"))
    return rows


def in_turns(context: Context, question: Question, ours: Server, peers: dict[str, Server], folder: Path) -> list[Row]:
    def once(server: Server, seconds: float) -> float:
        ran = wrk(server.port, INFER, question.body, connections=CONNECTIONS, seconds=seconds, folder=folder, headers=question.headers)  # fmt: skip
        if ran.refused or ran.socket_errors:
            raise RuntimeError(f"{server.name}: {ran.refused} refused, {ran.socket_errors} connections failed")
        return ran.per_second

    rates: dict[str, list[float]] = {name: [] for name in ("everloop", *peers)}
    everyone = {"everloop": ours, **peers}
    for server in everyone.values():
        once(server, context.seconds(2, 1))
    for turn in range(context.rounds(5, 2)):
        context.say(f"{question.name}, round {turn + 1}")
        for name, server in everyone.items():
            rates[name].append(once(server, context.seconds(4, 1)))
    detail = ", ".join(f"{name} {spread(rate, ' /s')}" for name, rate in rates.items())
    rows = []
    for name in peers:
        ratio = ratio_in_turns(rates["everloop"], rates[name])
        what = f"OIP infer, {question.name}, {CONNECTIONS} connections: requests/s, of {name}"
        if KNOWN[name].barred:
            rows.append(against("oip_peers", what, ratio, "at least", TIMES, detail=detail))
        else:
            rows.append(Row("oip_peers", what, "none set", f"{ratio:.3g} ×", ratio, None, detail))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute, noisy")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the peers' environments are kept")
    arguments = parser.parse_args()
    say = lambda text: print(f"  {text}", file=sys.stderr, flush=True)  # noqa: E731
    rows = measure(Context(quick=arguments.quick, say=say), arguments.cache)
    for row in rows:
        print(
            f"{ {False: 'MISSED', None: '-', True: 'ok'}[row.passed]:7} {row.what}: {row.measured} ({row.bar})\n        {row.detail}"
        )
    print(f"load average: {os.getloadavg()[0]:.1f}")
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
