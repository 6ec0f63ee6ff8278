"""The controller: lets each active rollout go where its evidence leads.

    this process's counts ──report──┐
    other processes' ───────report──┼─► docket ─► gates ─► policy.rollout.decide ─► Rollouts.act ─► registry ─► reconcilers
    labels, from the journal ───────┘   (only where the lease `rollout:<model>` is held)

Rules.

1. Every process that serves reports what it has seen, about once a second, and at once what a guard or a reader must know: an answer
   that was no answer, a challenger that cannot be opened or hangs. One process, the holder of the lease, decides.
2. The lease only saves work. What keeps two controllers from both acting is the rollout's revision, which every save and every action
   compares and sets.
3. A docket is saved before what it led to is done, so that who reads the timeline finds the numbers, and a restart goes on.
4. Stores may be away, models unregistered, rollouts ended by a person, at any point: that rollout is looked at again a little later.

Where no rollout is active, a look is one poll of the registry's revision.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import ArtifactCorrupt, Closed, Conflict, EverloopError, ModelFailed, ModelNotFound, explain
from everloop.core.stepping import StepThread
from everloop.core.types import Example, Row
from everloop.policy.gates import GateVerdict
from everloop.policy.retraining import backoff
from everloop.policy.rollout import Decision, Rollout, decide
from everloop.registry.rollouts import Rollouts
from everloop.serving.docket import FRESH_SECONDS, Docket, Sighting, comparable
from everloop.serving.evidences import Evidences
from everloop.stores.ports import Journal, Report

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry
    from everloop.serving.comparison import Shown

TICK = 0.25
"""Seconds between two looks."""
_AT_ONCE = 0.02
"""Least seconds between two looks that something urgent asked for."""
_REPORT = 1.0
_BEAT = 3.0
"""Seconds between two reports: with news, and without."""
_SAVE = 1.0
LEASE_TTL = 10.0
LEASE_RENEW = 3.0
_ASK_AGAIN = 2.0
_LABELS = 1_000
_CHUNKS = 5
_PAIRS = 64
_PATIENCE = 1.0
"""Labels read at a time, and how many times in one look: the rest waits for the next. A shadow is asked about so many of them, and
waited for so many seconds."""


class Shadows(Protocol):
    """The shadows of this process."""

    def observed(self, model: str, version: int) -> Shown | None:
        """What it has done so far; None where there is none."""

    def answers(self, model: str, version: int, rows: Sequence[Row], time_limit: float) -> list[Any] | None:
        """An answer a row, a ModelFailed where it failed; None where there is none. Raises ModelFailed."""


@dataclass
class _Desk:
    """What this process has at hand for one rollout."""

    rollout: Rollout
    reported: Sighting | None = None
    reported_at: float = -1e9
    leads: bool = False
    ask_at: float = -1e9
    docket: Docket | None = None
    saved: bytes = b""
    saved_at: float = -1e9
    verdicts: list[GateVerdict] = field(default_factory=list)
    judged: Any = None
    """The findings that `verdicts` are of."""
    read: dict[str, tuple[Report, Sighting]] = field(default_factory=dict)
    """Source -> its report as last read."""
    troubles: int = 0
    trouble: str = ""
    rest_until: float = -1e9

    def drop(self) -> None:
        """Somebody else may have gone on from the docket that was saved."""
        self.docket, self.judged, self.saved = None, None, b""


class Controller:
    """Safe from any thread. Does nothing by itself until `start`; `step` may be called by hand instead."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        evidences: Evidences,
        clock: Clock,
        *,
        owner: str,
        shadows: Shadows | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`owner`: names this process among all that share the journal."""
        self._registry = registry
        self._rollouts = Rollouts(registry)
        self._journal = journal
        self._evidences = evidences
        self._clock = clock
        self._owner = owner
        self._shadows = shadows
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing
        self._stepping = threading.Lock()
        self._desks: dict[str, _Desk] = {}
        self._seen: int | None = None
        self._thread = StepThread(
            "everloop-controller",
            self.step,
            self._rest,
            clock=clock,
            backoff=lambda failures: backoff(failures, self._rng),
            news=(registry.subscribe_changes, evidences.subscribe),
        )

    # -- the thread ----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """False when it was started and its thread is dead, or nothing but failing, without having been stopped."""
        return self._thread.alive

    @property
    def last_error(self) -> str:
        """What went wrong last."""
        return self._thread.last_error

    @property
    def stuck(self) -> dict[str, str]:
        """Model -> why its rollout cannot be looked at now. Safe from any thread."""
        return {name: desk.trouble for name, desk in self._desks.copy().items() if desk.troubles}

    def start(self) -> None:
        """Idempotent: there is one thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, report a last time, give the leases back. Idempotent."""
        self._thread.stop()
        with self._stepping:
            for desk in self._desks.values():
                try:
                    self._report(desk)
                    self._save(desk)
                except EverloopError as error:  # the next process goes on from the report before
                    self._thread.last_error = explain(error)
                self._give_up(desk)
            self._desks.clear()
            self._seen = None

    def wake(self) -> None:
        """There is something to look at now. Does not block."""
        self._thread.wake.set()

    def _rest(self, _acted: bool) -> None:
        if self._clock.wait(self._thread.wake, TICK):
            self._clock.wait(self._thread.stopping, _AT_ONCE)

    # -- a look --------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Look once at each active rollout; True if any was acted on. Raises what the stores raise."""
        with self._stepping:
            self._sync()
            acted = [self._attend(desk) for desk in list(self._desks.values())]
            return any(acted)

    def _sync(self) -> None:
        revision = self._registry.revision()
        if revision == self._seen:
            return
        active = {rollout.model: rollout for rollout in self._rollouts.active()}
        for name, desk in list(self._desks.items()):
            if name not in active or active[name].id != desk.rollout.id:
                self._give_up(desk)
                del self._desks[name]
        for name, rollout in active.items():
            desk = self._desks.setdefault(name, _Desk(rollout))
            desk.rollout = rollout
        self._seen = revision

    def _attend(self, desk: _Desk) -> bool:
        if self._clock.monotonic() < desk.rest_until:
            return False
        try:
            self._report(desk)
            acted = self._leads(desk) and self._judge(desk)
        except (Conflict, ModelNotFound):  # somebody has acted meanwhile, or the model is gone
            self._seen = None
            desk.drop()
            return True
        except Exception as error:
            desk.troubles += 1
            desk.rest_until = self._clock.monotonic() + backoff(desk.troubles, self._rng)
            desk.drop()
            desk.trouble = explain(error)
            self._thread.last_error = f"rollout of {desk.rollout.model!r}: {desk.trouble}"
            return False
        desk.troubles = 0
        return acted

    def _report(self, desk: _Desk) -> None:
        rollout = desk.rollout
        evidence = self._evidences.of(rollout.model, rollout.id)
        shadow = rollout.plan.strategy == "shadow" and self._shadows is not None
        shown = self._shadows.observed(rollout.model, rollout.challenger) if shadow and self._shadows else None
        if evidence is None and shown is None:
            return
        sighting = Sighting() if evidence is None else Sighting(evidence.observed())
        sighting.shown = shown
        now = self._clock.monotonic()
        last = desk.reported
        pause = 0.0 if last is None or last.urgent != sighting.urgent else _BEAT if last == sighting else _REPORT
        if now - desk.reported_at < pause:
            return
        payload = sighting.encode()
        self._registry.catalog.put_report(
            rollout.model, rollout.id, Report(self._evidences.source, self._clock.now(), payload)
        )
        desk.reported, desk.reported_at = Sighting.decode(payload), now

    def _leads(self, desk: _Desk) -> bool:
        now = self._clock.monotonic()
        if now < desk.ask_at:
            return desk.leads
        had = desk.leads
        desk.leads = self._journal.acquire_lease(
            _lease(desk.rollout.model), self._owner, now=self._clock.now(), ttl=LEASE_TTL
        )
        if not desk.leads or not had or now > desk.ask_at + LEASE_TTL - LEASE_RENEW:
            desk.drop()
        desk.ask_at = now + (LEASE_RENEW if desk.leads else _ASK_AGAIN)
        return desk.leads

    def _judge(self, desk: _Desk) -> bool:
        rollout, now = desk.rollout, self._clock.now()
        docket = desk.docket = desk.docket or self._open(rollout)
        sightings, fresh = self._sightings(desk, now)
        docket.take(rollout, sightings)
        self._read_labels(rollout, docket)
        if desk.judged is not docket.gates:
            desk.verdicts, desk.judged = docket.verdicts(), docket.gates
        docket.seen = docket.look(rollout, sightings, fresh)
        docket.decision = decision = decide(rollout, docket.seen, desk.verdicts, now)
        due = decision.action is not None or self._clock.monotonic() - desk.saved_at >= _SAVE
        if due and not self._save(desk):
            raise Conflict(f"rollout {rollout.id} of {rollout.model!r} has changed meanwhile")
        if decision.action is None:
            return False
        self._act(rollout, decision, desk)
        self._seen = None
        return True

    def _read_labels(self, rollout: Rollout, docket: Docket) -> None:
        shadow = rollout.plan.strategy == "shadow"
        limit = _PAIRS if shadow else _LABELS
        for _ in range(_CHUNKS):
            examples = self._journal.examples(rollout.model, after=docket.cursor, limit=limit)
            if not shadow:
                docket.take_labels(rollout, examples)
            elif not self._compare(rollout, docket, examples):
                return
            if len(examples) < limit:
                return

    def _compare(self, rollout: Rollout, docket: Docket, examples: Sequence[Example]) -> bool:
        """Ask the shadow what the champion was asked; False where it does not answer now: the labels wait."""
        rows = [example.row for example in comparable(rollout, examples)]
        answers: Sequence[Any] = []
        if rows:
            try:
                found = self._shadows and self._shadows.answers(rollout.model, rollout.challenger, rows, _PATIENCE)
            except ModelFailed:  # it is down, or hangs: `observed` tells, and the guards act
                return False
            if not found:
                return False
            answers = found
        docket.take_pairs(rollout, examples, answers)
        return True

    def _act(self, rollout: Rollout, decision: Decision, desk: _Desk) -> None:
        assert decision.action is not None
        assert desk.docket is not None
        seen = desk.docket.seen
        numbers = {
            "samples": seen.samples,
            "labels": seen.labels,
            "failures": dict(seen.decisive),
            "gates": [msgspec.to_builtins(verdict) for verdict in desk.verdicts],
        }
        doing: dict[str, Any] = {"revision": rollout.revision, "by": "controller", "numbers": numbers}
        try:
            self._rollouts.act(rollout.model, decision.action, reason=decision.reason, cause=decision.cause, **doing)
        except ArtifactCorrupt as error:  # verified when it was started, but that was a while ago
            self._rollouts.act(rollout.model, "roll_back", reason=error.message, cause="open", **doing)

    def _open(self, rollout: Rollout) -> Docket:
        catalog = self._registry.catalog
        docket = Docket.load(catalog.findings(rollout.model, rollout.id))
        if docket is not None:
            return docket
        # Its first labels cannot be here before it has answered anybody.
        newest = self._journal.examples(rollout.model, limit=1, latest=True)
        task = self._registry.get(rollout.model).task or "regression"
        return Docket.begin(rollout, task, newest[-1].id if newest else 0)

    def _sightings(self, desk: _Desk, now: float) -> tuple[dict[str, Sighting], dict[str, Sighting]]:
        """Source -> what it has seen; of all that ever reported, and of those that are there."""
        reports = self._registry.catalog.reports(desk.rollout.model, desk.rollout.id)
        for report in reports:
            known = desk.read.get(report.source)
            if known is None or known[0].payload != report.payload:
                known = (report, Sighting.decode(report.payload))
            desk.read[report.source] = (report, known[1])
        everything = {source: sighting for source, (_, sighting) in desk.read.items()}
        fresh = {
            source: sighting
            for source, (report, sighting) in desk.read.items()
            if now - report.at < FRESH_SECONDS and not sighting.observed.ended
        }
        return everything, fresh

    def _save(self, desk: _Desk) -> bool:
        """False where the rollout has changed since it was read."""
        if desk.docket is None:
            return True
        payload = desk.docket.payload()
        desk.saved_at = self._clock.monotonic()
        if payload == desk.saved:
            return True
        rollout = desk.rollout
        kept = self._registry.catalog.put_findings(rollout.model, rollout.id, payload, step_revision=rollout.revision)
        desk.saved = payload if kept else b""
        return kept

    def _give_up(self, desk: _Desk) -> None:
        """Let go of the lease. What this docket knows is saved, or is no longer asked for."""
        if not desk.leads:
            return
        desk.leads = False
        try:
            self._journal.release_lease(_lease(desk.rollout.model), self._owner)
        except Closed:  # it runs out by itself
            return


def _lease(model: str) -> str:
    return f"rollout:{model}"
