"""From an ONNX artifact a smaller one: INT8 with or without calibration, or FP16. The artifact given is never changed.

Where there are rows, what the quantised graph loses is measured on rows that calibration did not see, and operators that hurt stay in
float until the loss is within the budget (`optimization.sensitivity`). How it was made, which operators were left and what was lost is in
the manifest: `lineage["quantization"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from everloop.core.errors import InvalidInput, NotSupported
from everloop.optimization import calibration, int8, sensitivity
from everloop.optimization.losses import Judge
from everloop.runtime.artifact import library_versions
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["dynamic", "static", "fp16"]


@dataclass(frozen=True)
class QuantizationConfig:
    """Raises InvalidInput naming the field."""

    method: Method = "dynamic"
    """`dynamic`: INT8 weights; `static`: INT8 weights and activations, calibrated on rows; `fp16`: weights in half precision."""
    calibration: calibration.Method = "minmax"
    """How static ranges are found: all that was seen, the middle `percentile`, or what loses the least information."""
    percentile: float = 99.99
    """Per cent of the values that a range covers."""
    per_channel: bool | None = None
    """A scale for each output channel of a weight, and not one for all of it: more faithful, a little larger and slower. None: where one
    for all loses more than may be lost, and where that cannot be told."""
    reduce_range: bool | None = None
    """Weights of seven bits, for x86 processors whose sums would overflow; None: by this processor."""
    budget: float = 0.005
    """How much of the metric may be lost, where there are labels, before operators are left in float: of the accuracy, or of R²."""
    noise: float = 0.002
    """The same where there are no labels: the lost share of the answers' variance."""
    keep_float: tuple[str, ...] = ()
    """Kinds of operators that are left in float in any case, such as `Conv`."""
    calibration_rows: int = 512
    """The most rows that calibration looks at."""

    def __post_init__(self) -> None:
        methods = get_args(calibration.Method)
        kinds = self.keep_float if isinstance(self.keep_float, (tuple, list)) else [None]
        checks = (
            ("method", self.method in get_args(Method), f"one of {', '.join(get_args(Method))}"),
            ("calibration", self.calibration in methods, f"one of {', '.join(methods)}"),
            ("percentile", _number(self.percentile) and 50 < self.percentile <= 100, "above 50 and at most 100"),
            ("budget", _number(self.budget) and self.budget >= 0, "at least 0"),
            ("noise", _number(self.noise) and self.noise >= 0, "at least 0"),
            (
                "calibration_rows",
                _number(self.calibration_rows, int) and self.calibration_rows >= 1,
                "a whole number from 1 on",
            ),
            ("keep_float", all(isinstance(kind, str) for kind in kinds), "names of operators, such as ('Conv',)"),
        )
        for name, good, expected in checks:
            if not good:
                raise InvalidInput(f"{name}: expected {expected}, got {getattr(self, name)!r}", field=name)


def _number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds or (int, float)) and not isinstance(value, bool)


def quantize_artifact(
    manifest: Manifest,
    payload: bytes,
    rows: Sequence[Sequence[Any]] | NDArray[Any] | Mapping[str, NDArray[Any]] | None,
    config: QuantizationConfig,
    labels: Sequence[Any] | None = None,
) -> tuple[Manifest, bytes]:
    """`rows`: of the model's schema, (n, fields); of a model of tensors, its inputs by name, (n, …) each. None: dynamic INT8 and FP16 of the
    whole graph, unmeasured. `labels`: (n,), then `budget` counts.

    Raises NotSupported (no ONNX, nothing to quantise, no rows to calibrate on, all of it hurts), ArtifactCorrupt."""
    if manifest.runtime != "onnx":
        raise NotSupported(
            f"an artifact of runtime {manifest.runtime!r} is not quantised as it is: convert it to ONNX first"
        )
    judge = None if rows is None else Judge(manifest, payload, rows, labels, config.calibration_rows)
    if config.method == "fp16":
        made, how = _halved(payload, judge)
    else:
        made, how = _in_int8(manifest, payload, judge, config)
    told = {
        **asdict(config),
        "keep_float": list(config.keep_float),
        **how,
        "bytes": len(made),
        "bytes_before": len(payload),
    }
    lineage = {**manifest.lineage, "quantization": told}
    libraries = manifest.libraries | library_versions("onnx", "onnxruntime")
    # whatever was done ahead to the original's graph: this one is rewritten when it is opened, which fuses what is quantised
    options = {name: value for name, value in manifest.options.items() if name != "graph"}
    return msgspec.structs.replace(manifest, lineage=lineage, libraries=libraries, options=options), made


def _halved(payload: bytes, judge: Judge | None) -> tuple[bytes, dict[str, Any]]:
    from everloop.optimization.float16 import halve

    made, weights = halve(payload)
    return made, {"weights": weights} | ({} if judge is None else {"loss": judge.loss(made)} | judge.told())


def _in_int8(
    manifest: Manifest, payload: bytes, judge: Judge | None, config: QuantizationConfig
) -> tuple[bytes, dict[str, Any]]:
    model = int8.prepare(manifest, payload)
    reduce = int8.saturates() if config.reduce_range is None else config.reduce_range
    how: dict[str, Any] = {"reduce_range": reduce}
    types = int8.STATIC if config.method == "static" else int8.DYNAMIC
    make: Callable[..., bytes]
    if config.method == "static":
        if judge is None:
            raise NotSupported("static quantisation needs rows to calibrate on", field="rows")
        ranges = calibration.calibrate(model, int8.CALIBRATED, judge.calibration, config.calibration, config.percentile)
        how["calibrated_on"] = judge.calibrated_on
        make = partial(int8.quantise_static, model, ranges, reduce_range=reduce)
    else:
        model = int8.without_gemm(model)
        make = partial(int8.quantise_dynamic, model, reduce_range=reduce)
    always = [node.name for node in model.graph.node if node.op_type in config.keep_float]
    operators = int8.operators(model, [kind for kind in types if kind not in config.keep_float])
    how["operators"] = len(operators)
    if judge is None:
        per_channel = config.per_channel is not False
        return make(always, per_channel=per_channel), how | {"per_channel": per_channel, "in_float": always}

    allowed = config.budget if judge.labelled else config.noise
    if config.per_channel is None:
        made = make(always, per_channel=False)
        loss = judge.loss(made)
        if loss <= allowed:
            return made, how | {"per_channel": False, "in_float": always, "loss": loss} | judge.told()
    per_channel = config.per_channel is not False
    chosen = sensitivity.choose(
        operators, lambda left: make([*always, *left], per_channel=per_channel), judge.loss, allowed
    )
    if chosen is None:
        raise NotSupported(
            f"{config.method} INT8 loses more than {allowed:g} of the {judge.measure}, whichever operators are left in float"
        )
    left = [*always, *chosen.in_float]
    how |= {"per_channel": per_channel, "in_float": left, "loss": chosen.loss, "loss_of_all": chosen.all_quantised}
    return chosen.payload, how | judge.told()
