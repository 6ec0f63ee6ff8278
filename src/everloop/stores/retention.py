"""Forgetting, a little at a time: each step is one short transaction on the writer, so that no label waits long for it. The same
statements for every database.

The oldest go first, predictions and examples by the same measure of age; events only when nothing else is left to free.
An example goes only after its learner's checkpoint has passed it, and takes its prediction and all older ones along:
otherwise its label could come again and count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

_ROWS = 250
"""Entries a step: about 5 ms for batches of 64 rows of 30 numbers."""


class Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """What the statements run on; `?` stands for a parameter."""

    def execute(self, statement: str, parameters: Sequence[Any] = ..., /) -> Cursor: ...


Run = Callable[[Callable[[Any], Any]], Any]
"""Does what it is given, with a `Connection`, as one transaction."""


def prune_age(run: Run, *, horizon: float) -> int:
    """Everything from before `horizon` that may go. Returns how many entries went."""
    gone = 0
    while step := run(lambda c: _predictions_step(c, horizon)):
        gone += step
    while step := run(lambda c: _examples_step(c, horizon)):
        gone += step
    while step := run(lambda c: _events_step(c, horizon)):
        gone += step
    while run(lambda c: _keys_step(c, horizon)):
        pass
    return gone


def prune_bytes(run: Run, *, most: int, used: Callable[[Any], int]) -> int:
    """The oldest, until the journal takes at most `most` bytes or nothing is left that may go. `used` says how many it takes."""
    gone = 0
    while step := run(lambda c: _smaller(c, most, used)):
        gone += step
    return gone


def _smaller(connection: Connection, most: int, used: Callable[[Any], int]) -> int:
    if used(connection) <= most:
        return 0
    prediction = connection.execute("SELECT at FROM predictions ORDER BY id LIMIT 1").fetchone()
    example = _oldest_learned(connection)
    if prediction is not None and (example is None or prediction[0] <= example[2]):
        return _predictions_step(connection, None)
    if example is not None:
        horizon: float = example[2]
        _keys_step(connection, horizon)
        return _examples_step(connection, None)
    return _events_step(connection, None)


def _predictions_step(connection: Connection, horizon: float | None) -> int:
    last = _last_of_oldest(connection, "predictions", horizon)
    return connection.execute("DELETE FROM predictions WHERE id <= ?", (last,)).rowcount if last else 0


def _events_step(connection: Connection, horizon: float | None) -> int:
    last = _last_of_oldest(connection, "events", horizon)
    return connection.execute("DELETE FROM events WHERE id <= ?", (last,)).rowcount if last else 0


def _last_of_oldest(connection: Connection, table: str, horizon: float | None) -> int:
    """The id up to which the oldest few are from before `horizon`; 0 if the very oldest is younger."""
    oldest = connection.execute(f"SELECT id, at FROM {table} ORDER BY id LIMIT ?", (_ROWS,)).fetchall()  # noqa: S608 - our own names
    last = 0
    for id_, at in oldest:
        if horizon is not None and at >= horizon:
            break
        last = id_
    return last


def _examples_step(connection: Connection, horizon: float | None) -> int:
    oldest = _oldest_learned(connection, horizon)
    if oldest is None:
        return 0
    _, model, _, cursor = oldest
    some = connection.execute(
        "SELECT id, at, record FROM examples WHERE model = ? AND id <= ? ORDER BY id LIMIT ?", (model, cursor, _ROWS)
    ).fetchall()
    last = record = 0
    for id_, at, joined in some:
        if horizon is not None and at >= horizon:
            break
        last, record = id_, max(record, joined)
    # First the predictions, in steps of their own: a crash in between must not leave one whose label was forgotten.
    with_predictions = connection.execute(
        "DELETE FROM predictions WHERE id IN (SELECT id FROM predictions WHERE id <= ? ORDER BY id LIMIT ?)",
        (record, _ROWS),
    ).rowcount
    if with_predictions == _ROWS:
        return with_predictions
    gone = connection.execute("DELETE FROM examples WHERE model = ? AND id <= ?", (model, last)).rowcount
    return with_predictions + gone


def _oldest_learned(connection: Connection, horizon: float | None = None) -> tuple[int, str, float, int] | None:
    """(id, model, at, cursor) of the oldest example that its model's checkpoint has passed."""
    found = []
    for model, cursor in connection.execute("SELECT model, cursor FROM checkpoints").fetchall():
        first = connection.execute(
            "SELECT id, at FROM examples WHERE model = ? AND id <= ? ORDER BY id LIMIT 1", (model, cursor)
        ).fetchone()
        if first is not None and (horizon is None or first[1] < horizon):
            found.append((first[0], model, first[1], cursor))
    return min(found, default=None)


def _keys_step(connection: Connection, horizon: float) -> int:
    return connection.execute(
        "DELETE FROM keys WHERE (model, key) IN (SELECT model, key FROM keys WHERE at < ? ORDER BY at LIMIT ?)",
        (horizon, _ROWS),
    ).rowcount


def forget_model(run: Run, model: str) -> None:
    """In steps, the checkpoint last: until then the examples are protected or learned as before."""
    while run(lambda c: _forget(c, "examples", model)):
        pass
    while run(lambda c: _forget(c, "predictions", model)):
        pass
    run(lambda c: _forget_rest(c, model))


def _forget(connection: Connection, table: str, model: str) -> int:
    return connection.execute(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE model = ? ORDER BY id LIMIT ?)",  # noqa: S608 - our own names
        (model, _ROWS),
    ).rowcount


def _forget_rest(connection: Connection, model: str) -> None:
    connection.execute("DELETE FROM keys WHERE model = ?", (model,))
    connection.execute("DELETE FROM checkpoints WHERE model = ?", (model,))
    connection.execute("DELETE FROM tallies WHERE what = 'acknowledged' AND model = ?", (model,))
