"""`ONNXConverter`: a model in hand as an ONNX file, compared with the model, and timed against it.

PyTorch modules go through the dynamo exporter (`onnx_torch`); everything else that `everloop.runtime.packing.pack` takes (scikit-learn
estimators and pipelines, boosted trees) as its artifact does (`onnx`). The file is written once it has answered as the model does, and
the model stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput, NotSupported
from everloop.optimization.onnx import convert_artifact
from everloop.optimization.onnx_torch import Axes, export_module, is_module
from everloop.optimization.sides import Sides, sides_of, time_in_turns
from everloop.runtime.artifact import read_payload
from everloop.runtime.loaded import rows_of

OLDEST, NEWEST = 9, 23


@dataclass(frozen=True)
class Conversion:
    """A written file; anything that takes a path takes it."""

    path: Path
    opset: int
    """The one asked for, or the oldest that the model's operators can be written in."""
    bytes: int
    validation: Validation | None
    """None where `verify` was off."""

    def __fspath__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Validation:
    """Whether a file answers as its model; true if it does."""

    passed: bool
    rows: int
    max_difference: float
    """Of numbers, over all outputs."""
    mean_difference: float
    flips: int
    """Labels that are others: classes that are answered; where none are, the places of a table's greatest scores."""
    rtol: float
    atol: float
    why: str = ""
    """What differs, in words; empty if nothing does."""

    def __bool__(self) -> bool:
        return self.passed


class ONNXConverter:
    """Converts models that are at hand. Keeps nothing of them."""

    def __init__(self, opset_version: int = 14) -> None:
        """`opset_version`: the newest that the reader of the files knows. Raises InvalidInput."""
        if (
            isinstance(opset_version, bool)
            or not isinstance(opset_version, int)
            or not OLDEST <= opset_version <= NEWEST
        ):
            raise InvalidInput(
                f"opset_version: expected a whole number from {OLDEST} to {NEWEST}, got {opset_version!r}",
                field="opset_version",
            )
        self.opset_version = opset_version

    def convert(  # noqa: PLR0917  the order is an agreed interface
        self,
        model: Any,
        sample_input: Any,
        path: str | Path,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        dynamic_axes: Axes | None = None,
        verify: bool = True,
    ) -> Conversion:
        """Write `model` to `path`.

        `sample_input`: what the model takes: for PyTorch a tensor or a tuple of tensors, otherwise rows (an array or a frame).
        `dynamic_axes`: of a PyTorch module, `{"features": {0: "batch"}}`; None lets the first axis of everything vary, `{}` fixes all.
        `verify`: compare with the model on the sample first, and write nothing that answers otherwise.

        Raises NotSupported (what has no ONNX, or answers otherwise in it, in words), InvalidInput, MissingExtra."""
        target = Path(path)
        opset = self.opset_version
        if is_module(model):
            graph, opset = export_module(
                model,
                sample_input,
                opset=opset,
                input_names=input_names,
                output_names=output_names,
                dynamic_axes=dynamic_axes,
            )
        else:
            graph = _renamed(self._of_artifact(model, sample_input), input_names, output_names)
        validation = compare(sides_of(model, graph, sample_input)) if verify else None
        if validation is not None and not validation.passed:
            raise NotSupported(f"the ONNX form answers otherwise: {validation.why}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(graph)
        return Conversion(target, opset, len(graph), validation)

    def validate(
        self,
        model: Any,
        path: str | Path | Conversion,
        samples: Any,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> Validation:
        """Whether the file answers as `model` on `samples`, output by output. Tolerances that are not given suit the dtype: 1e-4 and
        1e-5 (of the outputs' spread) for single precision, 1e-7 and 1e-9 for double, 1e-2 for half. Raises what either raises."""
        return compare(sides_of(model, read_payload(Path(path)), samples), rtol, atol)

    def benchmark_comparison(
        self, model: Any, path: str | Path | Conversion, sample: Any, iterations: int = 1000
    ) -> dict[str, float]:
        """Both on `sample`, which each has in its own form (tensors, OrtValues, a matrix), in turns and on one thread: `speedup` (the median of the turns'), `model_ms` and `onnx_ms` (means a
        call), `model_p50_ms`, `onnx_p50_ms`, `max_difference`, `rows`, `iterations`. Raises InvalidInput, and what either raises."""
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise InvalidInput(f"iterations: expected a whole number from 1 on, got {iterations!r}", field="iterations")
        sides = sides_of(model, read_payload(Path(path)), sample)
        found = compare(sides)
        timed = time_in_turns(sides, iterations)
        return {
            **timed,
            "max_difference": found.max_difference,
            "rows": sides.rows,
            "iterations": iterations,
        }

    def _of_artifact(self, model: Any, sample: Any) -> bytes:
        from everloop.runtime.artifact import load_session
        from everloop.runtime.packing import pack, trust_in_hand

        trust = trust_in_hand(model)
        manifest, payload = pack(model, trust=trust)
        session = load_session(manifest, payload, trust=trust)
        try:
            rows = rows_of(sample, session).tolist()
        finally:
            session.close()
        return convert_artifact(manifest, payload, trust=trust, rows=rows, opset=self.opset_version)[1]


def compare(sides: Sides, rtol: float | None = None, atol: float | None = None) -> Validation:
    """Output by output, in the order of the file's."""
    pairs = sides.answers()
    greatest = total = 0.0
    count = flips = greatest_places = 0
    labelled = False
    why = ""
    loosest = (0.0, 0.0)
    for name, a, b in pairs:
        if a.shape != b.shape:
            return Validation(
                False, sides.rows, float("inf"), float("inf"), 0, 0.0, 0.0, f"{name} has shape {b.shape}, not {a.shape}"
            )
        if a.dtype.kind not in "fc" or b.dtype.kind not in "fc":
            labelled = True
            others = int(np.sum(a != b))
            flips += others
            why = why or (f"{others:,} of {a.size:,} answers of {name} are others" if others else "")
            continue
        within = _tolerances(a, b, rtol, atol)
        loosest = max(loosest, within)
        with np.errstate(all="ignore"):
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a.astype(np.float64) - b))
        difference = np.where(np.isnan(difference), np.inf, difference)  # a number against none
        if a.ndim == 2 and a.shape[1] > 1:
            greatest_places += int(np.sum(a.argmax(1) != b.argmax(1)))
        greatest = max(greatest, float(difference.max(initial=0.0)))
        total, count = total + float(difference.sum()), count + difference.size
        wrong = ~(difference <= within[1] + within[0] * np.abs(a))
        why = why or (
            f"{int(wrong.sum()):,} of {a.size:,} values of {name} differ, by up to {greatest:.3g}"
            if wrong.any()
            else ""
        )
    flips = flips if labelled else greatest_places  # labels tell what a table of scores would tell a second time
    return Validation(not why, sides.rows, greatest, total / max(count, 1), flips, *loosest, why)


