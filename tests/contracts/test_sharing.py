"""What holds where several processes share a store: here several journals and a catalog over one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from tests.contracts.conftest import Shared

from everloop.core.errors import EverloopError
from everloop.core.events import Event
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.stores.ports import Catalog, Journal, ModelRecord


@pytest.fixture
def journals(shared: Shared) -> list[Journal]:
    return [shared.journal() for _ in range(4)]


@pytest.fixture
def catalog(shared: Shared) -> Catalog:
    return shared.catalog()


def at_once(*work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_ids_never_clash_and_a_label_given_to_two_counts_once(journals: list[Journal]) -> None:
    one, two = journals[:2]
    for n in range(40):
        features = np.array([float(n)], "<f8").tobytes()
        one.record(PredictionRecord("m", 1, "a", n, 1, 1, 0.0, "f8", features, [0.0]))
    one.flush()
    outcomes: dict[int, list[int | EverloopError]] = {0: [], 1: []}

    def send(which: int) -> None:
        for n in range(40):
            label = Label("m", 1.0, 0.0, request_id=request_id("a", n))
            outcomes[which] += journals[which].append_now([label]).outcomes
            journals[which].append_now([Label("m", 1.0, 0.0, row=[1.0])], idempotency_key=f"k{n}", body="b")

    at_once(lambda: send(0), lambda: send(1))
    assert outcomes[0] == outcomes[1]
    assert one.examples_total("m") == two.examples_total("m") == 80
    assert [e.id for e in one.examples("m")] == list(range(1, 81))


def test_who_reads_on_from_the_last_id_misses_nothing(journals: list[Journal], catalog: Catalog) -> None:
    """Three journals and a catalog log events; a reader that pages by id must see each, in order, without a gap."""
    catalog.create_model(ModelRecord("m", "linear", 1.0))
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while True:
            last = done.is_set()
            page = journals[3].events(after=seen[-1] if seen else 0, limit=1000)
            seen.extend(event.id for event in page)
            if last and not page:
                return

    def log(journal: Journal) -> None:
        for n in range(60):
            journal.log(Event("m", "drift", float(n)))
            if n % 3 == 0:
                journal.append_now([Label("m", 1.0, 0.0, row=[1.0])])
        journal.flush()

    def change() -> None:
        for n in range(60):
            with catalog.change("m") as shelf:
                shelf.log(Event("m", "noted", float(n)))
                shelf.put_model(shelf.model)

    reader = threading.Thread(target=read)
    reader.start()
    at_once(*(lambda journal=journal: log(journal) for journal in journals[:3]), change)  # type: ignore[misc]
    done.set()
    reader.join(60)
    assert seen == list(range(1, 241))
    assert journals[0].stats().events == 240


def test_one_of_many_gets_a_lease(journals: list[Journal]) -> None:
    got: list[int] = []
    start = threading.Barrier(4)

    def acquire(n: int) -> None:
        for turn in range(20):
            start.wait(60)
            if journals[n].acquire_lease(f"lease {turn}", f"owner {n}", now=0.0, ttl=10.0):
                got.append(turn)

    at_once(*(lambda n=n: acquire(n) for n in range(4)))  # type: ignore[misc]
    assert sorted(got) == list(range(20))
