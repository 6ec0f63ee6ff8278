"""Numbers as people read them, in every reason, note and explanation."""

from __future__ import annotations

from everloop.parallel.work import ExecutorKind


def duration(seconds: float) -> str:
    """`1.25 ms`"""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds / 1e-9)} ns"


def size_of(size: float) -> str:
    """`1.05 MB`"""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{_digits(size)} {unit}"
        size /= 1000
    return f"{_digits(size)} GB"


def workers_of(kind: ExecutorKind, count: int = 2) -> str:
    """`processes`"""
    names = {"serial": ("in turn", "in turn"), "thread": ("thread", "threads"), "process": ("process", "processes")}
    return names.get(kind, ("Ray worker", "Ray workers"))[count != 1]


def _digits(value: float) -> str:
    """Three of them, or all of a large whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
