"""A shadow: a version that is shown a copy of the traffic and answers nobody.

    recorder ──► audience ──► offer ──► Backlog ──► the shadow's thread ──► its process ──► compare, count, record
                                 │ full: skipped             │ purse empty: waits

It runs in a process of its own, at the lowest priority that there is, and is paid from a bounded purse (`policy.shadowing`). So one
that hangs, crashes, takes all memory or is a hundred times slower changes nothing for whoever asks the model: what they were answered
has been on its way for long when the shadow hears of it.

Rules.

1. Every row that came by is counted once (`serving.comparison`): skipped, failed or answered. Nothing waits for a shadow.
2. A process that hangs or dies is started anew after a growing pause. After `max_failures` in a row it stays down; an event says so,
   once. What cannot be opened for good (not trusted, damaged, not supported) is down at once.
3. What it would have answered is recorded where the request itself is, as a record of its own whose lane key is the request's and
   `~version`: `abc~3-5f` is what version 3 makes of request `abc-5f`. The features are not kept twice.
4. Where the journal has no room, the shadow pauses: it is not to push out what was really answered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from everloop.core.errors import EverloopError, Failure, ModelFailed, explain
from everloop.core.events import Event, EventBus
from everloop.core.schema import pack_rows, unpack_rows
from everloop.core.types import PredictionRecord, Row, shadow_key
from everloop.policy.shadowing import ShadowRules
from everloop.serving.audience import kept
from everloop.serving.backlog import Backlog
from everloop.serving.comparison import Shown
from everloop.serving.recorder import Recorder
from everloop.serving.shadow_host import ShadowHost
from everloop.serving.shadow_process import Batch, Ran
from everloop.stores.ports import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

DEFAULT_RULES = ShadowRules()
JOURNAL_PAUSE = 1.0
"""Seconds without showing after the journal had no room."""
PATIENCE = 30.0
"""Seconds that `answers` waits."""


class Shadow:
    """`offer` belongs to the recorder's thread, `step` to the shadow's own; all else may be called from any."""

    def __init__(
        self,
        record: VersionRecord,
        model: ModelRecord,
        registry: Registry,
        recorder: Recorder,
        bus: EventBus,
        *,
        rules: ShadowRules = DEFAULT_RULES,
        rng: Random | None = None,
    ) -> None:
        rules.validate()
        self.record = record
        self.name = model.name
        self.version = record.version
        self.rules = rules
        self._share = model.record
        self._recorder = recorder
        self._clock = recorder.clock
        self._bus = bus
        self._lock = threading.Lock()
        """Guards the counts, and `_ended`."""
        self._seen = Shown(record.version, record.manifest.task, "opening")
        self._host = ShadowHost(
            record,
            registry,
            recorder.clock,
            rules,
            self._seen,
            lock=self._lock,
            on_down=self._down,
            rng=rng or Random(),  # noqa: S311  spreads retries, guards nothing
        )
        self._backlog = Backlog(rules.queue_rows, rules.queue_bytes)
        self._showing: _Showing | None = None
        self._skipped = 0
        """Rows that had found room, and waited for too long."""
        self._questions: deque[_Question] = deque()
        self._late: _Question | None = None
        """The last one whose asker could not wait."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ended = False
        self._leave = recorder.audience.watch(self.name, self.offer)

    # -- from other threads --

    def offer(self, record: PredictionRecord) -> None:
        """Never waits: what finds no room is counted."""
        if record.version == self.version:
            return  # its own answers, on the way from or to being a lane
        self._backlog.put(record)
        if not self._wake.is_set():
            self._wake.set()

    def answers(self, rows: Sequence[Row], time_limit: float = PATIENCE) -> list[Any]:
        """What it makes of checked rows, paid like all else: a prediction a row, a `ModelFailed` in the place of those on which it
        failed. They go before what waits to be shown, and are not counted as shown. Raises ModelFailed where it cannot answer at
        all: it is down, hangs, crashes, or `time_limit` seconds have passed; whoever then asks the same again goes on from there."""
        with self._lock:
            if self._ended:
                raise self._is_down()
            question, self._late = self._late, None
            if question is None or question.rows != rows or question.error is not None:
                if question is not None:
                    question.dropped = True
                question = _Question(rows)
                self._questions.append(question)
        self._wake.set()
        if not question.settled.wait(time_limit):
            self._put_off(question)
            raise self._failed(f"has not answered {len(rows)} rows within {time_limit:g} s", "timeout")
        if question.error is not None:
            raise question.error
        return question.answers

    def _put_off(self, question: _Question) -> None:
        with self._lock:
            if self._late is not None:
                self._late.dropped = True
            self._late = question

    def observed(self) -> Shown:
        """A copy of the counts."""
        with self._lock:
            seen: Shown = _copy(self._seen)
            backlog = self._backlog
            seen.offered = backlog.rows_in + backlog.refused
            seen.skipped = backlog.refused + self._skipped
        return seen

    @property
    def failure(self) -> EverloopError | None:
        """Why it is down for good."""
        return self._host.failure

    @property
    def waiting(self) -> int:
        """Rows that wait to be shown."""
        return len(self._backlog)

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one."""
        return self._host.pid

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name=f"everloop-shadow-{self.name[:32]}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the process and the thread; what waits is skipped. Safe to call twice."""
        with self._lock:
            self._closed = True
        self._leave()
        self._host.kill()
        self._wake.set()
        thread = self._thread
        if thread is None:
            self._end()
        elif thread is not threading.current_thread():
            thread.join(10.0)
        with self._lock:
            self._seen.state = "closed"

    def __repr__(self) -> str:
        return f"<Shadow {self.name}@{self.version} {self._seen.state}, {self.waiting} rows waiting>"

    # -- its thread --

    def _work(self) -> None:
        try:
            while not (self._closed or self._host.failure):
                self._wake.clear()
                pause = self.step()
                if pause != 0.0:
                    self._wake.wait(pause)
        finally:
            self._end()

    def step(self) -> float | None:
        """One thing that is to be done; seconds until there may be another, None: once something comes, if ever."""
        if self._closed or self._host.failure is not None:
            return None
        pause = self._host.pause()
        if pause > 0:
            return pause
        begun = time.thread_time()
        if not self._host.up:
            self._host.open()
        elif self._questions:
            self._ask()
        elif (showing := self._next()) is not None:
            self._show(showing)
        else:
            return None
        self._host.pay(time.thread_time() - begun)
        return 0.0

    def _next(self) -> _Showing | None:
        """What is to be shown next, of what is not too old."""
        oldest = self._clock.now() - self.rules.max_age
        while True:
            if self._showing is not None:
                if self._showing.record.at >= oldest:
                    return self._showing
                self._finish(self._showing)
            record = self._backlog.take()
            if record is None:
                return None
            self._showing = _Showing(record)

    def _show(self, showing: _Showing) -> None:
        batch, served = showing.next(self._host.rows)
        ran = self._host.run(batch)
        with self._lock:
            if isinstance(ran, Ran):
                self._seen.ran(batch.rows, ran.seconds)
                for _, how, why in ran.failures:
                    self._seen.fail(how)
                    self._seen.reason = why
                self._seen.compare(ran.answers, served, self.rules.tolerance)
            else:
                self._seen.fail(ran, batch.rows)
        showing.answers += ran.answers if isinstance(ran, Ran) else [None] * batch.rows
        if not showing.left:
            self._finish(showing)

    def _finish(self, showing: _Showing) -> None:
        """Whatever is left of it is skipped; what the shadow has made of whole requests is recorded."""
        self._showing = None
        self._skipped += showing.left
        answered = showing.answered(self.version, self._clock.now())
        if answered is None:
            return
        for part in [answered] if self._share >= 1.0 else kept(answered, self._share):
            if not self._record(part):
                self._host.hold(JOURNAL_PAUSE)
                with self._lock:
                    self._seen.unrecorded += len(part.predictions)

    def _record(self, record: PredictionRecord) -> bool:
        try:
            return self._recorder.journal.record(record)
        except EverloopError:  # closed or broken, which /health tells of
            return False

    def _ask(self) -> None:
        """The next batch of the rows that somebody waits for."""
        question = self._questions.popleft()
        if question.dropped:
            return
        done = len(question.answers)
        rows = question.rows[done : done + self._host.rows]
        try:
            batch = Batch(*pack_rows(rows, self.record.manifest.schema), len(rows))
        except Exception as error:
            question.settle(self._failed(f"cannot be asked this: {explain(error)}"))
            return
        ran = self._host.run(batch) if rows else Ran([], [], 0.0, 0.0)
        if not isinstance(ran, Ran):
            question.settle(self._failed(f"could not answer: {self._seen.reason or 'it was closed'}", ran))
            return
        failed = {row: self._failed(f"failed on this input: {why}", how) for row, how, why in ran.failures}
        question.answers += [failed.get(row, answer) for row, answer in enumerate(ran.answers)]
        if len(question.answers) < len(question.rows):
            self._questions.appendleft(question)
        else:
            question.settle()

    def _down(self, message: str) -> None:
        self._leave()
        seen = self._seen
        data = {"reason": seen.reason, "starts": seen.starts, "crashes": seen.crashes, "timeouts": seen.timeouts}
        event = Event(self.name, "shadow_failed", self._clock.now(), message, self.version, data)
        self._recorder.journal.log(event)
        self._bus.emit(event)

    def _end(self) -> None:
        """Nobody will do anything any more."""
        with self._lock:
            self._ended = True
            if not (self._closed or self._host.failure):
                self._seen.state, self._seen.reason = "down", "its thread has failed"
        self._leave()
        self._host.close()
        if self._showing is not None:
            self._finish(self._showing)
        while (record := self._backlog.take()) is not None:
            self._skipped += len(record.predictions)
        while self._questions:
            self._questions.popleft().settle(self._is_down())

    def _is_down(self) -> ModelFailed:
        return self._failed(f"is down: {self._seen.reason or 'it was closed'}", "crash")

    def _failed(self, what: str, how: Failure = "raised") -> ModelFailed:
        error = ModelFailed(f"the shadow, version {self.version} of model {self.name!r}, {what}")
        error.how = how
        return error


