"""Any sequence of what may happen to a journal, held against the plainest model of one."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.postgres import Server

from everloop.core.errors import Conflict, EverloopError, PredictionNotFound
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.stores.memory import MemoryJournal
from everloop.stores.ports import Checkpoint, Journal
from everloop.stores.postgres import PostgresJournal
from everloop.stores.sqlite import SqliteJournal
from everloop.testing import ManualClock

MODELS = st.sampled_from(["m", "n"])
LABELS = st.sampled_from([0.0, 1.0])
ADDRESSES = st.tuples(st.integers(0, 20), st.integers(0, 2))
Place = tuple[str, int, int]


class JournalMachine(RuleBasedStateMachine):
    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.folder = Path(tempfile.mkdtemp(prefix="everloop-"))
        self.journal = self.open()
        self.next_number = {"m": 0, "n": 0}
        self.answered: dict[Place, tuple[list[float], float]] = {}
        self.labelled: dict[Place, tuple[int, float]] = {}
        self.ever_labelled: set[Place] = set()
        self.examples: dict[int, tuple[str, list[float], float]] = {}
        self.totals = {"m": 0, "n": 0}
        self.keys: dict[tuple[str, str], tuple[str, list[Any]]] = {}
        self.cursor: dict[str, int] = {}
        self.last = 0

    def open(self) -> Journal:
        if self.durable:
            return SqliteJournal(self.folder / "everloop.db", clock=self.clock)
        return MemoryJournal(clock=self.clock)

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    @initialize()
    def nothing_is_there(self) -> None:
        assert self.journal.examples("m") == []

    @rule(model=MODELS, skip=st.integers(0, 2), count=st.integers(1, 4), rows=st.integers(1, 3), wide=st.booleans())
    def record(self, model: str, skip: int, count: int, rows: int, wide: bool) -> None:
        first = self.next_number[model] + skip
        self.next_number[model] = first + count
        values = [[float(n), float(j)] for n in range(first, first + count) for j in range(rows)]
        encoding = "f8" if wide else "f4"
        answers = [n * 10 + j for n, j in values]
        features = np.array(values, "<" + encoding).tobytes()
        now = self.clock.now()
        self.journal.record(PredictionRecord(model, 1, model, first, count, rows, now, encoding, features, answers))  # type: ignore[arg-type]
        for (n, j), answer in zip(values, answers, strict=True):
            self.answered[model, int(n), int(j)] = ([n, j], answer)

    @rule(
        model=MODELS,
        addresses=st.lists(st.tuples(ADDRESSES, LABELS), min_size=1, max_size=5),
        key=st.sampled_from(["", "", "", "k1", "k2"]),
        body=st.sampled_from(["b1", "b2"]),
    )
    def label_by_id(self, model: str, addresses: list[tuple[tuple[int, int], float]], key: str, body: str) -> None:
        now = self.clock.now()
        labels = [Label(model, y, now, request_id=request_id(model, n), index=i) for (n, i), y in addresses]
        places = [(model, n, i) for (n, i), _ in addresses]
        self.check(labels, list(places), key, body)

    @rule(
        model=MODELS,
        values=st.lists(LABELS, min_size=1, max_size=3),
        key=st.sampled_from(["", "k1", "k3"]),
        body=st.sampled_from(["b1", "b2"]),
    )
    def label_with_row(self, model: str, values: list[float], key: str, body: str) -> None:
        labels = [Label(model, y, self.clock.now(), row=[y, 7.0]) for y in values]
        self.check(labels, [None] * len(labels), key, body)

    def check(self, labels: list[Label], places: list[Any], key: str, body: str) -> None:
        appended = self.journal.append_now(labels, idempotency_key=key, body=body)
        kinds = [o if isinstance(o, int) else type(o) for o in appended.outcomes]
        model = labels[0].model
        if key and (model, key) in self.keys:
            first_body, first = self.keys[model, key]
            assert appended.duplicate == (first_body == body)
            assert kinds == (first if first_body == body else [Conflict] * len(labels))
            return
        before = self.last
        expected = [self.expect(label, place) for label, place in zip(labels, places, strict=True)]
        assert kinds == expected
        accepted = [o for o in expected if isinstance(o, int)]
        assert appended.duplicate == (len(accepted) == len(labels) and self.last == before)
        if key and accepted:
            self.keys[model, key] = (body, expected)

    def expect(self, label: Label, place: Place | None) -> int | type[EverloopError]:
        row = label.row
        if place is not None:
            if place in self.labelled:
                there, value = self.labelled[place]
                return there if value == label.label else Conflict
            if place not in self.answered:
                return PredictionNotFound
            assert place not in self.ever_labelled, "a forgotten label would count twice"
            row = self.answered[place][0]
        assert row is not None
        self.last += 1
        assert isinstance(label.label, float)
        self.examples[self.last] = (label.model, row, label.label)
        self.totals[label.model] += 1
        if place is not None:
            self.labelled[place] = (self.last, label.label)
            self.ever_labelled.add(place)
        return self.last

    @rule(model=MODELS, back=st.integers(0, 5))
    def checkpoint(self, model: str, back: int) -> None:
        cursor = max(self.cursor.get(model, 0), self.last - back)
        self.cursor[model] = cursor
        self.journal.save_checkpoint(model, Checkpoint(cursor, b"state", self.clock.now()))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(age=st.none() | st.floats(0, 40), size=st.none() | st.integers(0, 100_000))
    def prune(self, age: float | None, size: int | None) -> None:
        self.journal.flush()
        now = self.clock.now()
        self.journal.prune(now=now, max_age=age, max_bytes=size)
        kept = {e.id for model in ("m", "n") for e in self.journal.examples(model)}
        gone = self.examples.keys() - kept
        for id_ in gone:
            assert id_ <= self.cursor.get(self.examples[id_][0], 0), "an unlearned example was forgotten"
            del self.examples[id_]
        self.labelled = {place: there for place, there in self.labelled.items() if there[0] in kept}
        records = [r for model in ("m", "n") for _, r in self.journal.predictions(model)]
        left = {(r.lane_key, n, j) for r in records for n in range(r.first, r.first + r.count) for j in range(r.rows)}
        assert left <= self.answered.keys()
        self.answered = {place: answer for place, answer in self.answered.items() if place in left}
        if age is not None:
            assert all(r.at >= now - age for r in records)
        if size is not None or age is not None:  # which keys went is not visible but by using them
            self.keys = {key: seen for key, seen in self.keys.items() if self.still_known(key, seen[0])}

    def still_known(self, key: tuple[str, str], body: str) -> bool:
        probe = Label(key[0], 0.0, 0.0, request_id="never-0")  # refused, so that asking leaves no trace
        return self.journal.append_now([probe], idempotency_key=key[1], body=body).duplicate

    @rule()
    def reopen(self) -> None:
        if self.durable:
            self.journal.close()
            self.journal = self.open()

    @invariant()
    def all_acknowledged_examples_are_there_once(self) -> None:
        for model in ("m", "n"):
            expected = {id_: (row, y) for id_, (owner, row, y) in self.examples.items() if owner == model}
            found = self.journal.examples(model)
            assert [e.id for e in found] == sorted(expected)
            assert all((e.row, e.label) == expected[e.id] for e in found)
            assert self.journal.examples_total(model) == self.totals[model]
            cursor = self.cursor.get(model, 0)
            assert self.journal.count_examples(model, after=cursor) == sum(i > cursor for i in expected)
            for e in found:
                if e.request_id is not None:
                    assert e.prediction == e.row[0] * 10 + e.row[1]


class DurableMachine(JournalMachine):
    durable = True


class SharedMachine(DurableMachine):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.lend()
        super().__init__()

    def open(self) -> Journal:
        return PostgresJournal(self.url, clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        self.server.take_back(self.url)


@pytest.mark.parametrize(("machine", "examples"), [(JournalMachine, 60), (DurableMachine, 20), (SharedMachine, 10)])
def test_any_sequence(request: pytest.FixtureRequest, machine: type[JournalMachine], examples: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    make = partial(machine, request.getfixturevalue("postgres_server")) if machine is SharedMachine else machine
    run_state_machine_as_test(make, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))
