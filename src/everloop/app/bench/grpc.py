"""Inference over gRPC against the floor that gRPC in Python has: an echo of the same bytes, both servers on one core, in turns."""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import sys
from pathlib import Path
from typing import Any

from everloop.app.bench.grpc_load import GrpcRun, grpc_load
from everloop.app.bench.material import breast_cancer_onnx
from everloop.app.bench.processes import PEERS, Server, everloop_server, free_port
from everloop.app.bench.rows import Context, Result, Row, Skip, against, counted, ratio_in_turns, spread

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CONNECTIONS, CALLS = 8, 8
"""64 calls at a time."""


class Measured:
    """Of one server, a number a round."""

    def __init__(self) -> None:
        self.busy: list[GrpcRun] = []
        self.alone: list[GrpcRun] = []
        self.cpu: list[float] = []
        """Seconds of processor time a call, under load."""

    @property
    def per_second(self) -> list[float]:
        return [run.per_second for run in self.busy]


def run(context: Context, folder: Path) -> Result:
    """Raises Skip where gRPC is not installed."""
    if importlib.util.find_spec("grpc") is None:
        raise Skip("gRPC is not installed: pip install 'everloop[grpc]'")
    model = breast_cancer_onnx(folder / "bc.onnx")
    port = free_port()
    echo_port = free_port()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(everloop_server(folder, f"bc={model}", "--grpc-port", str(port), "--memory"))
        command = [sys.executable, str(PEERS / "grpc_echo.py"), str(echo_port)]
        echo = stack.enter_context(Server("echo", command, echo_port, folder=folder))
        servers = {"everloop": (ours, port), "echo": (echo, echo_port)}
        for server, _ in servers.values():
            server.wait()
        message = breast_cancer_request()
        _check(port, message)
        measured = _in_turns(context, servers, message)
    data: dict[str, Any] = {
        name: {
            "per_second": statistics.median(m.per_second),
            "p50_us": statistics.median([r.p50 * 1e6 for r in m.alone]),
            "cpu_us": statistics.median(m.cpu) * 1e6,
        }
        for name, m in measured.items()
    }
    return Result(_rows(measured), data)


def breast_cancer_request() -> bytes:
    """A `ModelInferRequest` of one row, as `tritonclient` would send it: 30 floats, raw."""
    from sklearn.datasets import load_breast_cancer

    from everloop.api.grpc._generated import inference_pb2 as pb

    request = pb.ModelInferRequest(model_name="bc")
    request.inputs.add(name="X", datatype="FP32", shape=(1, 30))
    request.raw_input_contents.append(load_breast_cancer().data[:1].astype("<f4").tobytes())
    return request.SerializeToString()


def _check(port: int, message: bytes) -> None:
    """It is answered by the model, or there is nothing to measure."""
    import grpc

    from everloop.api.grpc._generated import inference_pb2 as pb

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = pb.ModelInferResponse.FromString(channel.unary_unary(METHOD)(message, timeout=30))
    if [output.name for output in answer.outputs] != ["label", "probabilities"]:
        raise RuntimeError(f"an answer that nobody expected: {answer}")


def _in_turns(context: Context, servers: dict[str, tuple[Server, int]], message: bytes) -> dict[str, Measured]:
    seconds, rounds = context.seconds(4, 1), context.rounds(5, 2)
    measured = {name: Measured() for name in servers}

    def load(port: int, seconds: float, connections: int = CONNECTIONS, calls: int = CALLS) -> GrpcRun:
        return grpc_load(port, METHOD, message, connections=connections, calls=calls, seconds=seconds)

    for _, port in servers.values():
        load(port, context.seconds(2, 1))
    for turn in range(rounds):
        context.say(f"grpc, round {turn + 1} of {rounds}")
        for name, (server, port) in servers.items():
            before = server.cpu_seconds()
            busy = load(port, seconds)
            measured[name].cpu.append((server.cpu_seconds() - before) / max(1, busy.calls))
            measured[name].busy.append(busy)
        for name, (_, port) in servers.items():
            measured[name].alone.append(load(port, seconds / 2, 1, 1))
    return measured


def _rows(measured: dict[str, Measured]) -> list[Row]:
    ours, echo = measured["everloop"], measured["echo"]
    failed = sum(run.failed for m in measured.values() for run in m.busy + m.alone)
    detail = ", ".join(f"{name} {spread(m.per_second, ' /s')}" for name, m in measured.items())
    detail += "; processor time a call: "
    detail += ", ".join(f"{name} {statistics.median(m.cpu) * 1e6:.0f} µs" for name, m in measured.items())
    detail += "; p50 of one call at a time: "
    detail += ", ".join(
        f"{name} {statistics.median([r.p50 for r in m.alone]) * 1e6:.0f} µs" for name, m in measured.items()
    )
    share = ratio_in_turns(ours.per_second, echo.per_second)
    what = f"infer over gRPC, {CONNECTIONS * CALLS} calls at a time, of a bare grpcio.aio echo"
    rows = [against("grpc", what, share, "at least", 0.6, detail=detail, ok=failed == 0)]
    if failed:
        rows.append(counted("grpc", "calls that failed", "none", str(failed), passed=False))
    return rows
