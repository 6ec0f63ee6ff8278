"""What happens to models: rollouts, shadows, swaps, drift, fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from everloop.api.exposition.families import counter, gauge
from everloop.api.services import Services
from everloop.core.errors import EverloopError, Failure
from everloop.policy.rollout import ENDED
from everloop.registry.traffic import weights_of

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def rollouts(services: Services) -> Iterator[Metric]:
    registry = services.registry
    try:
        shares = [
            ({"model": model.name, "version": str(version)}, share)
            for model in registry.list()
            for version, share in weights_of(model).items()
        ]
        active = [
            ({"model": rollout.model, "version": str(rollout.challenger)}, rollout)
            for rollout in registry.catalog.active_rollouts()
        ]
    except EverloopError:  # the store is gone: `component_up` says so
        return
    yield gauge("traffic_share", "Of the traffic that a version should answer.", shares)
    yield gauge(
        "rollout_running",
        "1 while the version is being rolled out, 0 while that is paused.",
        [(labels, int(rollout.state == "running")) for labels, rollout in active],
    )
    yield gauge(
        "rollout_step",
        "Which step its rollout is in, from 1.",
        [(labels, each.step + 1) for labels, each in active],
    )


def shadows(services: Services) -> Iterator[Metric]:
    shadows = [
        ({"model": shadow.name, "version": str(shadow.version)}, shadow.observed())
        for shadow in services.reconciler.shadows.all()
    ]
    yield gauge(
        "shadow_up",
        "1 while its process runs.",
        [(labels, int(seen.state == "running")) for labels, seen in shadows],
    )
    yield counter(
        "shadow_rows",
        "Rows that shadows were offered, by what became of them.",
        [
            (labels | {"outcome": outcome}, number)
            for labels, seen in shadows
            for outcome, number in (
                ("agreed", seen.agreed),
                ("disagreed", seen.disagreed),
                ("failed", seen.failures),
                ("skipped", seen.skipped),
            )
        ],
    )
    yield counter(
        "shadow_failures",
        "Rows that shadows could not answer, by how they failed.",
        [(labels | {"outcome": how}, seen.failed.get(how, 0)) for labels, seen in shadows for how in get_args(Failure)],
    )
    for name, text, what in (
        ("shadow_starts", "Times that shadows' processes were started.", "starts"),
        ("shadow_batches", "Runs of shadows' models.", "batches"),
        ("shadow_run_seconds", "Time in shadows' models.", "run_seconds"),
        ("shadow_cpu_seconds", "Processor time that shadows took, here and in their processes.", "spent_seconds"),
        ("shadow_distance", "Sum of |shadow's answer - the answer|.", "distance_sum"),
    ):
        yield counter(name, text, [(labels, getattr(seen, what)) for labels, seen in shadows])


def happened(services: Services) -> Iterator[Metric]:
    """Zeros, too: a count that first appears as 1 never rises in the eyes of Prometheus."""
    kinds = {
        "swaps": ("Versions that took over from another.", ("",)),
        "drift_alarms": ("Drift noticed in a model's errors or inputs.", ("errors", "inputs")),
        "fits": ("Fits by what became of them.", ("fitted", "failed", "rejected")),
        "rollouts": ("Rollouts that this process ended, by how.", ENDED),
        "optimizations": (
            "Attempts of this process to make a version faster, by what became of them.",
            ("optimized", "kept", "failed", "stopped"),
        ),
    }
    happened = services.traffic.happened()
    models = sorted({model for _, model, _ in happened} | set(services.table.current.lanes))
    for what, (text, outcomes) in kinds.items():
        yield counter(
            what,
            text,
            [
                (
                    {"model": model} | ({"outcome": outcome} if outcome else {}),
                    happened.get((what, model, outcome), 0),
                )
                for model in models
                for outcome in outcomes
            ],
        )
