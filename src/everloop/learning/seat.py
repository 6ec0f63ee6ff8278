"""One model's place in the learning loop: the lease that makes its learner the only one, its trainer, its troubles.

    turn:  lease ──held here──> trainer (made at the first examples, from checkpoint and journal) ──> trainer.step()
                └─ by another process: no trainer, look again later

- Whatever a learner raises is this model's own trouble: told as an event, and the model rests for a while.
- A trainer whose lease may have run out is dropped, unless the journal still holds the very checkpoint that it wrote last: then
  nobody else has learned meanwhile.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import Closed, Conflict, InvalidInput, explain
from everloop.core.events import Event, EventBus, EventKind
from everloop.learning.config import LearningConfig
from everloop.learning.fitting import Fitter
from everloop.learning.learners.base import Learner
from everloop.learning.publisher import Publisher
from everloop.learning.trainer import ModelTrainer
from everloop.policy.retraining import backoff
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.runtime.session import Session
from everloop.stores.ports import Journal, ModelRecord, VersionRecord

LEASE_TTL = 20.0
LEASE_RENEW = 6.0
"""Each renewal is a commit of its own, also of a model that is idle."""
_ASK_AGAIN = 3.0
"""How often a learner that follows asks for the lease."""
_LOOK_AGAIN = 1.0
"""How often a model that nobody called for is looked at: labels may come through another process."""


@dataclass(frozen=True)
class Workshop:
    """What all seats share."""

    registry: Registry
    journal: Journal
    config: LearningConfig
    bus: EventBus
    clock: Clock
    owner: str
    """Names this process among all that share the journal."""
    trust: Trust
    rng: random.Random
    fitter: Fitter
    publisher: Publisher
    wake: Callable[[str], None]
    cpu: Callable[[], float]
    """Seconds of processor time that the calling thread has used."""
    open_other: Callable[[VersionRecord], Session]
    """Opens a version that does not serve."""


class LearnerStatus(msgspec.Struct, frozen=True):
    is_training: bool = False
    """Whether a fit is in flight."""
    learns_here: bool = False
    """Whether this process holds the model's lease."""
    backlog: int = 0
    """Acknowledged examples that the learner has not taken yet."""
    examples_learned: int = 0
    window: int = 0
    """Examples that a refit would see."""
    quality: dict[str, Any] = {}
    drift: dict[str, Any] = {}
    input_drift: dict[str, Any] = {}
    failures: int = 0
    """Fits in a row that failed."""
    last_error: str = ""
    """What failed last, and has not succeeded since."""
    last_verdict: str = ""
    """Why the last challenger does not serve; empty if it does."""
    last_fit: float | None = None
    """When the last fit started, seconds since the epoch."""


