"""How a challenger that the learning loop has made goes out: the plan, or at once.

It has already passed its gate on held-out examples. What a rollout adds is what held-out examples cannot show: that it answers at all,
as fast, on today's inputs. With `auto`:

    traffic                                       a scheduled fit                     after a drift alarm
    21 requests a second or more                  canary 1 → 5 → 25 %, a minute each  one step of 50 %, two seconds
    2 requests a second or more                   canary 10 → 50 %, a minute each     the same
    less                                          at once                             at once

Traffic is what the journal has recorded over the last minute; it is enough for a canary if that one could come to its end in ten minutes
at that rate (`_PATIENCE`; after a drift alarm in one). Where there is less, a canary would only keep the better version from those
who ask: a handful of requests would prove nothing in a day.

After a drift alarm the champion is known to have failed, and each minute that it goes on answering costs more than a mistake of the
challenger would. So half of the traffic goes over at once: equal arms are what a comparison needs fewest labels with, and half of the
answers are better from the first second. What it has to show for itself is fifty answers rather than time; guards and gates watch it
all the same. While it is out, the same recovery fits nothing further: a newer challenger
would begin without evidence. What is fitted next, on the rows that have come meanwhile, is judged against whoever serves then.

A canary whose traffic stops has no end. Then the challenger, which no gate has found worse, goes live: as it would have without traffic.
"""

from __future__ import annotations

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, VersionNotFound
from everloop.learning.champion import Champion
from everloop.optimization.config import BY as OPTIMIZER
from everloop.policy.rollout import Plan, Rollout
from everloop.registry.catalog import Registry
from everloop.registry.rollouts import Policy, Rollouts, plan_of, policy_of
from everloop.stores.ports import Journal, ModelRecord, VersionRecord

WINDOW = 60.0
"""Seconds over which traffic is counted."""
_PATIENCE = 600.0
_CAREFUL = (0.01, 0.05, 0.25)
_COARSE = (0.1, 0.5)
_STEP_SECONDS = 60.0
_SAMPLES = 100
RECOVERY_SHARE = 0.5
RECOVERY_SECONDS = 2.0
RECOVERY_SAMPLES = 50
_MOST_SECONDS = 1_800.0
_MOST_SECONDS_RECOVERING = 120.0
"""Then there is no traffic any more."""
_RECORDS = 500
BY = "learning"


def plan_for(policy: Policy, rate: float, *, recovering: bool) -> Plan | None:
    """None: at once. `rate`: requests a second."""
    if policy.strategy == "immediate":
        return None
    if policy.strategy != "auto":
        return policy.plan()
    if recovering:
        if rate * WINDOW < RECOVERY_SAMPLES / RECOVERY_SHARE:
            return None
        return plan_of(
            "canary",
            steps=[RECOVERY_SHARE],
            seconds=RECOVERY_SECONDS,
            samples=RECOVERY_SAMPLES,
            max_seconds=_MOST_SECONDS_RECOVERING,
            **policy.options,
        )
    for shares in (_CAREFUL, _COARSE):
        if rate * _PATIENCE >= sum(_SAMPLES / share for share in shares):
            return plan_of(
                "canary",
                steps=list(shares),
                seconds=_STEP_SECONDS,
                samples=_SAMPLES,
                max_seconds=_MOST_SECONDS,
                **policy.options,
            )
    return None


def traffic(journal: Journal, record: ModelRecord, clock: Clock) -> float:
    """Requests a second over the last minute, by what was recorded; 0 for a model that records nothing."""
    if record.record <= 0:
        return 0.0
    since = clock.now() - WINDOW
    found = [made for _, made in journal.predictions(record.name, limit=_RECORDS, latest=True) if not made.shadow]
    recent = [made for made in found if made.at >= since]
    requests = sum(made.count for made in recent)
    # Of busy traffic the newest records are but the last seconds.
    span = WINDOW if len(recent) < len(found) or len(found) < _RECORDS else max(1.0, clock.now() - recent[0].at)
    return requests / span / record.record


