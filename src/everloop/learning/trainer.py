"""One model's learning: takes its labelled examples in order, tests, trains, notices drift, decides when to fit.

    journal ──examples──> test (examiner) ──alarm──> where the concept changed
                            │  then train (window, apprentice)
                            v
                     policy.retraining.decide ──> campaign: fit, judge, publish | reject
                            │
                            └──> checkpoint: the cursor and all that depends on it, in one save

- `step` never waits for a fit and does about a millisecond of Python at a time.
- An incremental learner is fitted once; later versions are snapshots of it. After a drift alarm a fresh one is fitted to the
  examples since the change, again and again as they become more, until one wins: it then takes the old one's place.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from everloop.core.clock import Clock
from everloop.core.errors import FitFailed, InvalidInput, ModelUntrained, Untrusted, explain
from everloop.core.types import Example
from everloop.learning.apprentice import Apprentice
from everloop.learning.campaign import Campaign, Tell
from everloop.learning.config import LearningConfig, effective
from everloop.learning.examiner import Alarm
from everloop.learning.fitting import Fitter
from everloop.learning.inputs import InputWatch
from everloop.learning.learners.base import Learner
from everloop.learning.memory import Memory
from everloop.learning.publisher import Publisher
from everloop.learning.scorer import Scorer
from everloop.learning.telling import QualityTeller
from everloop.policy.retraining import Decision, backoff, decide
from everloop.registry.catalog import Registry
from everloop.runtime.session import Session
from everloop.stores.ports import Checkpoint, Journal, ModelRecord, VersionRecord

_CHUNK = 256
_LEAST_CHUNK = 64
"""Of a learner that only remembers them, so many examples take a millisecond on a slow machine."""
_SLICE_SECONDS = 0.001
_SLICE_SECONDS_BEHIND = 0.004
"""After `_BEHIND` slices that were full. Each slice pays several times for getting the interpreter back from threads that are
busy with predictions: with small ones a learner under load would never catch up, and labels be refused for it."""
_BEHIND = 8
_SAVE_EVERY = 1.0
"""Seconds between checkpoints while examples come. What came after the last is replayed after a crash."""
_SAVE_SHARE = 50
"""A large learner is saved more rarely: saving shall take no more than one fiftieth of the time."""


class ModelTrainer:
    """Owned by the learning loop, which calls it from one thread at a time."""

    def __init__(
        self,
        record: ModelRecord,
        learner: Learner | None,
        *,
        registry: Registry,
        journal: Journal,
        publisher: Publisher,
        fitter: Fitter,
        config: LearningConfig,
        tell: Tell,
        clock: Clock,
        rng: random.Random,
        wake: Callable[[], None],
        cpu: Callable[[], float],
        open_other: Callable[[VersionRecord], Session],
    ) -> None:
        """`record` has a schema and a target. `learner`: unfitted; None for a model that is only watched. `cpu`: seconds of
        processor time that this thread has used. `open_other`: opens a version that does not serve."""
        assert record.schema is not None
        assert record.target is not None
        self.name = record.name
        self._learner = learner
        self._journal = journal
        self._base = config
        self._tell = tell
        self._clock = clock
        self._rng = rng
        self._cpu = cpu
        self._kind = learner.kind if learner else "none"
        self._memory = Memory(record.schema, record.target)
        self._scorer = Scorer(lambda number: open_other(registry.version(record.name, number)), clock, cpu)
        self._teller = QualityTeller(record.name, registry, tell)
        self._campaign = Campaign(
            record,
            learner,
            registry=registry,
            journal=journal,
            publisher=publisher,
            fitter=fitter,
            tell=tell,
            clock=clock,
            rng=rng,
            wake=wake,
        )
        self.inputs = InputWatch(record.name, record.schema, journal, clock)
        self._chunk = _CHUNK
        self._full = 0
        self._inputs_of: int | None = None
        self._dirty = False
        self._saved_at = clock.monotonic()
        self._save_every = _SAVE_EVERY
        self._error = ""
        self.checkpoint: Checkpoint | None = None
        """The last one that this trainer wrote or read."""

    @property
    def cursor(self) -> int:
        return self._memory.cursor

    @property
    def learns(self) -> bool:
        return self._learner is not None

    @property
    def is_training(self) -> bool:
        return self._campaign.in_flight

    @property
    def memory(self) -> Memory:
        """To look at."""
        return self._memory

    @property
    def last_error(self) -> str:
        return self._error or self._campaign.last_error

    @property
    def last_verdict(self) -> str:
        """Why the last challenger does not serve; empty if it does."""
        return self._campaign.last_verdict

    def config(self) -> LearningConfig:
        """What holds now. Raises InvalidInput."""
        return effective(self._base, self._campaign.record.learning)

    # -- beginning and end ---------------------------------------------------------------------------------------------

    def restore(self, trained: Learner | None = None) -> None:
        """Take up the last checkpoint; what came after its cursor is then read as new. One that cannot be restored costs a
        replay of the examples that the journal retains, and is told.

        `trained`: where there is no checkpoint yet but a version serves that came with the model, the learner that it is of:
        an incremental one learns on from there."""
        limit = self.config().window
        self.checkpoint = checkpoint = self._journal.load_checkpoint(self.name)
        if checkpoint is not None:
            try:
                self._memory = Memory.load(
                    checkpoint,
                    model=self.name,
                    schema=self._memory.schema,
                    target=self._memory.target,
                    learner=self._learner,
                    kind=self._kind,
                    journal=self._journal,
                    clock=self._clock,
                    limit=limit,
                )
            except Exception as error:  # a damaged or foreign checkpoint may raise anything
                reason = explain(error)
                self._failed(f"the checkpoint cannot be restored ({reason}): learning anew from the retained examples")
        self._memory.examiner.scorer = self._scorer
        self._campaign.adopt_live(self._memory)
        champion = self._memory.examiner.champion
        if champion is not None:
            self._memory.forget_what_is_known_to(champion.last_id)
            if checkpoint is None and champion.last_id == 0 and trained is not None and trained.incremental:
                self._learn_on(trained)

    def _learn_on(self, trained: Learner) -> None:
        try:
            state = trained.dump()
        except (ModelUntrained, Untrusted):
            return
        if not state:
            return
        own = trained.clone()
        own.restore(state)
        self._memory.apprentice = Apprentice(own, self._memory.target, first_id=0, last_id=0)

    def save(self) -> None:
        """Write a checkpoint if anything changed since the last."""
        if not self._dirty:
            return
        started = self._cpu()
        state = self._memory.dump(self._kind, self._clock)
        self._save_every = max(_SAVE_EVERY, _SAVE_SHARE * (self._cpu() - started))
        self.checkpoint = Checkpoint(self._memory.cursor, state, self._clock.now())
        self._journal.save_checkpoint(self.name, self.checkpoint)
        self._dirty = False
        self._saved_at = self._clock.monotonic()

    def pause(self) -> None:
        """Stop caring for a fit in flight: it will be started again."""
        self._campaign.drop(self._memory)

    def close(self) -> None:
        """Does not save."""
        self.pause()
        if self._memory.examiner.champion is not None:
            self._memory.examiner.champion.close()
        self._scorer.close()

    def refresh(self, record: ModelRecord) -> None:
        """The catalog has changed: maybe another version serves now."""
        self._campaign.record = record
        self._dirty = self._campaign.adopt_live(self._memory) or self._dirty
        self._teller.settled(self._memory.examiner.quality)

    # -- one slice of work ---------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do a little; True if there was anything to do."""
        config = self.config()
        did = ended = self._campaign.collect(self._memory, config)
        ended = self._campaign.follow() or ended
        did = self._catch_up() or self._take(config) or did
        did = self._maybe_fit(config) or did
        self._watch_inputs(config)
        self._dirty = self._dirty or ended
        if self._dirty and (ended or self._clock.monotonic() - self._saved_at >= self._save_every):
            self.save()
        return did

    def train_now(self) -> VersionRecord:
        """Fit on everything there is and publish it, better or not, unless it is unusable; the verdict is in its lineage.

        Raises InvalidInput where there is nothing to learn from, FitFailed."""
        if self._learner is None:
            raise InvalidInput(
                f"model {self.name!r} is an artifact: it has no learner and cannot be trained", field="model"
            )
        config, memory, campaign = self.config(), self._memory, self._campaign
        campaign.drop(memory)
        while self._catch_up() or self._take(config):
            continue
        if len(memory.window) < 2:
            raise InvalidInput(
                f"model {self.name!r} has {len(memory.window)} labelled examples to train on: at least 2 are needed",
                field="model",
            )
        self._dirty = True
        try:
            asked = Decision("schedule")
            if memory.apprentice is not None:
                version = campaign.snapshot(memory, asked, config, force=True)
                assert version is not None
            elif campaign.start(memory, asked, config, force=True):
                version = campaign.finish_now(memory, config)
            else:
                raise FitFailed(f"model {self.name!r} cannot be fitted to {len(memory.window)} examples")
        finally:
            self.save()
        return version

    # -- test, then train ----------------------------------------------------------------------------------------------

    def _take(self, config: LearningConfig) -> bool:
        memory = self._memory
        started = self._cpu()  # not the clock's time: waiting for the interpreter is no work
        examples = self._journal.examples(self.name, after=memory.cursor, limit=self._chunk)
        if not examples:
            return False
        kept = memory.take(examples, config.window)
        answers, alarm = memory.examiner.test(kept, config)
        self._teller.known(memory.examiner.quality)
        if alarm is not None:
            self._alarmed(alarm)
        if memory.apprentice is not None and kept:
            self._learn(memory.apprentice, kept, answers)
        self._dirty = True
        self._full = self._full + 1 if len(examples) == self._chunk else 0
        fair = len(examples) * self._budget() / max(self._cpu() - started, 1e-6)
        least = _LEAST_CHUNK if memory.apprentice is None else 1
        self._chunk = max(least, min(_CHUNK, int(fair)))
        return True

    def _budget(self) -> float:
        return _SLICE_SECONDS if self._full < _BEHIND else _SLICE_SECONDS_BEHIND

    def _learn(self, apprentice: Apprentice, examples: list[Example], answers: list[Any]) -> None:
        try:
            apprentice.learn(examples, answers)
        except Exception as error:
            self._lose_apprentice(error)

    def _catch_up(self) -> bool:
        """Let a new apprentice learn what came while it was being fitted."""
        memory = self._memory
        apprentice = memory.apprentice
        if apprentice is None or apprentice.last_id >= memory.window.last_id:
            return False
        part = memory.window.newest(memory.window.count_from(apprentice.last_id + 1))
        try:
            apprentice.catch_up(part.part(0, self._chunk))
        except Exception as error:
            self._lose_apprentice(error)
        self._dirty = True
        return True

    def _lose_apprentice(self, error: Exception) -> None:
        """Half an update may be in it: nothing but a fresh fit will do. The examples are all there."""
        progress = self._memory.progress
        self._memory.apprentice = None
        progress.failures += 1
        progress.retry_at = self._clock.monotonic() + backoff(progress.failures, self._rng)
        self._failed(f"the learner raised while learning and will be fitted anew: {explain(error)}")

    def _alarmed(self, alarm: Alarm) -> None:
        memory = self._memory
        memory.alarm = alarm
        if self._learner is not None:
            memory.cut_id = alarm.cut_id
            self._campaign.drop(memory)  # whatever is being fitted was fitted to the world before
            memory.progress.fitted_since_change = 0
        noun = "error rate" if memory.target.task == "classification" else "mean absolute error"
        champion = memory.examiner.champion
        self._tell(
            "drift",
            f"{noun} rose from {alarm.before:.4g} to {alarm.after:.4g} about {alarm.since} examples ago",
            version=champion.version if champion else None,
            cut_id=alarm.cut_id,
            since=alarm.since,
            before=alarm.before,
            after=alarm.after,
            detectors=list(alarm.detectors),
        )

    # -- when to fit ---------------------------------------------------------------------------------------------------

    def _maybe_fit(self, config: LearningConfig) -> bool:
        campaign = self._campaign
        if self._learner is None or campaign.in_flight:
            return False
        memory, progress = self._memory, self._memory.progress
        progress.examples = len(memory.window)
        progress.champion = campaign.record.live_version is not None
        progress.since_change = memory.window.count_from(memory.cut_id) if memory.cut_id else None
        if progress.since_change is not None and progress.since_change >= config.window:
            progress.since_change, memory.cut_id = None, 0
        decision = decide(
            progress, min_samples=config.min_samples, interval_sec=config.interval_sec, now=self._clock.monotonic()
        )
        if not decision.fit or campaign.hindered(memory, decision):
            return False
        apprentice = memory.apprentice
        if apprentice is None or (decision.recovering and apprentice.first_id < memory.cut_id):
            return campaign.start(memory, decision, config)
        if apprentice.unpublished == 0:
            return False
        self._dirty = True
        campaign.snapshot(memory, decision, config)
        self.save()
        return True

    def _watch_inputs(self, config: LearningConfig) -> None:
        if not config.drift_detection or getattr(self._learner, "identities", False):
            return
        champion = self._memory.examiner.champion
        version = champion.version if champion is not None else None
        origin = champion.origin if champion is not None else None
        if origin != self._inputs_of:
            self._inputs_of = origin
            window = self._memory.window
            known = len(window) - window.count_from((champion.last_id if champion is not None else 0) + 1)
            self.inputs.refer_to(window.newest(len(window)).part(0, known))
        report = self.inputs.step()
        if report is None:
            return
        drifted = [feature for feature in report.features if feature.drifted]
        worst = max(drifted, key=lambda feature: feature.statistic)
        others = f" and {len(drifted) - 1} more" if len(drifted) > 1 else ""
        self._tell(
            "input_drift",
            f"the inputs have changed: {worst.name} (by {worst.statistic:.2f} of at most 1){others}",
            version=version,
            features={feature.name: feature.statistic for feature in drifted},
            reference_rows=report.reference_rows,
            rows=report.current_rows,
        )

    def _failed(self, message: str) -> None:
        self._error = message
        self._tell("learner_failed", message)
