"""Puts the lanes that are open into the table, as they should stand: who is champion, who has which buckets, who is counted where.

The only writer of the table. It opens nothing: `reconciler` hands it the lanes. What is published again is only what has changed, and
a change of weights is a new split over the same lanes, so no request is ever dropped or waits for one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from everloop.core.errors import ModelFailed
from everloop.policy.rollout import Gates
from everloop.policy.routing import Allocation
from everloop.registry.deployment import Deployment
from everloop.serving.evidence import Evidence
from everloop.serving.evidences import Evidences
from everloop.serving.guard import Guard
from everloop.serving.lane import Lane
from everloop.serving.remote import RemoteSession
from everloop.serving.split import Split
from everloop.serving.table import Table, TableRef
from everloop.stores.ports import VersionRecord


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """How a model's lanes stand in the table: equal ones need not be published again."""

    champion: str
    others: tuple[str, ...]
    allocation: Allocation | None
    rollout: int | None
    step: int


class Arranger:
    """Used by one thread at a time, except `withdraw` and `changed`."""

    def __init__(
        self, table: TableRef, evidences: Evidences, on_lost: Callable[[VersionRecord, ModelFailed], None]
    ) -> None:
        """`on_lost`: a run of this version hangs, or has ended its process. Called on whichever thread found out; must not block."""
        self._table = table
        self._evidences = evidences
        self._on_lost = on_lost
        self._arranged: dict[str, _Arrangement] = {}
        self._withdrawing = threading.Lock()
        """Never held for long: an event loop may wait for it."""
        self.changed = threading.Condition()
        """Notified after each change of the table."""

    def arrange(self, wanted: Deployment, champion: Lane, opened: Lane | None = None) -> None:
        """Publish this model's lanes, and `opened`, as they should stand; retire what is not among them. `champion` may be the lane
        of an older version, as long as that of the wanted one cannot be opened."""
        name = champion.name
        there = self._table.current.versions(name)
        before = set(there.values())
        if opened is not None:
            there[opened.version] = opened
        others = [
            lane
            for record in wanted.others
            if (lane := there.get(record.version)) is not None
            and lane is not champion
            and lane.lost is None
            and same(lane.record, record)
        ]
        self._guard(others, (Gates() if wanted.rollout is None else wanted.rollout.plan.gates).timeout)
        evidence = self._evidence(wanted, champion, others)
        step = wanted.rollout.step if wanted.rollout is not None and evidence is not None else 0
        made = _Arrangement(
            champion.key,
            tuple(lane.key for lane in others),
            wanted.allocation,
            None if evidence is None else evidence.rollout,
            step,
        )
        if self._arranged.get(name) != made:
            if others:
                tallies = {}
                if evidence is not None:
                    tallies = dict(zip((champion.version, evidence.challenger), evidence.arms(step), strict=True))
                split = Split(champion, others, wanted.allocation, tallies=tallies)
                self._publish(self._table.current.with_split(split))
                self._withdraw_lost(split, others)
            else:
                self._publish(self._table.current.with_lane(champion))
            self._arranged[name] = made
        champion.unguard()
        for lane in before.difference((champion, *others)):
            lane.retire()

    def refresh(self) -> None:
        """Some lane's `answer` has changed: publish the same lanes with it."""
        table = self._table.current
        self._publish(Table.of(table.lanes, table.splits))

    def remove(self, name: str) -> None:
        """Nobody answers for this model any more."""
        lanes = self._table.current.versions(name)
        self._publish(self._table.current.without(name))
        self._arranged.pop(name, None)
        for lane in lanes.values():
            lane.retire()

    def withdraw(self, name: str, version: int) -> None:
        """Out of routing at once, by the split that is in force; the next arrangement is without it. From any thread."""
        with self._withdrawing:
            split = self._table.current.splits.get(name)
            if split is not None:
                split.withdraw(version)

    def _publish(self, table: Table) -> None:
        self._table.current = table
        with self.changed:
            self.changed.notify_all()

    def _withdraw_lost(self, split: Split, others: Sequence[Lane]) -> None:
        """What was lost while this split was built was withdrawn from the one before."""
        with self._withdrawing:
            for lane in others:
                if lane.lost is not None:
                    split.withdraw(lane.version)

    def _guard(self, others: Sequence[Lane], timeout: float) -> None:
        for lane in others:
            guard = lane.runner.guard
            if lane.compiled:  # our own arithmetic: it cannot hang, and a thread would only make it slower
                continue
            if guard is None:
                end = lane.session.kill if isinstance(lane.session, RemoteSession) else None
                lane.runner.guard = Guard(lane.name, timeout, partial(self._on_lost, lane.record), end)
            else:
                guard.timeout = timeout
            if isinstance(lane.session, RemoteSession):
                lane.session.seconds = timeout

    def _evidence(self, wanted: Deployment, champion: Lane, others: Sequence[Lane]) -> Evidence | None:
        """Where the two arms are counted: only if both are here, each the version that the rollout is about."""
        rollout = wanted.rollout
        if rollout is None or wanted.challenger is None or champion.version != rollout.champion:
            return None
        if all(lane.version != rollout.challenger for lane in others):
            return None
        return self._evidences.open(rollout)


def same(live: VersionRecord, wanted: VersionRecord) -> bool:
    """A model that was unregistered and made again may reuse bytes, never a number."""
    return live.version == wanted.version and live.digest == wanted.digest