class Seat:
    """Whoever touches the trainer holds `lock`, except to look."""

    def __init__(self, record: ModelRecord, workshop: Workshop, learner: Learner | None) -> None:
        """`learner`: a live one, registered in this process; None: the catalog tells how to make it."""
        self.lock = threading.RLock()
        self.record = record
        self.trainer: ModelTrainer | None = None
        self._workshop = workshop
        self._live_learner = learner
        self._changed = False
        self._called = True
        self._look_at = 0.0
        self._gone = False
        self._leads = False
        self._renew_at = 0.0
        self._troubles = 0
        self._rest_until = 0.0
        self._last_error = ""
        self._taken_before = 0
        """Acknowledged examples that this learner has not counted: taken by one before it."""
        self._taken_elsewhere = 0
        self._counted_until = 0.0

    def __repr__(self) -> str:
        return f"Seat({self.record.name!r}, {'leads' if self._leads else 'follows'}, {self.backlog()} behind)"

    @property
    def busy(self) -> bool:
        """Whether a fit is in flight."""
        return self.trainer is not None and self.trainer.is_training

    def call(self) -> None:
        """There is something to do: look at the next turn."""
        self._called = True

    def change(self, record: ModelRecord) -> None:
        """The catalog says something new of the model."""
        self.record, self._changed = record, True

    def turn(self) -> bool:
        """A slice of work, holding the lock; whether there was any."""
        now = self._workshop.clock.monotonic()
        if self._gone or now < self._rest_until or not (self._called or self._changed or now >= self._look_at):
            return False
        self._called, self._look_at = False, now + _LOOK_AGAIN
        try:
            if not self._lead():
                return False
            trainer = self._ready()
            did = trainer is not None and trainer.step()
        except Exception as error:
            self._trouble(error)
            return False
        if did:
            self._called = True
            self._troubles, self._last_error = 0, ""
        return did

    def train_now(self) -> VersionRecord:
        """Holding the lock. Raises InvalidInput (nothing to train on), FitFailed, Conflict (another process learns it)."""
        name = self.record.name
        if not self._lead(ask=True):
            raise Conflict(
                f"model {name!r} is being learned by another process; ask that one, or stop it first", field="model"
            )
        trainer = self._ready()
        if trainer is None:
            raise InvalidInput(
                f"model {name!r} has no labelled examples yet: there is nothing to train on", field="model"
            )
        return trainer.train_now()

    def rest(self) -> None:
        """Drop a fit in flight, save, and give the lease back, holding the lock. What is known stays, to be looked at, and to
        go on from if nobody else has learned by then."""
        if self.trainer is not None:
            self.trainer.pause()
            if self._leads:
                try:
                    self.trainer.save()
                except Exception as error:  # nothing is lost: the examples after the old checkpoint are replayed
                    self._last_error = explain(error)
        self._release()

    def leave(self) -> None:
        """Put the trainer away for good, holding the lock."""
        self._gone = True
        trainer, self.trainer = self.trainer, None
        if trainer is not None:
            trainer.close()
        self._release()

    def _release(self) -> None:
        self._called = True
        self._counted_until = 0.0
        self._renew_at = 0.0
        if self._leads:
            self._leads = False
            try:
                self._workshop.journal.release_lease(_lease(self.record.name), self._workshop.owner)
            except Closed:  # it runs out by itself
                return

    def backlog(self) -> int:
        """Acknowledged examples that no learner has taken yet; 0 for a model that does not learn."""
        name, journal, trainer = self.record.name, self._workshop.journal, self.trainer
        if trainer is None:
            return 0 if self.record.kind == "artifact" else self._backlog_elsewhere()
        if not trainer.learns:
            return 0
        return max(0, journal.examples_total(name) - self._taken_before - trainer.memory.learned)

    def _backlog_elsewhere(self) -> int:
        """By the checkpoint of whoever learns. Counting is slow, and this is asked for every label: so only now and then."""
        name, journal, now = self.record.name, self._workshop.journal, self._workshop.clock.monotonic()
        total = journal.examples_total(name)
        if now >= self._counted_until:
            checkpoint = journal.load_checkpoint(name)
            self._taken_elsewhere = total - journal.count_examples(name, after=checkpoint.cursor if checkpoint else 0)
            self._counted_until = now + _LOOK_AGAIN
        return max(0, total - self._taken_elsewhere)

    def status(self) -> LearnerStatus:
        trainer = self.trainer
        if trainer is None:
            return LearnerStatus(backlog=self.backlog(), last_error=self._last_error)
        memory = trainer.memory
        return LearnerStatus(
            is_training=trainer.is_training,
            learns_here=self._leads,
            backlog=self.backlog(),
            examples_learned=memory.learned,
            window=len(memory.window),
            quality=memory.examiner.quality.report(),
            drift=memory.drift_report(),
            input_drift=trainer.inputs.report(),
            failures=memory.progress.failures,
            last_error=self._last_error or trainer.last_error,
            last_verdict=trainer.last_verdict,
            last_fit=memory.fit_at,
        )

    def _lead(self, *, ask: bool = False) -> bool:
        """Hold the model's lease, or take it; whether we do. Looked after every few seconds, unless `ask`."""
        clock = self._workshop.clock
        now = clock.monotonic()
        if now < self._renew_at and (self._leads or not ask):
            return self._leads
        had, late = self._leads, now >= self._renew_at - LEASE_RENEW + LEASE_TTL  # only those who lead can be late
        self._leads = self._workshop.journal.acquire_lease(
            _lease(self.record.name), self._workshop.owner, now=clock.now(), ttl=LEASE_TTL
        )
        self._renew_at = now + (LEASE_RENEW if self._leads else _ASK_AGAIN)
        doubtful = not self._leads or not had or late
        if self.trainer is not None and doubtful and (not self._leads or self._overtaken(self.trainer)):
            self.trainer.close()
            self.trainer = None
            self._counted_until = 0.0
        return self._leads

    def _overtaken(self, trainer: ModelTrainer) -> bool:
        """Whether somebody else has learned since this trainer's last checkpoint."""
        return self._workshop.journal.load_checkpoint(trainer.name) != trainer.checkpoint

    def _ready(self) -> ModelTrainer | None:
        """The trainer, made if need be, knowing what the catalog says; None as long as the model has no schema."""
        if self.trainer is None:
            if self.record.schema is None or self.record.target is None:
                self.record = self._workshop.registry.get(self.record.name)
                if self.record.schema is None or self.record.target is None:
                    return None
            self.trainer, self._changed = self._make(), False
        elif self._changed:
            self._changed = False
            self.trainer.refresh(self.record)
        return self.trainer

    def _make(self) -> ModelTrainer:
        shop, name = self._workshop, self.record.name
        trainer = ModelTrainer(
            self.record,
            self._learner(),
            registry=shop.registry,
            journal=shop.journal,
            publisher=shop.publisher,
            fitter=shop.fitter,
            config=shop.config,
            tell=self._tell,
            clock=shop.clock,
            rng=shop.rng,
            wake=lambda: shop.wake(name),
            cpu=shop.cpu,
            open_other=shop.open_other,
        )
        trainer.restore(self._live_learner)
        total = -1
        while total != (total := shop.journal.examples_total(name)):  # until no label came in between
            behind = shop.journal.count_examples(name, after=trainer.cursor)
        self._taken_before = total - behind - trainer.memory.learned
        return trainer

    def _learner(self) -> Learner | None:
        if self._live_learner is not None:
            return self._live_learner.clone()
        from everloop.learning.learners.make import from_record

        record = self.record
        template = self._workshop.registry.template(record.name)
        return from_record(record.kind, record.parameters, template, trust=self._workshop.trust)

    def _trouble(self, error: Exception) -> None:
        self._troubles += 1
        wait = backoff(self._troubles, self._workshop.rng)
        self._rest_until = self._workshop.clock.monotonic() + wait
        message = explain(error)
        if message == self._last_error:
            return  # once is enough on the timeline
        self._last_error = message
        self._tell(
            "learner_failed", f"learning stumbled and will go on in {wait:.1f} s: {message}", failures=self._troubles
        )

    def _tell(self, kind: EventKind, message: str, version: int | None = None, **numbers: Any) -> None:
        event = Event(self.record.name, kind, self._workshop.clock.now(), message, version, numbers)
        self._workshop.journal.log(event)
        self._workshop.bus.emit(event)


def _lease(model: str) -> str:
    return f"learn:{model}"
