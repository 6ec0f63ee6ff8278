"""The learning loop: one thread that gives every model's learner its turn, and the lease that makes it the only one.

    step:  catalog changed? ── who is there ──> for each model:  lease ──> trainer.step()      (a slice of about 1 ms)
                                                                  └─ held by another process: follow, look again later

Rules:
- A model's trouble is its own: whatever its learner raises is told as an event, and that model rests for a while.
- A learner's state is only ever touched with its seat's lock; `step` passes over a seat that somebody holds.
- A trainer whose lease has run out is dropped, unless the journal still holds the very checkpoint it wrote last: then nobody
  else has learned meanwhile.
- `stop` joins the thread, then saves, then gives the leases back, so that the next learner finds everything.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import Closed, Conflict, EverloopError, InvalidInput, ModelNotFound
from everloop.core.events import Event, EventBus, EventKind
from everloop.learning.challenge import explain
from everloop.learning.config import LearningConfig
from everloop.learning.fitting import Fitter
from everloop.learning.learners.base import Learner
from everloop.learning.publisher import Publisher
from everloop.learning.trainer import ModelTrainer
from everloop.policy.retraining import backoff
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.stores.ports import Journal, ModelRecord, VersionRecord

LEASE_TTL = 15.0
LEASE_RENEW = 5.0
_PAUSE = 0.001
"""Between slices: enough for every waiting thread to run."""
_IDLE = 0.25
"""Longest wait when there is nothing to do: labels may come through another process."""
_LOOK_AGAIN = 1.0
"""How often a model that nobody called for is looked at."""
_ALIVE_FAILURES = 5


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
    last_fit: float | None = None
    """When the last fit started, seconds since the epoch."""


class _Seat:
    """One model's place in the loop."""

    def __init__(self, record: ModelRecord) -> None:
        self.lock = threading.RLock()
        self.record = record
        self.changed = False
        self.called = True
        self.look_at = 0.0
        self.trainer: ModelTrainer | None = None
        self.leads = False
        self.renew_at = 0.0
        self.troubles = 0
        self.rest_until = 0.0
        self.last_error = ""
        self.gone = False
        self.taken = 0
        """How many examples were ever acknowledged up to the cursor."""
        self.base = 0
        """Those of them that this learner has not counted: taken by one before it."""


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
    ) -> None:
        """`owner`: names this process among all that share the journal. `fitter`: where fits run; a new one if None, which
        the loop then closes."""
        self._registry = registry
        self._journal = journal
        self._config = config
        self._bus = bus
        self._clock = clock
        self._owner = owner
        self._trust = trust
        self._rng = rng
        self._fitter = fitter or Fitter()
        self._publisher = Publisher(registry)
        self._lock = threading.Lock()
        self._seats: dict[str, _Seat] = {}
        self._removed: dict[str, float] = {}
        self._attached: dict[str, Learner] = {}
        self._revision: int | None = None
        self._look_at = 0.0
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._bad_steps = 0
        self.last_error = ""
        """What went wrong last in the loop itself, models' own troubles aside."""

    # -- the thread ----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and not self._stop.is_set()

    @property
    def alive(self) -> bool:
        """False when the loop was started and its thread is dead, or nothing but failing, without having been stopped."""
        thread = self._thread
        return thread is None or (thread.is_alive() and self._bad_steps < _ALIVE_FAILURES)

    def start(self) -> None:
        """Idempotent: there is one thread, which does not depend on the thread that started it."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stop.clear()
            self._bad_steps = 0
            self._thread = threading.Thread(target=self._run, name="everloop-learning", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait for the step at hand, save every learner, give the leases back. Fits in flight are cancelled and start anew
        with the next `start`. Idempotent."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for seat in list(self._seats.values()):
            with seat.lock:
                self._leave(seat, save=True)

    def close(self) -> None:
        """`stop`, and end the fitting processes."""
        self.stop()
        self._fitter.close()

    def wake(self, model: str | None = None) -> None:
        """There is something to do, for this model or for some."""
        seat = self._seats.get(model) if model is not None else None
        if seat is not None:
            seat.called = True
        else:
            for other in list(self._seats.values()):
                other.called = True
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            self._wake.clear()
            try:
                did = self.step()
                self._bad_steps = 0
            except Exception as error:  # the stores may be away for a while; the loop must not be
                self._bad_steps += 1
                self.last_error = error.message if isinstance(error, EverloopError) else explain(error)
                self._clock.wait(stop, backoff(self._bad_steps, self._rng))
                continue
            if did:
                self._clock.wait(stop, _PAUSE)
            else:
                self._clock.wait(self._wake, _IDLE)

    # -- work ----------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One slice of work for each model; True if anything was done. Raises what the stores raise."""
        self._sync()
        did = False
        for seat in list(self._seats.values()):
            if not seat.lock.acquire(blocking=False):
                continue
            try:
                did = self._turn(seat) or did
            finally:
                seat.lock.release()
            if did and self._thread is threading.current_thread():
                self._clock.wait(self._stop, _PAUSE)
        self._fitter.tidy()
        return did

    def settle(self, timeout: float = 60.0) -> None:
        """Step until there is nothing to do and no fit is in flight: for tests, replays and scripts that do not `start`."""
        until = self._clock.monotonic() + timeout
        while True:
            self.wake()
            self._wake.clear()
            if self.step():
                continue
            if not any(seat.trainer is not None and seat.trainer.is_training for seat in self._seats.values()):
                return
            if self._clock.monotonic() > until:
                raise Conflict(f"the learners did not settle within {timeout:g} s")
            self._wake.wait(0.05)

    def train_now(self, model: str) -> VersionRecord:
        """Fit this model on everything there is, now, and publish it unless it is unusable.

        Raises ModelNotFound, InvalidInput (nothing to train on), FitFailed, Conflict (another process learns it)."""
        self._sync(force=True)
        seat = self._seats.get(model)
        if seat is None:
            self._registry.get(model)
            raise ModelNotFound.named(model, self._seats)
        with seat.lock:
            if not self._lead(seat):
                raise Conflict(
                    f"model {model!r} is being learned by another process; ask that one, or stop it first",
                    field="model",
                )
            trainer = self._trainer(seat)
            if trainer is None:
                raise InvalidInput(
                    f"model {model!r} has no labelled examples yet: there is nothing to train on", field="model"
                )
            try:
                return trainer.train_now()
            finally:
                self._count(seat, trainer)

    # -- models --------------------------------------------------------------------------------------------------------

    def add(self, model: str) -> None:
        """Take up a model at once. Models in the catalog are found anyway, a little later."""
        self._removed.pop(model, None)
        self._sync(force=True)
        self.wake(model)

    def attach(self, model: str, learner: Learner) -> None:
        """The live learner of a model that was registered in this process, instead of what the catalog can rebuild."""
        self._attached[model] = learner

    def remove(self, model: str) -> None:
        """Stop learning this model and forget its learner; waits for its step at hand. Unknown names are fine."""
        with self._lock:
            seat = self._seats.pop(model, None)
            self._attached.pop(model, None)
            if seat is not None:
                self._removed[model] = seat.record.created_at
        if seat is not None:
            with seat.lock:
                seat.gone = True
                self._leave(seat, save=False)

    def backlog(self, model: str) -> int:
        """Acknowledged examples that the learner has not taken yet; 0 for a model that does not learn."""
        seat = self._seats.get(model)
        if seat is None:
            return 0
        trainer = seat.trainer
        if trainer is None:
            checkpoint = self._journal.load_checkpoint(model)
            return self._journal.count_examples(model, after=checkpoint.cursor if checkpoint else 0)
        if not trainer.learns:
            return 0
        return max(0, self._journal.examples_total(model) - seat.taken)

    def status(self, model: str) -> LearnerStatus:
        """Raises ModelNotFound."""
        seat = self._seats.get(model)
        if seat is None:
            self._registry.get(model)
            return LearnerStatus()
        trainer = seat.trainer
        if trainer is None:
            return LearnerStatus(backlog=self.backlog(model), last_error=seat.last_error)
        memory = trainer.memory
        drift = memory.examiner.report()
        if memory.alarm is not None:
            drift["last"] = msgspec.to_builtins(memory.alarm)
        return LearnerStatus(
            is_training=trainer.is_training,
            learns_here=seat.leads,
            backlog=self.backlog(model),
            examples_learned=memory.learned,
            window=len(memory.window),
            quality=memory.examiner.quality.report(),
            drift=drift,
            failures=memory.progress.failures,
            last_error=seat.last_error or trainer.last_error,
            last_fit=memory.fit_at,
        )

    # -- one model's turn ----------------------------------------------------------------------------------------------

    def _turn(self, seat: _Seat) -> bool:
        now = self._clock.monotonic()
        if seat.gone or now < seat.rest_until or not (seat.called or seat.changed or now >= seat.look_at):
            return False
        seat.called, seat.look_at = False, now + _LOOK_AGAIN
        try:
            if not self._lead(seat):
                return False
            trainer = self._trainer(seat)
            if trainer is None:
                return False
            if seat.changed:
                seat.changed = False
                trainer.refresh(seat.record)
            did = trainer.step()
            self._count(seat, trainer)
        except Exception as error:
            self._trouble(seat, error)
            return False
        if did:
            seat.called = True
            seat.troubles, seat.last_error = 0, ""
        return did

    def _lead(self, seat: _Seat) -> bool:
        """Hold the model's lease, or take it; whether we do."""
        now = self._clock.monotonic()
        if seat.leads and now < seat.renew_at:
            return True
        had = seat.leads
        seat.leads = self._journal.acquire_lease(
            f"learn:{seat.record.name}", self._owner, now=self._clock.now(), ttl=LEASE_TTL
        )
        late = now >= seat.renew_at - LEASE_RENEW + LEASE_TTL
        seat.renew_at = now + LEASE_RENEW
        doubtful = not seat.leads or not had or late
        if seat.trainer is not None and doubtful and (not seat.leads or self._overtaken(seat.trainer)):
            seat.trainer.close()
            seat.trainer = None
        return seat.leads

    def _overtaken(self, trainer: ModelTrainer) -> bool:
        """Whether somebody else has learned since this trainer's last checkpoint."""
        return self._journal.load_checkpoint(trainer.name) != trainer.checkpoint

    def _trainer(self, seat: _Seat) -> ModelTrainer | None:
        """The model's trainer, made at its first examples; None as long as it has no schema."""
        if seat.trainer is not None:
            return seat.trainer
        record = seat.record
        if record.schema is None or record.target is None:
            record = seat.record = self._registry.get(record.name)
            if record.schema is None or record.target is None:
                return None
        trainer = ModelTrainer(
            record,
            self._learner(record),
            registry=self._registry,
            journal=self._journal,
            publisher=self._publisher,
            fitter=self._fitter,
            config=self._config,
            tell=self._teller(record.name),
            clock=self._clock,
            rng=self._rng,
            wake=lambda: self.wake(record.name),
        )
        trainer.restore()
        seat.trainer, seat.changed = trainer, True
        self._count_anew(seat, trainer)
        return trainer

    def _learner(self, record: ModelRecord) -> Learner | None:
        attached = self._attached.get(record.name)
        if attached is not None:
            return attached.clone()
        from everloop.learning.learners.make import from_record

        return from_record(record.kind, record.parameters, self._registry.template(record.name), trust=self._trust)

    def _count(self, seat: _Seat, trainer: ModelTrainer) -> None:
        seat.taken = seat.base + trainer.memory.learned

    def _count_anew(self, seat: _Seat, trainer: ModelTrainer) -> None:
        name = seat.record.name
        while True:
            total = self._journal.examples_total(name)
            behind = self._journal.count_examples(name, after=trainer.cursor)
            if self._journal.examples_total(name) == total:
                break
        seat.base = total - behind - trainer.memory.learned
        self._count(seat, trainer)

    def _leave(self, seat: _Seat, *, save: bool) -> None:
        trainer, name = seat.trainer, seat.record.name
        if trainer is not None:
            if save and seat.leads:
                try:
                    trainer.save()
                except EverloopError as error:  # nothing is lost: the examples after the old checkpoint are replayed
                    seat.last_error = error.message
            trainer.close()
            seat.trainer = None
        if seat.leads:
            seat.leads = False
            try:
                self._journal.release_lease(f"learn:{name}", self._owner)
            except Closed:  # it runs out by itself
                return

    def _trouble(self, seat: _Seat, error: Exception) -> None:
        seat.troubles += 1
        wait = backoff(seat.troubles, self._rng)
        seat.rest_until = self._clock.monotonic() + wait
        message = error.message if isinstance(error, EverloopError) else explain(error)
        if message == seat.last_error:
            return  # once is enough on the timeline
        seat.last_error = message
        self._teller(seat.record.name)(
            "learner_failed", f"learning stumbled and will go on in {wait:.1f} s: {message}", failures=seat.troubles
        )

    def _teller(self, model: str) -> Callable[..., None]:
        def tell(kind: EventKind, message: str, version: int | None = None, **numbers: Any) -> None:
            event = Event(model, kind, self._clock.now(), message, version, numbers)
            self._journal.log(event)
            self._bus.emit(event)

        return tell

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
                    self._seats[name] = _Seat(record)
                elif there.record != record:
                    there.record, there.changed = record, True
        for seat in gone:
            with seat.lock:
                seat.gone = True
                self._leave(seat, save=False)
