"""`everloop bench`: every number that the documentation states, measured again on the machine in front of you.

A bar is a ratio of two things measured in turns within one run, on pinned cores, and the median of several rounds, because
machines differ and drift. `runner.run_bench` is the way in; `peers/` holds what everloop is compared with. Both names are loaded when they
are first used: the workers of the parallel engine import a module of this package, and nothing else of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.app.bench.runner import Report, as_table, run_bench

__all__ = ["Report", "as_table", "run_bench"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'everloop.app.bench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("everloop.app.bench.runner"), name)