def next_plan(journal: Journal, clock: Clock, record: ModelRecord, default: str, *, recovering: bool) -> Plan | None:
    """How the next version goes out; None: at once. `default`: where the model says nothing of its own. Raises InvalidInput."""
    policy = policy_of(default, record.rollout)
    rate = traffic(journal, record, clock) if policy.strategy == "auto" else 0.0
    return plan_for(policy, rate, recovering=recovering)


def ran_dry(rollout: Rollout) -> bool:
    """Whether a rollout of the loop's own, or of the optimiser's, has ended only because nobody asked any more."""
    return rollout.state == "inconclusive" and rollout.cause == "time" and rollout.by in {BY, OPTIMIZER}


class GoingOut:
    """One model's rollouts, as its learner sees them: whoever started them."""

    def __init__(self, model: str, registry: Registry, journal: Journal, clock: Clock) -> None:
        self._model = model
        self._registry = registry
        self._rollouts = Rollouts(registry)
        self._journal = journal
        self._clock = clock
        self._revision: int | None = None
        self._newest: Rollout | None = None
        self._followed: Rollout | None = None
        self._left: tuple[int, list[float], float] | None = None
        self.rival: Champion | None = None
        """A version that is to beat besides the champion: waiting to be promoted, or out."""
        self._knows = 0
        """The change of the world that it was fitted after."""

    def newest(self) -> Rollout | None:
        """Active or ended. A poll of the registry's revision where nothing has changed."""
        revision = self._registry.revision()
        if revision != self._revision:
            self._newest, self._revision = self._rollouts.get(self._model), revision
        return self._newest

    @property
    def active(self) -> Rollout | None:
        newest = self.newest()
        return newest if newest is not None and newest.active else None

    def hinders(self, *, recovering: bool, cut_id: int) -> bool:
        """Whether a further fit has to wait for what is out: it does, unless it recovers from a change (`cut_id`) that came after."""
        return self.active is not None and not (recovering and cut_id > self._knows)

    def plan(self, record: ModelRecord, default: str, *, recovering: bool) -> Plan | None:
        """As `next_plan`."""
        return next_plan(self._journal, self._clock, record, default, recovering=recovering)

    def left(self, version: VersionRecord, unseen: list[float], floor: float) -> None:
        """This version waits, or is out, from now on. `unseen`: its losses on rows that it was not trained on."""
        self._left = (version.version, unseen, floor)
        self._stand(version)

    def arrived(self, live: int | None) -> tuple[list[float], float]:
        """Another version is the champion: what was said of it when it left, if it did."""
        version, unseen, floor = self._left or (None, [], 0.0)
        self._left = self.rival = None
        return (unseen, floor) if version is not None and version == live else ([], 0.0)

    def follow(self, record: ModelRecord) -> str | None:
        """What became of a version that went out, as the verdict that keeps it from serving (empty: nothing does); None if nothing
        new did. A challenger that nobody asks any more goes live."""
        rollout, before = self.newest(), self._followed
        if rollout is None or rollout == before:
            return None
        self._followed = rollout
        if rollout.active:
            if self.rival is None or self.rival.version != rollout.challenger:
                self._find(rollout.challenger)
            return None
        if before is None and rollout.challenger < (record.live_version or 0):
            return None  # history, read after a restart
        self.rival = None
        if rollout.state == "promoted":
            return ""
        untouched = record.live_version == rollout.champion and record.allocation is None
        if ran_dry(rollout) and untouched and self._status(rollout.challenger) == "staging":
            note = "nobody asks any more, and no gate found it worse"
            self._registry.promote(self._model, rollout.challenger, note=note, by=BY)
            return ""
        how = "was rolled back" if rollout.state == "rolled_back" else "left"
        return f"version {rollout.challenger} {how}: {rollout.reason}"

    def _status(self, number: int) -> str:
        try:
            return self._registry.version(self._model, number).status
        except VersionNotFound:
            return ""

    def _find(self, number: int) -> None:
        self.rival, self._knows = None, 0
        try:
            self._stand(self._registry.version(self._model, number))
        except EverloopError:  # the rollout will find that out, too
            return

    def _stand(self, version: VersionRecord) -> None:
        self._knows = int(version.manifest.lineage.get("cut_id") or 0)
        self.rival = Champion(version, self._registry.open_session(version))
