"""Counters for Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from tests.parallel.test_engine import Bench, fails_at

from everloop.core.errors import Conflict
from everloop.parallel.plan import Plan
from everloop.parallel.telemetry import PrometheusHooks


def test_a_run_is_counted() -> None:
    registry = CollectorRegistry()
    hooks = PrometheusHooks(registry)
    died: list[int] = []

    def kills(item: int) -> bool:
        died.append(item)
        return item == 5 and died.count(5) == 1

    bench = Bench(
        fails_at(3),
        range(10),
        Plan("process", 2, 2),
        script={"seconds": lambda item: 0.5, "kills": kills},
        hooks=(hooks,),
        label="tens",
        on_error="skip",
        retries=1,
    )
    bench.run.results()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"everloop_parallel_{name}", {"label": "tens", **labels})

    assert value("items_total") == 11  # one of them twice
    assert value("item_seconds_total") == pytest.approx(5.5)
    assert value("item_errors_total", outcome="retried") == 1
    assert value("item_errors_total", outcome="final") == 1
    assert value("workers_lost_total") == 1
    assert value("runs_total", outcome="finished") == 1
    assert value("active_runs") == 0
    assert value("chunk_seconds_count") == bench.report.chunks
    with pytest.raises(ValueError, match="bad 3"):
        Bench(fails_at(3), range(5), hooks=(hooks,), label="tens").run.results()
    assert value("runs_total", outcome="failed") == 1


def test_two_of_them_in_one_registry_is_told() -> None:
    registry = CollectorRegistry()
    PrometheusHooks(registry)
    with pytest.raises(Conflict, match="make one PrometheusHooks"):
        PrometheusHooks(registry)
    PrometheusHooks(registry, prefix="other")
