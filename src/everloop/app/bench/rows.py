"""One measured number beside its bar, and how a run is kept: JSON with the machine it ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

Sense = Literal["at least", "at most"]


class Row(msgspec.Struct):
    """`passed` is None where it was not measured; `detail` then says why."""

    subject: str
    what: str
    bar: str
    measured: str
    ratio: float | None = None
    passed: bool | None = None
    detail: str = ""


class Result(msgspec.Struct):
    """What one subject gives: its rows, and the raw numbers that the pictures are drawn from."""

    rows: list[Row]
    data: dict[str, Any] = {}


@dataclass(frozen=True)
class Context:
    """How to measure: `quick` takes seconds where the full run takes minutes, and its numbers are noisier."""

    quick: bool = False
    say: Callable[[str], None] = field(default=lambda _text: None)
    """Progress, for a person."""

    def rounds(self, full: int, quick: int = 1) -> int:
        return quick if self.quick else full

    def seconds(self, full: float, quick: float = 1.0) -> float:
        return quick if self.quick else full


class Skip(Exception):
    """This subject cannot run here; the message says why and what to do."""


def against(
    subject: str,
    what: str,
    value: float,
    sense: Sense,
    bar: float,
    unit: str = "×",
    *,
    detail: str = "",
    ok: bool = True,
) -> Row:
    """A row with its verdict. `ok=False` fails it whatever the number is (errors happened on the way)."""
    passed = ok and (value >= bar if sense == "at least" else value <= bar)
    return Row(subject, what, f"{sense} {bar:g} {unit}", f"{_rounded(value)} {unit}", value, passed, detail)


def counted(subject: str, what: str, bar: str, measured: str, *, passed: bool, detail: str = "") -> Row:
    """A row whose bar is not one number."""
    return Row(subject, what, bar, measured, None, passed, detail)


def skipped(subject: str, why: str) -> Row:
    return Row(subject, subject, "", "not measured", None, None, why)


def ratio_in_turns(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' own ratios: a machine that slows down half-way slows both sides of a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def spread(values: Sequence[float], unit: str = "") -> str:
    """`median (least … most)`, for details."""
    return f"{_rounded(statistics.median(values))}{unit} ({_rounded(min(values))}–{_rounded(max(values))})"


def _rounded(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    import psutil

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    libraries = (
        "everloop",
        "numpy",
        "scikit-learn",
        "onnxruntime",
        "uvicorn",
        "uvloop",
        "httptools",
        "fastapi",
        "pydantic",
        "river",
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()}",
        "libraries": {name: _version(name) for name in libraries},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