def open_shadow(
    record: VersionRecord,
    model: ModelRecord,
    registry: Registry,
    recorder: Recorder,
    bus: EventBus,
    *,
    rules: ShadowRules = DEFAULT_RULES,
) -> Shadow:
    """Show `record` what `model` is asked, from now on. Returns at once: to load it is its own process's affair, and whatever is wrong
    with it is told by `failure`, `observed()` and the event `shadow_failed`. Raises InvalidInput for `rules`."""
    shadow = Shadow(record, model, registry, recorder, bus, rules=rules)
    shadow.start()
    return shadow


class _Showing:
    """A record on its way through the shadow."""

    __slots__ = ("answers", "record", "total")

    def __init__(self, record: PredictionRecord) -> None:
        self.record = record
        self.total = len(record.predictions)
        self.answers: list[Any] = []
        """So far; None where it failed."""

    @property
    def left(self) -> int:
        return self.total - len(self.answers)

    def next(self, rows: int) -> tuple[Batch, list[Any]]:
        """The next rows of it, at most `rows`, and what was answered to them."""
        record, start = self.record, len(self.answers)
        stop = min(start + rows, self.total)
        if record.encoding == "msgpack":
            features = msgspec.msgpack.encode(unpack_rows("msgpack", record.features, self.total)[start:stop])
        else:
            each = len(record.features) // self.total
            features = record.features[start * each : stop * each]
        return Batch(record.encoding, features, stop - start), record.predictions[start:stop]

    def answered(self, version: int, at: float) -> PredictionRecord | None:
        """What it made of whole requests; None if of none."""
        whole = len(self.answers) // self.record.rows
        answers = self.answers[: whole * self.record.rows]
        if all(answer is None for answer in answers):
            return None
        return msgspec.structs.replace(
            self.record,
            version=version,
            lane_key=shadow_key(self.record.lane_key, version),
            count=whole,
            at=at,
            encoding="f8",
            features=b"",
            predictions=answers,
            shadow=True,
        )


class _Question:
    """Rows that somebody waits for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.answers: list[Any] = []
        self.error: EverloopError | None = None
        self.dropped = False
        """Nobody wants to know any more."""
        self.settled = threading.Event()

    def settle(self, error: EverloopError | None = None) -> None:
        self.error = error
        self.settled.set()


def _copy(seen: Shown) -> Shown:
    copy: Shown = _decode_shown(msgspec.msgpack.encode(seen))
    return copy


_decode_shown = msgspec.msgpack.Decoder(Shown).decode
