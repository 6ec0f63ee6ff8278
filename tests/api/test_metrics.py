"""Figures of what was answered: per version while it matters, gone with the model, never lost by a swap."""

from __future__ import annotations

import gc
import itertools
import weakref
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from everloop.api.http.metrics import wants_text
from everloop.api.services import Services
from everloop.api.traffic import KEPT_VERSIONS, Traffic, quantile
from everloop.core.events import Event, EventBus
from everloop.serving.counters import LATENCY_BOUNDS, Counters
from everloop.serving.table import Table, TableRef

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def scrape(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics", headers={"accept": "text/plain;version=0.0.4"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def ask(client: TestClient, name: str, times: int) -> None:
    for _ in range(times):
        assert client.post(f"/v1/models/{name}/predict", json={"features": [1.0]}).status_code == 200


def test_requests_are_counted_by_version_across_a_swap(
    client: TestClient, trained: Callable[..., str], teach: Callable[..., None]
) -> None:
    name = trained()
    ask(client, name, 3)
    teach(name, 3.0, 50)
    ask(client, name, 2)
    seen = scrape(client)

    def requests(version: str) -> float:
        return seen["everloop_requests_total", (("model", name), ("outcome", "ok"), ("version", version))]

    assert (requests("1"), requests("2")) == (3, 2)
    assert seen["everloop_swaps_total", (("model", name),)] == 1
    assert seen["everloop_live_version", (("model", name),)] == 2
    assert seen["everloop_labels_total", (("model", name),)] == 90
    assert seen["everloop_drift_alarms_total", (("model", name), ("outcome", "inputs"))] == 0
    assert seen["everloop_request_duration_seconds_count", (("model", name), ("version", "1"))] == 3
    assert seen["everloop_component_up", (("component", "journal"),)] == 1
    assert seen["everloop_resident_memory_bytes", ()] > 1e6


def test_a_model_takes_its_series_with_it(client: TestClient, trained: Callable[..., str]) -> None:
    ask(client, trained("gone"), 1)
    ask(client, trained("stays"), 1)
    assert client.delete("/v1/models/gone").status_code == 204
    models = {value for _, labels in scrape(client) for name, value in labels if name == "model"}
    assert models == {"stays"}
    assert set(client.get("/metrics").json()["models"]) == {"stays"}


def test_quality_by_version_and_over_all(
    client: TestClient, trained: Callable[..., str], teach: Callable[..., None]
) -> None:
    name = trained()
    teach(name, 2.0, 30)
    seen = scrape(client)
    for version in ("1", "all"):
        for window in ("all", "newest"):
            labels = (("model", name), ("version", version), ("window", window))
            assert seen["everloop_quality_labels", labels] == 30
            for metric in ("mae", "rmse", "baseline_mae"):
                assert seen["everloop_quality", tuple(sorted([*labels, ("metric", metric)]))] >= 0


def test_a_shadow_has_series_of_its_own(
    client: TestClient, services: Services, trained: Callable[..., str], teach: Callable[..., None]
) -> None:
    name = trained()
    assert not [labels for metric, labels in scrape(client) if metric.startswith("everloop_shadow")]
    teach(name, 3.0, 50)
    services.registry.set_traffic(name, {2: 1.0}, shadow=1)
    services.reconciler.step()
    ask(client, name, 3)
    services.recorder.drain()
    (shadow,) = services.reconciler.shadows.all()
    assert shadow.observed().offered == 3
    seen = scrape(client)
    of_it = (("model", name), ("version", "1"))
    assert (("model", name), ("outcome", "agreed"), ("version", "1")) in {labels for _, labels in seen}
    rows = [value for (metric, _), value in seen.items() if metric == "everloop_shadow_rows_total"]
    assert len(rows) == 4
    assert sum(rows) <= 3
    assert seen["everloop_shadow_starts_total", of_it] <= 1
    assert seen["everloop_shadow_failures_total", (*of_it[:1], ("outcome", "crash"), *of_it[1:])] == 0
    services.registry.set_traffic(name, {2: 1.0})
    services.reconciler.step()
    assert not [labels for metric, labels in scrape(client) if metric.startswith("everloop_shadow")]


def test_every_name_follows_the_rules(client: TestClient, trained: Callable[..., str]) -> None:
    ask(client, trained(), 1)
    bounded = {"model", "version", "outcome", "component", "le", "python", "metric", "window", "result", "reason"}
    bounded |= {"method", "key", "name"}
    for name, labels in scrape(client):
        assert name.startswith("everloop_")
        assert {key for key, _ in labels} <= bounded, name


def test_openmetrics_is_given_to_who_asks(client: TestClient, trained: Callable[..., str]) -> None:
    ask(client, trained(), 1)
    answer = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_the_seeds_form_is_json(client: TestClient, trained: Callable[..., str]) -> None:
    name = trained()
    ask(client, name, 4)
    found = client.get("/metrics").json()
    assert found["requests"] == {"total": 4, "success": 4, "error": 0, "successRate": "100.00%"}
    assert set(found["performance"]) == {"avgLatency", "p95Latency", "p99Latency"}
    assert all(text.endswith("ms") for text in found["performance"].values())
    assert found["models"][name]["calls"] == 4


def test_refusals_are_counted_by_code(client: TestClient, trained: Callable[..., str]) -> None:
    name = trained()
    ask(client, name, 3)
    assert client.post(f"/v1/models/{name}/predict", json={"features": ["x"]}).status_code == 422
    assert client.post(f"/v1/models/{name}/feedback", json={"features": ["x"], "label": 1}).status_code == 422
    assert client.get("/v1/models/none").status_code == 404
    seen = scrape(client)
    assert seen["everloop_refusals_total", (("outcome", "invalid_input"),)] == 2
    assert seen["everloop_refusals_total", (("outcome", "model_not_found"),)] == 1
    assert seen["everloop_refusals_total", (("outcome", "overloaded"),)] == 0
    assert client.get("/metrics").json()["requests"] == {"total": 4, "success": 3, "error": 1, "successRate": "75.00%"}


def test_nothing_asked_yet_is_no_failure(client: TestClient) -> None:
    assert client.get("/metrics").json()["requests"]["successRate"] == "100.00%"
    scrape(client)


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/json, text/plain, */*", False),
        ("text/plain", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", True),
        ("text/plain;q=0.3,application/json;q=0.9", False),
        ("text/plain;q=none", False),
    ],
)
def test_what_a_client_means_by_accept(accept: str, text: bool) -> None:
    assert wants_text(accept) is text


KEYS = itertools.count()


class FakeLane:
    """What `Traffic` reads of a lane."""

    def __init__(self, version: int, requests: int) -> None:
        self.name = "m"
        self.version = version
        self.key = f"lane-{next(KEYS)}"
        self.tallies = [Counters(requests=requests)]
        self.answer = None


def put(table: TableRef, bus: EventBus, lane: Any, before: int | None) -> None:
    table.current = Table({"m": lane})
    bus.emit(Event("m", "swapped", 0.0, version=lane.version, data={"from": before, "to": lane.version}))


def test_series_stay_bounded_and_totals_exact_however_often_a_model_is_swapped() -> None:
    table, bus = TableRef(), EventBus()
    traffic = Traffic(table, bus)
    for version in range(1, 201):
        put(table, bus, FakeLane(version, 10), version - 1 or None)
    assert len(traffic.versions()) == KEPT_VERSIONS + 1
    assert traffic.models()["m"].requests == 2000
    assert traffic.happened() == {("swaps", "m", ""): 199}


def test_a_version_that_serves_again_goes_on_counting() -> None:
    table, bus = TableRef(), EventBus()
    traffic = Traffic(table, bus)
    for version, before in ((1, None), (2, 1), (1, 2)):
        put(table, bus, FakeLane(version, 5), before)
    assert {key: c.requests for key, c in traffic.versions().items()} == {("m", 1): 10, ("m", 2): 5}


def test_what_is_still_in_flight_at_a_swap_is_counted() -> None:
    table, bus = TableRef(), EventBus()
    traffic = Traffic(table, bus)
    old = FakeLane(1, 5)
    put(table, bus, old, None)
    put(table, bus, FakeLane(2, 0), 1)
    old.tallies[0].requests += 3
    assert traffic.models()["m"].requests == 8


def test_counting_keeps_no_lane_alive(
    client: TestClient, trained: Callable[..., str], teach: Callable[..., None], services: Services
) -> None:
    name = trained()
    ask(client, name, 1)
    scrape(client)
    old = weakref.ref(services.table.current.lanes[name])
    teach(name, 3.0, 50)
    gc.collect()
    assert old() is None
    last = weakref.ref(services.table.current.lanes[name])
    ask(client, name, 1)
    scrape(client)
    client.delete(f"/v1/models/{name}")
    gc.collect()
    assert last() is None


def test_a_models_traffic_goes_on_counting_after_a_swap(
    client: TestClient, trained: Callable[..., str], teach: Callable[..., None]
) -> None:
    name = trained()
    ask(client, name, 3)
    teach(name, -4.0)
    found = client.get(f"/v1/models/{name}").json()
    assert found["serving_version"] == 2
    assert (found["traffic"]["requests"], found["traffic"]["rows"]) == (3, 3)
    assert found["traffic"]["p50_seconds"] is None  # the new version has not answered yet
    ask(client, name, 1)
    assert client.get(f"/v1/models/{name}").json()["traffic"]["requests"] == 4


def test_quantiles_interpolate_inside_a_bucket() -> None:
    counts = Counters()
    assert quantile(counts, 0.5) is None
    counts.latencies[bisect_left(LATENCY_BOUNDS, 0.0007)] += 10  # between 0.5 and 1 ms
    assert quantile(counts, 0.5) == pytest.approx(0.00075)
    counts.latencies[-1] += 1000
    assert quantile(counts, 0.99) == 5.0


def test_the_model_page_shows_its_traffic(client: TestClient, trained: Callable[..., str], services: Services) -> None:
    name = trained()
    ask(client, name, 2)
    services.predictor.predict(name, [1.0])
    found = client.get(f"/v1/models/{name}").json()
    assert (found["traffic"]["requests"], found["traffic"]["in_process"]) == (2, 1)
    assert found["traffic"]["p99_seconds"] > 0
    assert found["batching"]["batches"] == 2
    assert found["batching"]["cost_seconds"]["1"] > 0


def test_each_stage_and_each_batch_is_told(client: TestClient, trained: Callable[..., str]) -> None:
    name = trained()
    ask(client, name, 3)
    assert client.post(f"/v1/models/{name}/predict", json={"instances": [[1.0]] * 5}).status_code == 200
    seen = scrape(client)
    by = (("model", name), ("version", "1"))
    for stage in ("request", "queue", "run"):
        assert seen[f"everloop_{stage}_duration_seconds_count", by] == 4
        assert seen[f"everloop_{stage}_duration_seconds_sum", by] >= 0
    whole, queue, run = (seen[f"everloop_{stage}_duration_seconds_sum", by] for stage in ("request", "queue", "run"))
    assert whole >= max(queue, run)
    assert seen["everloop_batch_rows_count", by] == seen["everloop_batches_total", by] == 4
    assert seen["everloop_batch_rows_sum", by] == 8
    assert seen["everloop_batch_rows_bucket", (("le", "1"), *by)] == 3
    left = [value for (metric, _), value in seen.items() if metric == "everloop_batch_releases_total"]
    assert sum(left) == 4
