"""The learning loop: one thread that gives every model's learner its turn.

    step:  catalog changed? ── who is there ──> each seat in turn: a slice of about 1 ms, then a pause for everybody else

- A learner's state is only ever touched with its seat's lock; `step` passes over a seat that somebody holds.
- `stop` joins the thread, then saves, then gives the leases back, so that the next learner finds everything.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from everloop.core.clock import Clock
from everloop.core.errors import Conflict
from everloop.core.events import EventBus
from everloop.core.schema import Schema, Target
from everloop.core.stepping import StepThread
from everloop.core.types import Task
from everloop.learning.config import LearningConfig, effective
from everloop.learning.fitting import Fitter
from everloop.learning.learners.base import Learner
from everloop.learning.publisher import Publisher
from everloop.learning.seat import LearnerStatus, Seat, Workshop
from everloop.policy.retraining import backoff
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.runtime.session import Session
from everloop.stores.ports import Journal, ModelRecord, VersionRecord

_PAUSE = 0.001
"""Between slices: enough for every waiting thread to run."""
_LONG = 0.005
"""A slice that took longer, as one example of a large ensemble may, is followed by a pause as long as itself."""
_IDLE = 0.25
"""Longest wait when there is nothing to do."""


class LearningLoop:
    """Safe from any thread. Does nothing by itself until `start`; `step` may be called by hand instead."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        config: LearningConfig,
        bus: EventBus,
        clock: Clock,
        *,
        owner: str,
        trust: Trust,
        rng: random.Random,
        fitter: Fitter | None = None,
        cpu: Callable[[], float] = time.thread_time,
        open_other: Callable[[VersionRecord], Session] | None = None,
    ) -> None:
        """`owner`: names this process among all that share the journal. `fitter`: where fits run; a new one if None, which
        the loop then closes. `cpu`: processor time, by which slices are measured; a constant makes runs repeatable. `open_other`: how
        a version that does not serve is opened to be asked for its scores; in this process if None."""
        self._registry = registry
        self._clock = clock
        self._fitter = fitter or Fitter()
        self._workshop = Workshop(
            registry=registry,
            journal=journal,
            config=config,
            bus=bus,
            clock=clock,
            owner=owner,
            trust=trust,
            rng=rng,
            fitter=self._fitter,
            publisher=Publisher(registry),
            wake=self.wake,
            cpu=cpu,
            open_other=open_other or registry.open_session,
        )
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._removed: dict[str, float] = {}
        self._learners: dict[str, Learner] = {}
        self._revision: int | None = None
        self._thread = StepThread(
            "everloop-learning",
            self.step,
            self._rest,
            clock=clock,
            backoff=lambda failures: backoff(failures, rng),
        )

    # -- the thread ----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._thread.running

    @property
    def alive(self) -> bool:
        """False when the loop was started and its thread is dead, or nothing but failing, without having been stopped."""
        return self._thread.alive

    @property
    def last_error(self) -> str:
        """What went wrong last in the loop itself, models' own troubles aside."""
        return self._thread.last_error

    def start(self) -> None:
        """Idempotent: there is one thread, which does not depend on the thread that started it."""
        self._thread.start()

    def stop(self) -> None:
        """Wait for the step at hand, save every learner, give the leases back. Fits in flight are cancelled and start anew
        with the next `start`; one that `train_now` waits for is waited for. Idempotent."""
        self._thread.stop()
        for seat in list(self._seats.values()):
            with seat.lock:
                seat.rest()

    def close(self) -> None:
        """`stop`, and end the fitting processes, also that of a `train_now`, which then raises FitFailed."""
        self._thread.stop()
        for seat in list(self._seats.values()):
            if seat.lock.acquire(blocking=False):
                try:
                    seat.rest()
                finally:
                    seat.lock.release()
        self._fitter.close()
        self.stop()
        for seat in list(self._seats.values()):
            with seat.lock:
                seat.leave()

    def wake(self, model: str | None = None) -> None:
        """There is something to do, for this model or for some."""
        seat = self._seats.get(model) if model is not None else None
        if seat is not None:
            seat.call()
        else:
            for other in list(self._seats.values()):
                other.call()
        if not self._thread.wake.is_set():
            self._thread.wake.set()

    def _rest(self, did: bool) -> None:
        if did:
            self._clock.wait(self._thread.stopping, _PAUSE)
        else:
            self._clock.wait(self._thread.wake, _IDLE)

    # -- work ----------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One slice of work for each model; True if anything was done. Raises what the stores raise."""
        self._sync()
        did = False
        for seat in list(self._seats.values()):
            if not seat.lock.acquire(blocking=False):
                continue
            started = self._workshop.cpu()
            try:
                worked = seat.turn()
            finally:
                seat.lock.release()
            did = did or worked
            if worked and self._thread.is_current:
                used = self._workshop.cpu() - started
                self._clock.wait(self._thread.stopping, used if used > _LONG else _PAUSE)
        self._fitter.tidy()
        return did

    def settle(self, timeout: float = 60.0) -> None:
        """Step until there is nothing to do and no fit is in flight: for tests, replays and scripts that do not `start`."""
        until = self._clock.monotonic() + timeout
        while True:
            self.wake()
            self._thread.wake.clear()
            if self.step():
                continue
            if not any(seat.busy for seat in self._seats.values()):
                return
            if self._clock.monotonic() > until:
                raise Conflict(f"the learners did not settle within {timeout:g} s")
            self._thread.wake.wait(0.05)

    def train_now(self, model: str) -> VersionRecord:
        """Fit this model on everything there is, now, and publish it unless it is unusable.

        Raises ModelNotFound, InvalidInput (nothing to train on), FitFailed, Conflict (another process learns it)."""
        self._sync(force=True)
        seat = self._seats.get(model)
        if seat is None:
            self._registry.get(model)  # raises, with near names
            raise Conflict(f"model {model!r} is being removed", field="model")
        with seat.lock:
            return seat.train_now()

    # -- models --------------------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        learner: Learner | None,
        *,
        task: Task | None,
        learning: Mapping[str, Any],
        record: float,
        rollout: Mapping[str, Any] | None = None,
        serving: Mapping[str, Any] | None = None,
        schema: Schema | None = None,
        target: Target | None = None,
    ) -> ModelRecord:
        """Register a model with the learner that it is to have (None: an artifact that only answers), and take it up at once.

        `learning`: what it overrides of the configuration; `rollout`: how its versions go out (`registry.rollouts.policy_of`), where
        that is not as configured; `serving`: how it is served, which the caller has checked; `record`: share of its predictions to record, 0 to 1. The same name
        with the same specification is the model that is there. Raises InvalidInput, Conflict, and Untrusted where only a pickle
        could hold the learner."""
        from everloop.learning.learners.make import describe

        learning = {**getattr(learner, "prefers", {}), **learning}
        effective(self._workshop.config, learning)
        kind, parameters, template = describe(learner) if learner is not None else ("artifact", {}, None)
        made = self._registry.register(
            name,
            kind,
            task=task,
            parameters=parameters,
            learning=learning,
            rollout=rollout,
            serving=serving,
            record=record,
            schema=schema,
            target=target,
            template=template,
        )
        if learner is not None:
            self.attach(name, learner)
        self.add(name)
        return made

    def add(self, model: str) -> None:
        """Take up a model at once. Models in the catalog are found anyway, a little later."""
        self._removed.pop(model, None)
        self._sync(force=True)
        self.wake(model)

    def attach(self, model: str, learner: Learner) -> None:
        """The live learner of a model that was registered in this process, instead of what the catalog can rebuild."""
        self._learners[model] = learner

    def remove(self, model: str) -> None:
        """Stop learning this model and forget its learner; waits for its step at hand. Unknown names are fine."""
        with self._lock:
            seat = self._seats.pop(model, None)
            self._learners.pop(model, None)
            if seat is not None:
                self._removed[model] = seat.record.created_at
        if seat is not None:
            with seat.lock:
                seat.leave()

    def backlog(self, model: str) -> int:
        """Acknowledged examples that the learner has not taken yet; 0 for a model that does not learn."""
        seat = self._seats.get(model)
        return 0 if seat is None else seat.backlog()

    def status(self, model: str) -> LearnerStatus:
        """Raises ModelNotFound."""
        seat = self._seats.get(model)
        if seat is None:
            self._registry.get(model)
            return LearnerStatus()
        return seat.status()

    def figures(self, model: str, version: int) -> dict[str, Any]:
        """Live quality of one version: overall figures, and `window`, its newest 1,000 labels. Empty where this process does not learn
        the model, or no label has judged the version lately. Raises ModelNotFound."""
        found: dict[str, Any] = self.status(model).quality.get("versions", {}).get(str(version), {})
        return found

    def _sync(self, *, force: bool = False) -> None:
        """Seats for the models in the catalog."""
        revision = self._registry.revision()
        if revision == self._revision and not force:
            return
        records = {record.name: record for record in self._registry.list()}
        with self._lock:
            self._revision = revision
            for name in [
                n for n, created in self._removed.items() if n not in records or records[n].created_at != created
            ]:
                del self._removed[name]
            gone = [
                s for n, s in self._seats.items() if n not in records or records[n].created_at != s.record.created_at
            ]
            for seat in gone:
                del self._seats[seat.record.name]
            for name, record in records.items():
                if name in self._removed:
                    continue
                there = self._seats.get(name)
                if there is None:
                    self._seats[name] = Seat(record, self._workshop, self._learners.get(name))
                elif there.record != record:
                    there.change(record)
        for seat in gone:
            with seat.lock:
                seat.leave()