def _tolerances(
    a: npt.NDArray[Any], b: npt.NDArray[Any], rtol: float | None, atol: float | None
) -> tuple[float, float]:
    """Of the less precise of the two; the absolute one grows with the spread of the numbers."""
    own = {2: (1e-2, 1e-2), 4: (1e-4, 1e-5)}.get(min(a.dtype.itemsize, b.dtype.itemsize), (1e-7, 1e-9))
    finite = a[np.isfinite(a)]
    spread = float(finite.std()) if finite.size > 1 else 1.0
    return own[0] if rtol is None else rtol, own[1] * max(spread, 1e-3) if atol is None else atol


def _renamed(graph: bytes, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> bytes:
    """With the caller's names. Raises InvalidInput."""
    if not inputs and not outputs:
        return graph
    import onnx

    model = onnx.load_from_string(graph)
    names: dict[str, str] = {}
    for what, told, present in (("input", inputs, model.graph.input), ("output", outputs, model.graph.output)):
        if told and len(told) > len(present):
            raise InvalidInput(
                f"{what}_names: {len(told)} names, and the graph has {len(present)} {what}s", field=f"{what}_names"
            )
        for new, info in zip(told or (), present, strict=False):
            names[info.name] = new
            info.name = new
    for node in model.graph.node:
        for wires in (node.input, node.output):
            wires[:] = [names.get(wire, wire) for wire in wires]
    payload: bytes = model.SerializeToString()
    return payload
