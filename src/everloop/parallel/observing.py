"""What a run shows of its items, as a probe: for another plan on the way, and for the next run of the same function."""

from __future__ import annotations

from dataclasses import replace

from everloop.parallel.probe import Probe
from everloop.parallel.report import RunReport

_WAITS = 0.5


def observed(known: Probe, report: RunReport) -> Probe:
    """`known` brought up to date by `report`.

    Workers stretch each other's wall times: threads by the GIL, processes by sharing cores. Of items that compute, the CPU time is what they
    cost; only of those that wait does the wall clock tell."""
    if not report.items:
        return known
    wall = max(report.recent_item_seconds or report.mean_item_seconds, 1e-9)
    share = known.cpu_share
    measured = report.cpu_seconds / report.item_seconds if report.item_seconds > 0 else share
    alone = report.plan.executor == "serial" or report.plan.n_jobs == 1
    if alone or not known.items or measured < 0.5 * _WAITS:
        share = min(1.0, measured)
    each = wall
    if not alone and share >= _WAITS:
        each = wall * min(1.0, measured) / share
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
