"""Probabilities behind labelled answers: by whichever version gave them, as much as there is time for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from everloop.core.errors import ArtifactCorrupt
from everloop.core.schema import Schema, Target
from everloop.learning.quality import KNOWN
from everloop.learning.scorer import SHARE, Scorer
from everloop.testing import ManualClock

from .conftest import Room

ROWS = [[float(i)] for i in range(200)]


class Coin:
    """A session whose probabilities are what it was told."""

    def __init__(self, scores: Any, classes: list[Any] | None = None) -> None:
        self.schema, self.target = Schema.unnamed(1), Target("classification", "integer")
        self.classes, self.dtype = [0, 1] if classes is None else classes, np.float64
        self._scores = scores
        self.asked = 0
        self.closed = False

    def run(self, X: Any) -> Any:
        return np.zeros(len(X))

    def scores(self, X: Any) -> Any:
        self.asked += len(X)
        return self._scores(X) if callable(self._scores) else self._scores

    def close(self) -> None:
        self.closed = True


def even(X: Any) -> Any:
    return np.full((len(X), 2), 0.5)


class Shelf:
    def __init__(self, **sessions: Coin) -> None:
        self.sessions = {int(name[1:]): session for name, session in sessions.items()}
        self.opened: list[int] = []

    def open(self, version: int) -> Any:
        self.opened.append(version)
        try:
            return self.sessions[version]
        except KeyError:
            raise ArtifactCorrupt(f"version {version} is damaged") from None


def scorer(shelf: Shelf, clock: ManualClock | None = None, cpu: Any = lambda: 0.0) -> Scorer:
    return Scorer(shelf.open, clock or ManualClock(), cpu)


def test_all_rows_in_order() -> None:
    made = scorer(Shelf(v1=Coin(lambda X: np.stack([1 - X[:, 0] / 200, X[:, 0] / 200], axis=1))))
    found = made.scores(1, ROWS, None)
    assert found is not None
    assert found.at.tolist() == list(range(200))
    assert found.values[:, 1].tolist() == pytest.approx([i / 200 for i in range(200)])
    made.close()


def test_what_nobody_asks_is_closed() -> None:
    clock = ManualClock()
    coins = {"v1": Coin(even), "v2": Coin(even)}
    shelf = Shelf(**coins)
    made = scorer(shelf, clock)
    made.scores(1, ROWS[:1], None)
    clock.advance(59)
    made.scores(2, ROWS[:1], None)
    assert not coins["v1"].closed
    clock.advance(2)
    made.scores(2, ROWS[:1], None)
    assert coins["v1"].closed
    assert not coins["v2"].closed
    made.close()


def test_time_spent_in_another_process_is_time_spent() -> None:
    """Waiting takes no processor time of this thread."""
    clock = ManualClock()

    def elsewhere(X: Any) -> Any:
        clock.advance(0.2)
        return even(X)

    made = scorer(Shelf(v1=Coin(elsewhere)), clock)
    found = made.scores(1, ROWS, None)
    assert found is not None
    assert len(found.at) == 128, "two blocks, and no time is left"
    assert made.scores(1, ROWS, None) is None
    made.close()


def test_few_sessions_stay_open_and_all_are_closed() -> None:
    coins = {f"v{i}": Coin(even) for i in range(1, 5)}
    shelf = Shelf(**coins)
    made = scorer(shelf)
    for version in (1, 2, 1, 3, 1, 4, 1):
        assert made.scores(version, ROWS[:1], None) is not None
    assert shelf.opened == [1, 2, 3, 4]
    assert [coin.closed for coin in coins.values()] == [False, True, True, False]
    made.close()
    assert all(coin.closed for coin in coins.values())


@pytest.mark.parametrize(
    ("coin", "why"),
    [
        (None, "cannot be opened: version 1 is damaged"),
        (Coin(None), "no probabilities"),
        (Coin(even, classes=[]), "shape (1, 2)"),
    ],
)
def test_a_version_without_scores_is_not_asked_again(coin: Coin | None, why: str) -> None:
    shelf = Shelf(**({} if coin is None else {"v1": coin}))
    made = scorer(shelf)
    assert made.scores(1, ROWS[:1], None) is None
    assert made.scores(1, ROWS[:1], None) is None
    assert why in made.refused[1]
    assert shelf.opened == [1]
    assert coin is None or coin.closed


def test_a_row_that_raises_costs_its_block_and_no_more() -> None:
    def choosy(X: Any) -> Any:
        if X[0, 0] == 13:
            raise ValueError("thirteen")
        return even(X)

    made = scorer(Shelf(v1=Coin(choosy), v2=Coin(lambda X: np.full((len(X), 2), 7.0))))
    assert made.scores(1, [[13.0]], None) is None
    assert made.scores(1, [[12.0]], None) is not None
    for _ in range(20):
        assert made.scores(1, [[13.0]], None) is made.scores(2, [[1.0]], None) is None
    assert "thirteen" in made.refused[1]
    assert "its scores are no probabilities" in made.refused[2]


def test_it_takes_its_share_of_the_time_and_no_more() -> None:
    used = 0.0

    def slow(X: Any) -> Any:
        nonlocal used
        used += 0.01 * len(X)
        return even(X)

    clock, coin = ManualClock(), Coin(slow)
    made = scorer(Shelf(v1=coin), clock, lambda: used)
    for _ in range(1000):
        made.scores(1, ROWS, None)
        clock.advance(0.1)
    assert used == pytest.approx(SHARE * 100, rel=0.1)
    assert coin.asked < 1500
    clock.advance(60)
    found = made.scores(1, ROWS, None)
    assert found is not None
    assert len(found.at) == 64, "one block is more than there was time for"


def labelled(room: Room, n: int, seed: int) -> tuple[list[list[float]], list[int]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X.tolist(), (X[:, 0] + rng.normal(0, 0.5, n) > 0).astype(int).tolist()


def test_quality_of_served_answers_has_scores_by_version(room: Room) -> None:
    """Labels of answers of the champion, of the version before, and of rows that nobody was asked about."""
    room.register("m", LogisticRegression(), learning={"interval_sec": 1e6})
    room.feed("m", *labelled(room, 60, 1))
    room.settle(4)
    first = room.live("m")
    assert first is not None
    X, y = labelled(room, 80, 2)
    room.label("m", room.predict("m", X), y)
    late_X, late_y = labelled(room, 70, 4)
    late = room.predict("m", late_X)
    room.settle()
    room.loop.train_now("m")
    assert room.live("m") == first + 1
    more_X, more_y = labelled(room, 90, 3)
    room.feed("m", more_X, more_y)
    room.label("m", late, late_y)
    room.settle()

    session = room.registry.open_session(room.registry.version("m", first))
    scores = session.scores(np.array(X + late_X))
    figures = room.loop.figures("m", first)
    assert (figures["n"], figures["scored"]) == (150, 150)
    assert figures["log_loss"] == pytest.approx(log_loss(y + late_y, scores))
    assert figures["window"]["auc"] == pytest.approx(roc_auc_score(y + late_y, scores[:, 1]))
    now = room.loop.figures("m", first + 1)
    assert (now["n"], now["scored"]) == (90, 90)
    assert room.loop.figures("m", 99) == {}

    told = room.told("quality", "m")
    assert [event.version for event in told] == [first, first + 1]
    assert told[0].data["n"] >= KNOWN
    assert "accuracy" in told[0].message
    assert "no-change" in told[0].message

    room.loop.stop()
    after = room.again()
    after.settle()
    assert after.loop.figures("m", first) == figures
    assert not after.told("quality"), "it was told before the restart"
    after.loop.close()
