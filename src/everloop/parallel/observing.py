"""What a run shows of its items, as a probe: for another plan on the way, and for the next run of the same function."""

from __future__ import annotations

from dataclasses import replace

from everloop.parallel.probe import Probe
from everloop.parallel.report import RunReport

_SURELY_WAITS = 0.2
"""CPU time over wall time: what has less waits for something that is no core."""


def observed(known: Probe, report: RunReport) -> Probe:
    """`known` brought up to date by `report`.

    Workers stretch each other's wall times, threads by the GIL and processes by sharing cores, and so do other programs. The dry run could
    tell that from waiting, a run cannot: what it found out stays."""
    if not report.items:
        return known
    wall = max(report.recent_item_seconds or report.mean_item_seconds, 1e-9)
    measured = min(1.0, report.cpu_seconds / report.item_seconds) if report.item_seconds > 0 else known.cpu_share
    share = known.cpu_share
    if not known.items:
        # A busy machine keeps work from its cores for half of the time, hardly for most of it.
        share = measured if measured < _SURELY_WAITS else 1.0
    # What computes costs its CPU time; of what waits, only the wall clock tells.
    each = wall * measured / share if share >= 0.5 and measured < share else wall
    spread = report.items - report.sampled
    pickled = spread > 0 and report.bytes_out > 0
    return replace(
        known,
        items=known.items or report.items,
        item_seconds=each,
        # A busy machine makes equal items unequal: what an undisturbed sample said is better than what workers say.
        coefficient_of_variation=known.coefficient_of_variation if known.items > 2 else report.coefficient_of_variation,
        cpu_share=share,
        item_bytes=report.bytes_in // spread if pickled else known.item_bytes,
        result_bytes=report.bytes_out // spread if pickled else known.result_bytes,
    )
