"""What a learner knows: everything that follows from the examples up to its cursor, and how that is written down and read.

One save holds the cursor and all that depends on it, so no example is learned twice or lost, whenever the process ends. The
window itself is not in it, only its bounds: its examples are in the journal. A fit in flight is not in it either: a learner
that is restored finds itself before that fit and decides on it again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from everloop.core.clock import Clock
from everloop.core.schema import Schema, Target
from everloop.core.types import Example
from everloop.learning.apprentice import Apprentice
from everloop.learning.examiner import Alarm, Examiner
from everloop.learning.learners.base import Learner
from everloop.learning.window import Window
from everloop.policy.retraining import Progress
from everloop.policy.windows import MOST_HELD_OUT
from everloop.stores.ports import Checkpoint, Journal

FORMAT = 1
_PAGE = 1000


class _Snapshot(msgspec.Struct):
    format: int
    kind: str
    """Of the learner: a checkpoint of another kind is of no use."""
    first_id: int
    cut_id: int
    learned: int
    new: int
    fitted_since_change: int
    failures: int
    fit_at: float | None
    retry_at: float | None
    fit_rate: float | None
    alarm: dict[str, Any] | None
    quality: dict[str, Any]
    drift: dict[str, Any]
    version: int
    """Whose losses the drift monitor has seen, and the first example that it saw."""
    since: int
    alarms: int
    learner: bytes | None = None
    """An incremental learner's whole state, up to the example `learner_id`."""
    learner_id: int = 0
    learner_from: int = 0
    unpublished: int = 0
    duel: bytes = b""


class Memory:
    """Owned by one trainer. Times are in seconds of `clock.monotonic`, except `fit_at`, which is for people."""

    def __init__(self, schema: Schema, target: Target) -> None:
        self.schema = schema
        self.target = target
        self.cursor = 0
        """The newest example taken."""
        self.learned = 0
        """Examples taken so far, validation examples included."""
        self.window = Window(schema, target)
        self.validation = Window(schema, target)
        self.examiner = Examiner(target)
        self.apprentice: Apprentice | None = None
        self.progress = Progress()
        self.before: Progress | None = None
        """While a fit is in flight: the progress before it started."""
        self.cut_id = 0
        """The example at which the concept changed last; 0 if none did within the window."""
        self.alarm: Alarm | None = None
        self.fit_at: float | None = None
        self.fit_rate: float | None = None
        """Seconds a row of the last fit."""

    def take(self, examples: list[Example], limit: int) -> list[Example]:
        """Remember these and move the cursor; gives those that may be trained on."""
        kept = [example for example in examples if not example.validation]
        if len(kept) < len(examples):
            self.validation.extend([example for example in examples if example.validation], MOST_HELD_OUT)
        self.window.extend(kept, limit)
        self.cursor = examples[-1].id
        self.learned += len(examples)
        self.progress.new += len(kept)
        return kept

    def mark_fit(self, clock: Clock) -> None:
        """A fit, or a snapshot, begins now."""
        self.progress.new = 0
        self.progress.last_fit = clock.monotonic()
        self.progress.fitted_since_change = self.progress.since_change or 0
        self.fit_at = clock.now()

    def forget_what_is_known_to(self, last_id: int) -> None:
        """The champion was trained up to this example: a fit may have been published just before the process ended, and the
        checkpoint that says so not written."""
        self.progress.new = min(self.progress.new, self.window.count_from(last_id + 1))
        if self.cut_id and last_id >= self.cut_id:
            known = self.window.count_from(self.cut_id) - self.window.count_from(last_id + 1)
            self.progress.fitted_since_change = max(self.progress.fitted_since_change, known)

    def drift_report(self) -> dict[str, Any]:
        """For a status page."""
        report = self.examiner.report()
        if self.alarm is not None:
            report["last"] = msgspec.to_builtins(self.alarm)
        return report

    def settled_progress(self) -> Progress:
        """As if a fit in flight had not been started."""
        if self.before is None:
            return self.progress
        return replace(self.before, new=self.before.new + self.progress.new)

    def dump(self, kind: str, clock: Clock) -> bytes:
        """Raises what the learner's `dump` raises."""
        progress = self.settled_progress()
        passed = clock.now() - clock.monotonic()
        quality, drift, version, since, alarms = self.examiner.dump()
        apprentice = self.apprentice
        return msgspec.msgpack.encode(
            _Snapshot(
                format=FORMAT,
                kind=kind,
                first_id=self.window.first_id,
                cut_id=self.cut_id,
                learned=self.learned,
                new=progress.new,
                fitted_since_change=progress.fitted_since_change,
                failures=progress.failures,
                fit_at=None if progress.last_fit is None else progress.last_fit + passed,
                retry_at=None if progress.retry_at is None else progress.retry_at + passed,
                fit_rate=self.fit_rate,
                alarm=None if self.alarm is None else msgspec.to_builtins(self.alarm),
                quality=quality,
                drift=drift,
                version=version,
                since=since,
                alarms=alarms,
                learner=apprentice.learner.dump() if apprentice else None,
                learner_id=apprentice.last_id if apprentice else 0,
                learner_from=apprentice.first_id if apprentice else 0,
                unpublished=apprentice.unpublished if apprentice else 0,
                duel=apprentice.dump_duel() if apprentice else b"",
            )
        )

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        model: str,
        schema: Schema,
        target: Target,
        learner: Learner | None,
        kind: str,
        journal: Journal,
        clock: Clock,
        limit: int,
    ) -> Memory:
        """Raises all sorts of things where the checkpoint is damaged, of another learner, or not trusted: then nothing of it
        is used."""
        saved = msgspec.msgpack.decode(checkpoint.state, type=_Snapshot)
        if saved.format != FORMAT or saved.kind != kind:
            raise ValueError(f"it was written by a {saved.kind!r} learner in format {saved.format}")
        memory = cls(schema, target)
        memory.cursor, memory.learned, memory.cut_id = checkpoint.cursor, saved.learned, saved.cut_id
        after = max(saved.first_id - 1, 0)
        while saved.first_id and after < checkpoint.cursor:
            page = [e for e in journal.examples(model, after=after, limit=_PAGE) if e.id <= checkpoint.cursor]
            if not page:
                break
            memory.validation.extend([e for e in page if e.validation], MOST_HELD_OUT)
            memory.window.extend([e for e in page if not e.validation], limit)
            after = page[-1].id
        memory.examiner.load(
            quality=saved.quality,
            drift=saved.drift,
            version=saved.version,
            since=saved.since,
            alarms=saved.alarms,
            window=memory.window.newest(len(memory.window)),
        )
        passed = clock.now() - clock.monotonic()
        memory.progress = Progress(
            new=saved.new,
            last_fit=None if saved.fit_at is None else min(saved.fit_at - passed, clock.monotonic()),
            fitted_since_change=saved.fitted_since_change,
            failures=saved.failures,
            retry_at=None if saved.retry_at is None else saved.retry_at - passed,
        )
        memory.fit_at, memory.fit_rate = saved.fit_at, saved.fit_rate
        memory.alarm = None if saved.alarm is None else msgspec.convert(saved.alarm, Alarm)
        if saved.learner is not None and learner is not None:
            clone = learner.clone()
            clone.restore(saved.learner)
            memory.apprentice = Apprentice(clone, target, first_id=saved.learner_from, last_id=saved.learner_id)
            memory.apprentice.unpublished = saved.unpublished
            memory.apprentice.load_duel(saved.duel)
        return memory
