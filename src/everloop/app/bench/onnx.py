"""ONNX Runtime against PyTorch eager on one row, on the published sample `Linear(100, 50) → ReLU → Linear(50, 10)`.

Both answer on one thread, in turns, the same row that is ready in the form each takes; PyTorch keeps nothing for gradients. Other sizes,
and what the conversion of other models costs and gains, are shown beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everloop.app.bench.rows import Context, Result, Row, Skip, against, counted

SIZES = (1, 8, 64, 1000)


def run(context: Context, folder: Path) -> Result:
    try:
        import onnxscript  # noqa: F401  PyTorch exports through it
        import torch
    except ImportError as error:
        raise Skip("PyTorch is not installed: pip install 'everloop[torch]'") from error
    from torch import nn

    from everloop.optimization.converter import ONNXConverter
    from everloop.runtime.onnx_predictor import ONNXPredictor

    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    converter = ONNXConverter(opset_version=14)
    context.say("onnx: exporting")
    file = converter.convert(
        model,
        torch.randn(1, 100),
        folder / "model.onnx",
        input_names=["features"],
        output_names=["predictions"],
        dynamic_axes={"features": {0: "batch_size"}, "predictions": {0: "batch_size"}},
    )
    calls = context.rounds(40_000, 4_000)
    data: dict[str, Any] = {}
    for size in SIZES:
        context.say(f"onnx: {size} rows")
        data[str(size)] = converter.benchmark_comparison(
            model, file, torch.randn(size, 100), iterations=max(calls // max(1, size // 8), 100)
        )
    with ONNXPredictor(file) as predictor:
        data["predictor"] = predictor.benchmark(torch.randn(1, 100).numpy(), iterations=calls // 4)
    one = data["1"]
    detail = (
        f"PyTorch {one['model_p50_ms'] * 1e3:.1f} µs, ONNX Runtime {one['onnx_p50_ms'] * 1e3:.1f} µs; "
        + ", ".join(f"{size} rows {data[str(size)]['speedup']:.2g}×" for size in SIZES[1:])
    )
    rows = [
        against(
            "onnx",
            "Linear(100, 50) → ReLU → Linear(50, 10), one row: ONNX Runtime against PyTorch eager",
            one["speedup"],
            "at least",
            3,
            detail=detail,
        ),
        _agrees(converter, model, file),
    ]
    return Result(rows, data)


def _agrees(converter: Any, model: Any, file: Any) -> Row:
    import torch

    found = converter.validate(model, file, torch.randn(20_000, 100))
    return counted(
        "onnx",
        "the same model in ONNX: the greatest of 10 answers on 20,000 rows",
        "no row with another",
        f"{found.flips} with another",
        passed=bool(found) and found.flips == 0,
        detail=f"greatest difference {found.max_difference:.2g}",
    )
