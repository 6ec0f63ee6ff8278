"""From the decision to fit to a version that serves, or to the reason why not: one model's challengers and their champion.

    start ──plan, submit──> fit in flight ──collect──> fit_failed   back off, the examples stay
                                                  ├──> rejected     the champion is as good
                                                  └──> published    live, going out, or staging without auto_swap
    snapshot ──────────── the same verdicts, of an incremental learner as it stands
    follow   ──────────── what became of the one that went out (`going_out`)

- A fit judged against a champion that has been replaced meanwhile is thrown away, and so is one that would have to wait for a rollout
  that somebody has started meanwhile: it is begun again when that has ended.
- The first version always serves at once: `auto_swap=False` keeps challengers waiting, and there is nobody to challenge.
- While one waits or is out, a further fit has to beat it as well: otherwise each would be one more that waits.
- While one is out, only what recovers from a newer change of the world is fitted; it takes the place of what is out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, FitFailed
from everloop.core.events import EventKind
from everloop.learning.apprentice import Apprentice
from everloop.learning.challenge import FitJob, FitResult, judge_snapshot
from everloop.learning.champion import Champion
from everloop.learning.config import LearningConfig
from everloop.learning.examiner import floor_of
from everloop.learning.fitting import Fitter, Fitting
from everloop.learning.going_out import GoingOut
from everloop.learning.learners.base import Learner
from everloop.learning.memory import Memory
from everloop.learning.planning import Plan, plan_fit
from everloop.learning.publisher import Publisher
from everloop.policy.promotion import LEAST_ROWS
from everloop.policy.retraining import Decision, backoff
from everloop.registry.catalog import Registry
from everloop.stores.ports import Journal, ModelRecord, VersionRecord


class Tell(Protocol):
    """One event of this model, to the journal and the bus."""

    def __call__(self, kind: EventKind, message: str, version: int | None = None, **numbers: Any) -> None: ...


@dataclass
class _Flight:
    fitting: Fitting
    plan: Plan
    reason: str
    champion: int | None
    """The version it is judged against."""
    recovering: bool
    force: bool


class Campaign:
    """Owned by a trainer, whose memory it changes."""

    def __init__(
        self,
        record: ModelRecord,
        learner: Learner | None,
        *,
        registry: Registry,
        journal: Journal,
        publisher: Publisher,
        fitter: Fitter,
        tell: Tell,
        clock: Clock,
        rng: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self.name = record.name
        self.record = record
        self.last_error = ""
        """Of the last fit, if it failed; a verdict that says no is none."""
        self.last_verdict = ""
        """Why the last challenger does not serve; empty if it does."""
        self._learner = learner
        self._registry = registry
        self._publisher = publisher
        self._fitter = fitter
        self._tell = tell
        self._clock = clock
        self._rng = rng
        self._wake = wake
        self._flight: _Flight | None = None
        self._out = GoingOut(record.name, registry, journal, clock)

    @property
    def in_flight(self) -> bool:
        return self._flight is not None

    def hindered(self, memory: Memory, decision: Decision) -> bool:
        """Whether this fit has to wait for a rollout, whoever started it."""
        return self._out.hinders(recovering=decision.recovering, cut_id=memory.cut_id)

    def follow(self) -> bool:
        """Whether something has become of a version that went out."""
        verdict = self._out.follow(self.record)
        if verdict is None:
            return False
        self.last_verdict = verdict
        return True

    # -- fits ----------------------------------------------------------------------------------------------------------

    def start(self, memory: Memory, decision: Decision, config: LearningConfig, *, force: bool = False) -> bool:
        """Begin a fit; False where it could prove nothing yet, or has but one class to learn."""
        learner, champion = self._learner, memory.examiner.champion
        assert learner is not None
        if memory.target.task == "classification" and not force and not memory.window.varied:
            return False
        rivals = [rival for rival in (champion, None if force else self._out.rival) if rival is not None]
        plan = plan_fit(
            memory.window,
            memory.validation,
            trained_until=max(known.last_id for known in rivals) if rivals else None,
            cut_id=memory.cut_id,
            config=config,
            weight=learner.weight,
            rate=memory.fit_rate,
            width=len(memory.schema.fields),
            force=force,
        )
        if plan is None:
            return False
        reason = "asked" if force else str(decision.reason)
        memory.before = replace(memory.progress)
        memory.mark_fit(self._clock)
        count = len(plan.train) + len(plan.held)
        self._tell(
            "fit_started",
            f"fitting {count} examples ({reason})",
            reason=reason,
            examples=count,
            held_out=len(plan.held),
            validation=len(plan.validation),
            windows=plan.lengths,
            where="process" if plan.heavy else "thread",
        )
        fitting = self._fitter.submit(
            lambda: _job(learner, memory, plan, rivals, config=config, recovering=decision.recovering, force=force),
            heavy=plan.heavy,
            wake=self._wake,
            name=self.name,
        )
        against = champion.version if champion else None
        self._flight = _Flight(fitting, plan, reason, against, decision.recovering, force)
        return True

    def collect(self, memory: Memory, config: LearningConfig) -> bool:
        """Take the result of a fit that has ended; whether there was one."""
        flight = self._flight
        if flight is None or not flight.fitting.done:
            return False
        champion = memory.examiner.champion
        overtaken = not flight.force and self._out.hinders(recovering=flight.recovering, cut_id=memory.cut_id)
        if overtaken or flight.champion != (champion.version if champion else None):
            self.drop(memory)
            return True
        self._flight = None
        self._finish(memory, flight, config)
        return True

    def finish_now(self, memory: Memory, config: LearningConfig) -> VersionRecord:
        """Wait for a forced fit. Raises FitFailed."""
        flight, self._flight = self._flight, None
        assert flight is not None
        flight.fitting.wait()
        version = self._finish(memory, flight, config)
        if version is None:
            raise FitFailed(
                f"the fit of {self.name!r} gave nothing that can serve: {self.last_error or self.last_verdict}"
            )
        return version

    def drop(self, memory: Memory) -> None:
        """Forget a fit in flight, as if it had not been started."""
        if self._flight is None:
            return
        self._flight.fitting.cancel()
        self._flight = None
        memory.progress, memory.before = memory.settled_progress(), None

    def _finish(self, memory: Memory, flight: _Flight, config: LearningConfig) -> VersionRecord | None:
        before, memory.before = memory.before, None
        try:
            result, learner = flight.fitting.result()
            if result.state is not None and self._learner is not None:
                learner = self._learner.clone()
                learner.restore(result.state)
        except EverloopError as error:
            self._fit_failed(memory, error, fitted_before=before.fitted_since_change if before else 0)
            if flight.force:
                raise
            return None
        memory.progress.failures, memory.progress.retry_at = 0, None
        memory.fit_rate = result.fit_seconds / max(result.length, 1)
        self._tell(
            "fitted",
            f"fitted {result.count} examples in {result.seconds:.3g} s in a {result.where}",
            examples=result.count,
            seconds=result.seconds,
            where=result.where,
            windows=result.tried,
        )
        publish = result.payload is not None
        if learner is not None and learner.incremental and (publish or memory.apprentice is None):
            memory.apprentice = Apprentice(learner, memory.target, first_id=result.first_id, last_id=result.last_id)
        if not publish:
            if flight.plan.cut is not None and memory.apprentice is not None and memory.apprentice.unpublished:
                # The old apprentice has learned on meanwhile, and some adapt by themselves.
                snapshot = self._judged_snapshot(memory, config, recovering=True)
                if snapshot.payload is not None:
                    return self._publish_snapshot(memory, snapshot, flight.reason, config)
            self._reject(memory, result)
            return None
        try:
            version = self._publish(memory, result, flight.reason, config, seen=flight.plan.seen)
        except EverloopError as error:  # the disk is full, say: all that is lost is the fit
            self._fit_failed(memory, error, fitted_before=before.fitted_since_change if before else 0)
            if flight.force:
                raise
            return None
        if flight.plan.cut is not None:
            if result.length == flight.plan.cut:
                memory.window.cut(memory.cut_id)
            else:  # all of history makes the better model: nothing of substance has changed
                memory.cut_id, memory.progress.since_change = 0, None
        return version

    def _fit_failed(self, memory: Memory, error: EverloopError, *, fitted_before: int) -> None:
        progress = memory.progress
        progress.failures += 1
        wait = backoff(progress.failures, self._rng)
        progress.retry_at = self._clock.monotonic() + wait
        progress.fitted_since_change = fitted_before
        self.last_error = error.message
        self._tell(
            "fit_failed",
            f"the fit failed and will be tried again in {wait:.1f} s: {error.message}",
            error=error.message,
            failures=progress.failures,
            retry_in=wait,
        )

    # -- snapshots of an incremental learner ---------------------------------------------------------------------------

    def snapshot(
        self, memory: Memory, decision: Decision, config: LearningConfig, *, force: bool = False
    ) -> VersionRecord | None:
        """Propose the apprentice as it stands. None where the verdict is no."""
        memory.mark_fit(self._clock)
        memory.progress.failures, memory.progress.retry_at = 0, None
        try:
            return self._snapshot(memory, decision, config, force=force)
        except EverloopError as error:
            self._fit_failed(memory, error, fitted_before=memory.progress.fitted_since_change)
            if force:
                raise
            return None

    def _snapshot(
        self, memory: Memory, decision: Decision, config: LearningConfig, *, force: bool
    ) -> VersionRecord | None:
        result = self._judged_snapshot(memory, config, recovering=decision.recovering, force=force)
        if result.payload is None:
            self._reject(memory, result)
            return None
        return self._publish_snapshot(memory, result, "asked" if force else str(decision.reason), config)

    def _judged_snapshot(
        self, memory: Memory, config: LearningConfig, *, recovering: bool, force: bool = False
    ) -> FitResult:
        assert memory.apprentice is not None
        return judge_snapshot(
            memory.apprentice,
            memory.window.newest(len(memory.window)),
            since=memory.cut_id,
            champion=memory.examiner.champion is not None,
            target=memory.target,
            rule=config.rule,
            threshold=config.validation_threshold,
            recovering=recovering,
            force=force,
        )

    def _publish_snapshot(
        self, memory: Memory, result: FitResult, reason: str, config: LearningConfig
    ) -> VersionRecord:
        assert memory.apprentice is not None
        memory.apprentice.unpublished = 0
        return self._publish(memory, result, reason, config)

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _publish(
        self, memory: Memory, result: FitResult, reason: str, config: LearningConfig, *, seen: bool = False
    ) -> VersionRecord:
        asked = self.record.live_version is None or reason == "asked"
        plan, by_hand = None, False
        if not asked and config.auto_swap:
            by_hand = self.record.allocation is not None and self._out.active is None
            recovering = reason in {"drift", "recovery"}
            plan = self._out.plan(self.record, config.rollout, recovering=recovering)
        live = asked or (config.auto_swap and not by_hand and plan is None)
        more: dict[str, Any] = {"held_out_seen_by_parent": True} if seen else {}
        if memory.cut_id:
            more["cut_id"] = memory.cut_id
        version = self._publisher.publish(
            self.name,
            result,
            task=memory.target.task,
            reason=reason,
            parent=self.record.live_version,
            live=live,
            more=more,
            plan=None if by_hand else plan,
        )
        self.last_error = self.last_verdict = ""
        self.record = self._registry.get(self.name)
        unseen = result.unseen if len(result.unseen) >= LEAST_ROWS else []
        floor = floor_of(memory.target, memory.window.newest(1000))
        if live:
            self._adopt(memory, version, unseen=unseen, floor=floor)
        else:
            self._out.left(version, unseen, floor)
            if by_hand:
                self.last_verdict = f"version {version.version} waits: the traffic is split by hand"
        return version

    def _reject(self, memory: Memory, result: FitResult) -> None:
        champion = memory.examiner.champion
        self.last_error, self.last_verdict = "", result.reason
        self._tell(
            "rejected",
            f"the challenger does not serve: {result.reason}",
            version=champion.version if champion else None,
            champion=result.champion,
            challenger=result.challenger,
            difference=result.difference,
            rows=result.n,
        )

    # -- the champion --------------------------------------------------------------------------------------------------

    def adopt_live(self, memory: Memory) -> bool:
        """Test whatever serves now; whether that has changed."""
        live, champion = self.record.live_version, memory.examiner.champion
        if live == (champion.version if champion else None):
            return False
        unseen, floor = self._out.arrived(live)
        if live is None:
            memory.examiner.adopt(None, since=memory.cursor + 1)
        else:
            self._adopt(memory, self._registry.version(self.name, live), unseen=unseen, floor=floor)
        return True

    def _adopt(
        self, memory: Memory, version: VersionRecord, *, unseen: list[float] | None = None, floor: float = 0.0
    ) -> None:
        try:
            champion = Champion(version, self._registry.open_session(version))
        except EverloopError as error:
            self.last_error = f"version {version.version} cannot be opened to be tested: {error.message}"
            self._tell("learner_failed", self.last_error, version=version.version)
            memory.examiner.adopt(None, since=memory.cursor + 1)
            return
        before = memory.examiner.champion
        memory.examiner.adopt(champion, since=memory.cursor + 1, unseen=unseen or (), floor=floor)
        if (
            before is not None and before.origin == champion.origin
        ):  # what was judged against the one holds for the other
            if self._flight is not None and self._flight.champion == before.version:
                self._flight.champion = champion.version
        elif memory.apprentice is not None:
            memory.apprentice.new_champion()


def _job(
    learner: Learner,
    memory: Memory,
    plan: Plan,
    rivals: list[Champion],
    *,
    config: LearningConfig,
    recovering: bool,
    force: bool,
) -> FitJob:
    """On the fit's own thread: the losses of the champion, and of a challenger that waits, may take a while."""
    against = None
    if rivals:
        judged = plan.held.joined(plan.validation)
        theirs = [rival.losses(memory.target, judged.rows, judged.labels) for rival in rivals]
        against = min(theirs, key=lambda each: float(np.where(np.isfinite(each), each, np.inf).sum()))
    return FitJob(
        learner=learner,
        schema=memory.schema,
        target=memory.target,
        train=plan.train,
        held=plan.held,
        validation=plan.validation,
        lengths=plan.lengths,
        champion=against,
        rule=config.rule,
        threshold=config.validation_threshold,
        recovering=recovering,
        force=force,
    )
