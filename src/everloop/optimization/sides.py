"""A model in hand and an ONNX graph of it, asked the same and timed in turns, one thread each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import EverloopError, InvalidInput, explain
from everloop.optimization.onnx_torch import is_module, still, tensors_of
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.loaded import rows_of
from everloop.runtime.onnx import direct, open_runtime

Named = tuple[str, npt.NDArray[Any], npt.NDArray[Any]]
TURNS = 10
"""At least so many …"""
CALLS = 100
"""… of at most so many calls: what else the machine does falls into few of them, which a median leaves out."""


@dataclass(frozen=True)
class Sides:
    rows: int
    model: Callable[[], Any]
    """One call of the model on the sample, as quick as its library makes it."""
    onnx: Callable[[], Any]
    """One call of ONNX Runtime on the same."""
    answers: Callable[[], list[Named]]
    """Output by output: its name, what the model answers, what the graph does."""
    torch: bool = False
    classes: list[Any] | None = None
    """That the model's labels are of, where it answers labels."""


def sides_of(model: Any, graph: bytes, sample: Any) -> Sides:
    """`model`: a PyTorch module, or what `pack` takes. Raises InvalidInput (also where there are no rows, which would prove nothing), and what
    either raises."""
    runtime = open_runtime(graph)
    sides = _of_module(model, runtime, sample) if is_module(model) else _of_artifact(model, runtime, graph, sample)
    if not sides.rows:
        raise InvalidInput("there are no rows to ask for", field="sample")
    return sides


@contextmanager
def _the_files() -> Iterator[None]:
    """What ONNX Runtime raises, and what reading its answers does, derives from nothing more special."""
    try:
        yield
    except EverloopError:
        raise
    except Exception as error:
        told = " ".join(explain(error).split())
        raise InvalidInput(
            f"the file does not take the sample, or answers it otherwise: {told[:300]}", field="sample"
        ) from error


def _of_module(module: Any, runtime: Any, sample: Any) -> Sides:
    import torch

    module = still(module)
    tensors = tensors_of(sample)
    inputs = [each.name for each in runtime.get_inputs()]
    if len(inputs) != len(tensors):
        raise InvalidInput(f"the file takes {len(inputs)} inputs, the sample has {len(tensors)}", field="sample")
    names = [each.name for each in runtime.get_outputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(inputs, tensors, strict=True)}
    run = direct(runtime)

    def answers() -> list[Named]:
        with torch.inference_mode():
            found = _leaves(module(*tensors))
        if len(found) != len(names):
            raise InvalidInput(f"the file gives {len(names)} outputs, the model {len(found)}", field="path")
        with _the_files():
            outs = run(names, feed)
        return [
            (name, np.asarray(tensor.numpy()), np.asarray(out))
            for name, tensor, out in zip(names, found, outs, strict=True)
        ]

    return Sides(
        len(tensors[0]) if tensors[0].ndim else 1,
        lambda: module(*tensors),
        _ready(runtime, feed, names),
        answers,
        torch=True,
    )


def _ready(runtime: Any, feed: dict[str, Any], names: list[str]) -> Callable[[], Any]:
    """A call that gets and gives ONNX Runtime's own values, as the module gets and gives tensors."""
    import onnxruntime

    inner = getattr(runtime, "_sess", None)  # what the public class only wraps
    if inner is None:
        return lambda: runtime.run(names, feed)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array)._ortvalue for name, array in feed.items()}
    return lambda: inner.run_with_ort_values(values, names, None)


def _leaves(answer: Any) -> list[Any]:
    """The tensors of an answer, in the order in which the exporter writes them."""
    if isinstance(answer, dict):
        return [leaf for value in answer.values() for leaf in _leaves(value)]
    if isinstance(answer, (list, tuple)):
        return [leaf for value in answer for leaf in _leaves(value)]
    return [] if answer is None else [answer]


def _of_artifact(model: Any, runtime: Any, graph: bytes, sample: Any) -> Sides:
    from everloop.runtime.packing import pack, trust_in_hand

    trust = trust_in_hand(model)
    manifest, payload = pack(model, trust=trust)
    original = load_session(manifest, payload, trust=trust)
    made = msgspec.structs.replace(manifest, runtime="onnx", options={})
    session = load_session(made, graph, trust=Trust())
    X, Z = rows_of(sample, original), rows_of(sample, session)

    # sessions answer doubles whatever was computed in: tolerances go by what the graph gives
    single = any(out.type == "tensor(float)" for out in runtime.get_outputs())
    precision = np.float32 if single else np.float64

    def answers() -> list[Named]:
        a, p = np.asarray(original.run(X)), original.scores(X)
        with _the_files():
            b, q = np.asarray(session.run(Z)), session.scores(Z)
        found = [("answer", a, b.astype(precision) if a.dtype.kind == "f" and manifest.task == "regression" else b)]
        if p is not None and q is not None:
            found.append(("probabilities", p, q.astype(precision)))
        return found

    return Sides(len(X), lambda: original.run(X), lambda: session.run(Z), answers, classes=manifest.classes)


def time_in_turns(sides: Sides, iterations: int) -> dict[str, float]:
    """Means and medians a call, and the median of the turns' own ratios: a machine that slows down slows both sides of a turn."""
    calls = max(1, min(iterations // TURNS, CALLS))
    turns = max(1, iterations // calls)
    took: dict[str, list[float]] = {"model": [], "onnx": []}
    ratios = []
    with _quietly(torch=sides.torch):
        for call in (sides.model, sides.onnx):
            for _ in range(min(calls, 50)):
                call()
        for _ in range(turns):
            spent = {"model": _calls(sides.model, calls), "onnx": _calls(sides.onnx, calls)}
            ratios.append(spent["model"] / spent["onnx"])
            for name, seconds in spent.items():
                took[name].append(seconds / calls * 1e3)
    return {
        "speedup": statistics.median(ratios),
        "model_ms": statistics.fmean(took["model"]),
        "onnx_ms": statistics.fmean(took["onnx"]),
        "model_p50_ms": statistics.median(took["model"]),
        "onnx_p50_ms": statistics.median(took["onnx"]),
    }


def _calls(call: Callable[[], Any], count: int) -> float:
    begun = perf_counter()
    for _ in range(count):
        call()
    return perf_counter() - begun


@contextmanager
def _quietly(*, torch: bool) -> Iterator[None]:
    """One thread, and nothing kept for gradients: as the model is best served."""
    if not torch:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            yield
        return
    import torch as library

    before = library.get_num_threads()
    library.set_num_threads(1)
    try:
        with library.inference_mode():
            yield
    finally:
        library.set_num_threads(before)
