"""INT8 against float32: an MLP of 512×512 layers and a small convolutional net, both trained here on `load_digits`.

Two thirds of the digits train and calibrate, the last third judges. All forms are ONNX files that answer on one thread, in turns; of each
net the fastest INT8 form at 32 rows is held to the bars, and then the optimiser chooses among all forms by its own gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.app.bench.rows import Context, Result, Row, Skip, against, counted, ratio_in_turns
from everloop.core.errors import NotSupported

if TYPE_CHECKING:
    from everloop.stores.ports import Manifest

SIZES = (1, 32, 64)
BATCH = 32
FORMS: dict[str, dict[str, Any]] = {
    "int8-dynamic": {"method": "dynamic"},
    "int8-static": {"method": "static"},
    "int8-entropy": {"method": "static", "calibration": "entropy"},
    "int8-percentile": {"method": "static", "calibration": "percentile"},
    "fp16": {"method": "fp16"},
}


@dataclass(frozen=True)
class Digits:
    """Rows of 64 pixels from 0 to 1, and which digit they show."""

    X: Any
    y: Any
    X_new: Any
    y_new: Any


def run(context: Context, folder: Path) -> Result:  # noqa: ARG001  a subject's signature
    try:
        import onnxscript  # noqa: F401  PyTorch exports through it
        import torch
    except ImportError as error:
        raise Skip("PyTorch is not installed: pip install 'everloop[torch]'") from error

    digits = _digits()
    rows: list[Row] = []
    data: dict[str, Any] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, epochs in (("MLP", context.rounds(20, 6)), ("conv net", context.rounds(10, 3))):
            context.say(f"int8: training the {name}")
            manifest, payload = _trained(name, digits, epochs)
            context.say(f"int8: measuring the {name}")
            told, numbers = _compared(name, manifest, payload, digits, context)
            rows += told
            data[name] = numbers
    finally:
        torch.set_num_threads(before)
    return Result(rows, data)


def _digits() -> Digits:
    import numpy as np
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    new = np.arange(len(X)) % 3 == 0
    return Digits(X[~new], y[~new], X[new], y[new])


def _trained(name: str, digits: Digits, epochs: int) -> tuple[Manifest, bytes]:
    """As ONNX."""
    import torch
    from torch import nn

    from everloop.optimization.quantizer import as_onnx

    torch.manual_seed(7)
    if name == "MLP":
        wide = [layer for _ in range(3) for layer in (nn.Linear(512, 512), nn.ReLU())]
        net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), *wide, nn.Linear(512, 10))
        shape: tuple[int, ...] = (-1, 64)
    else:
        net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
        shape = (-1, 1, 8, 8)
    X, y = torch.from_numpy(digits.X).reshape(shape), torch.from_numpy(digits.y)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(X)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X[batch]), y[batch]).backward()
            optimizer.step()
    return as_onnx(net, X[:2])


def _compared(
    name: str, manifest: Manifest, payload: bytes, digits: Digits, context: Context
) -> tuple[list[Row], dict[str, Any]]:
    import numpy as np

    from everloop.optimization.measuring import measure, medians
    from everloop.optimization.quantization import QuantizationConfig, quantize_artifact
    from everloop.runtime.onnx import load

    forms, sizes = {"float32": load(manifest, payload)}, {"float32": len(payload)}
    left: dict[str, str] = {}
    for form, options in FORMS.items():
        try:
            made, smaller = quantize_artifact(manifest, payload, digits.X, QuantizationConfig(**options))
        except NotSupported as error:
            left[form] = error.message
            continue
        forms[form], sizes[form] = load(made, smaller), len(smaller)
    took = measure(forms, digits.X_new.tolist(), SIZES, seconds=context.seconds(12, 3))
    accuracy = {form: float(np.mean(session.run(digits.X_new) == digits.y_new)) for form, session in forms.items()}
    place = SIZES.index(BATCH)
    faster = {form: ratio_in_turns(took["float32"][place], took[form][place]) for form in forms}
    best = max((form for form in forms if form.startswith("int8")), key=faster.__getitem__)
    detail = "; ".join(
        f"{form}: {faster[form]:.2f}× at {BATCH}, {sizes[form] / sizes['float32']:.3f} of the size, accuracy {accuracy[form]:.4f}"
        for form in forms
    )
    rows = [
        against(
            "int8",
            f"{name}, size of {best}",
            sizes[best] / sizes["float32"],
            "at most",
            0.28,
            "of float32",
            detail=detail,
        ),
        against(
            "int8",
            f"{name}, accuracy lost by {best}",
            (accuracy["float32"] - accuracy[best]) * 100,
            "at most",
            0.5,
            "points",
        ),
    ]
    if name == "MLP":
        rows.insert(1, against("int8", f"{name}, {best} at {BATCH} rows", faster[best], "at least", 1.8))
    rows.append(_chosen(name, manifest, payload, digits, context))
    numbers = {
        "float32_bytes": sizes["float32"],
        "forms": {
            form: {
                "bytes": sizes[form],
                "accuracy": accuracy[form],
                "times_as_fast": faster[form],
                "microseconds": dict(zip(map(str, SIZES), (s * 1e6 for s in medians(took)[form]), strict=True)),
            }
            for form in forms
        },
        "not_made": left,
    }
    return rows, numbers


def _chosen(name: str, manifest: Manifest, payload: bytes, digits: Digits, context: Context) -> Row:
    """What the gate makes of all forms: what loses accuracy or time is not chosen."""
    from everloop.optimization.variants import Wishes, optimise
    from everloop.runtime.artifact import Trust

    report = optimise(
        manifest,
        payload,
        digits.X_new.tolist(),
        digits.y_new.tolist(),
        wishes=Wishes(int8=True, sizes=SIZES, max_seconds=context.seconds(24, 4), open_apart=False),
        trust=Trust(),
    )
    found = {form.name: form for form in report.figures.forms}
    before, after = found["original"], found[report.chosen.name]
    change = after.parity.change if after.parity is not None else None
    lost = 0.0 - change.change * 100 if change is not None else 0.0
    slowest = max(b / a for a, b in zip(before.seconds, after.seconds, strict=True))
    return counted(
        "int8",
        f"{name}, what is chosen",
        "no slower than float32 at any size, at most 0.5 points worse",
        f"{report.chosen.name}: {1 / slowest:.2f}× or more, {lost:+.2f} points lost",
        passed=slowest <= 1.05 and lost <= 0.5,  # noise of two measurements of the same form
        detail=report.why,
    )
