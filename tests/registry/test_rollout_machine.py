"""Every sequence of actions, by two controllers and people, with restarts in between: what must hold holds after each of them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from everloop.core.errors import Conflict
from everloop.core.events import EventBus
from everloop.core.schema import Schema, Target
from everloop.policy.rollout import Action, Rollout
from everloop.registry.catalog import Registry
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts
from everloop.stores.ports import Catalog, Journal, Manifest
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))
ACTIONS: tuple[Action, ...] = ("advance", "pause", "resume", "promote", "roll_back", "finish")
OWN = ("rollout_started", "rollout_advanced", "rollout_paused", "rollout_resumed", "rollout_ended")


class Actor:
    """Somebody who acts on what it has seen last."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.rollouts = registry, Rollouts(registry)
        self.seen: Rollout | None = None

    def look(self) -> None:
        self.seen = self.rollouts.get("m")


class Machine(RuleBasedStateMachine):
    """Over stores in memory; `SqliteMachine` over a file."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.artifacts = MemoryArtifacts()
        self.cleanup = contextlib.ExitStack()
        self.journal, self.catalog = self.stores()
        self.ended: dict[int, Rollout] = {}
        self.active: Rollout | None = None
        self.owned: set[int] = set()

    def stores(self) -> tuple[Journal, Catalog]:
        journal = MemoryJournal(clock=self.clock)
        return journal, MemoryCatalog(journal)

    def reopen(self) -> None:
        """What is in memory only cannot be opened again."""

    @initialize()
    def begin(self) -> None:
        self.people()
        self.registry.register("m", "linear", task="regression")
        self.publish(live=True)
        self.publish(live=False)

    def people(self) -> None:
        def registry() -> Registry:
            return Registry(self.catalog, self.artifacts, self.journal, EventBus(), self.clock, Trust())

        self.registry = registry()
        self.actors = [Actor(registry()), Actor(registry())]

    @rule(live=st.booleans())
    def publish(self, live: bool) -> None:
        count = len(self.registry.versions("m")) if self.registry.names() else 0
        if count < 6:
            self.registry.add_version("m", MANIFEST, f"payload {count}".encode(), live=live)

    @rule(strategy=st.sampled_from(["immediate", "canary", "ab", "shadow", "blue_green"]), version=st.integers(1, 6))
    def start(self, strategy: str, version: int) -> None:
        known = {record.version for record in self.registry.versions("m")}
        version = max(number for number in known if number <= version)
        before = self.state()
        try:
            started = Rollouts(self.registry).start("m", version, plan_of(strategy), by="test")
        except Conflict:
            assert self.state() == before
            return
        assert (started.state == "promoted") == (strategy == "immediate")

    @rule(who=st.integers(0, 1))
    def look(self, who: int) -> None:
        self.actors[who].look()

    @rule(who=st.integers(0, 1), action=st.sampled_from(ACTIONS))
    def act_on_what_was_seen(self, who: int, action: Action) -> None:
        actor = self.actors[who]
        if actor.seen is None:
            return
        before = self.state()
        stale = before["rollout"].revision != actor.seen.revision or before["rollout"].id != actor.seen.id
        try:
            made = actor.rollouts.act("m", action, revision=actor.seen.revision, reason="because")
        except Conflict:
            assert self.state() == before
            return
        assert not stale or before["rollout"].revision == actor.seen.revision
        assert made.revision == actor.seen.revision + 1
        actor.seen = made

    @rule(action=st.sampled_from(ACTIONS))
    def act_by_hand(self, action: Action) -> None:
        before = self.state()
        try:
            Rollouts(self.registry).act("m", action, by="test")
        except Conflict:
            assert self.state() == before

    @rule(version=st.integers(1, 6), verb=st.sampled_from(["promote", "archive", "rollback", "split", "shadow"]))
    def other_verbs(self, version: int, verb: str) -> None:
        known = [record.version for record in self.registry.versions("m")]
        version = max(number for number in known if number <= version)
        live = self.registry.get("m").live_version
        before = self.state()
        try:
            if verb == "promote":
                self.registry.promote("m", version)
            elif verb == "archive":
                self.registry.archive("m", version)
            elif verb == "rollback":
                self.registry.rollback("m")
            elif verb == "split" and version != live:
                self.registry.set_traffic("m", {live: 0.7, version: 0.3})
            elif version != live:
                self.registry.set_traffic("m", {live: 1.0}, shadow=version)
        except Conflict:
            assert self.state() == before

    @rule(seconds=st.floats(0, 1e5))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        before = self.state()
        self.reopen()
        self.people()
        assert self.state() == before

    def state(self) -> dict[str, Any]:
        return {
            "model": self.catalog.get_model("m"),
            "versions": list(self.catalog.versions("m")),
            "rollout": self.catalog.rollout("m"),
            "all": self.catalog.rollouts("m"),
        }

    @precondition(lambda self: self.registry.names())
    @invariant()
    def all_belongs_together(self) -> None:
        model, rollouts = self.catalog.get_model("m"), self.catalog.rollouts("m")
        statuses = {record.version: record.status for record in self.catalog.versions("m")}
        assert [v for v, status in statuses.items() if status == "live"] == [model.live_version]
        active = [rollout for rollout in rollouts if rollout.active]
        assert len(active) <= 1
        assert [rollout.id for rollout in rollouts] == list(range(1, len(rollouts) + 1))
        assert active == [rollout for rollout in self.catalog.active_rollouts() if rollout.model == "m"]
        if model.allocation is not None:
            weights = model.allocation.weights()
            assert abs(sum(weights.values()) - 1) < 1e-12
            assert min(weights.values()) > 0
            assert set(weights) <= set(statuses)
        if active:
            [rollout] = active
            assert rollout.champion == model.live_version
            assert statuses[rollout.challenger] == "staging"
            weights = {} if model.allocation is None else model.allocation.weights()
            assert abs(weights.get(rollout.challenger, 0.0) - rollout.share) < 1e-9
            assert set(weights) <= {rollout.champion, rollout.challenger}
            assert (model.shadow == rollout.challenger) == (rollout.plan.strategy == "shadow")
        for rollout in rollouts:
            if not rollout.active:
                assert self.ended.setdefault(rollout.id, rollout) == rollout, "an ended rollout has changed"

    @precondition(lambda self: self.registry.names())
    @invariant()
    def who_is_in_stays_in(self) -> None:
        """As long as a rollout goes on, a unit that the challenger answers goes on being answered by it."""
        model, rollout = self.catalog.get_model("m"), self.catalog.rollout("m")
        now: set[int] = set()
        if rollout is not None and rollout.active and model.allocation is not None:
            owners = model.allocation.owners()
            now = {bucket for bucket, owner in enumerate(owners) if owner == rollout.challenger}
        same = self.active is not None and rollout is not None and rollout.active and self.active.id == rollout.id
        assert not same or self.owned <= now
        self.active, self.owned = rollout, now

    @precondition(lambda self: self.registry.names())
    @invariant()
    def the_timeline_tells_every_transition(self) -> None:
        self.journal.flush()
        told: dict[int, list[int]] = {}
        last: dict[int, str] = {}
        for event in self.journal.events(model="m", limit=10_000):
            if event.kind in OWN:
                told.setdefault(event.data["rollout"], []).append(event.data["revision"])
                last[event.data["rollout"]] = event.data["state"]
                assert event.message
        rollouts = self.catalog.rollouts("m")
        assert told == {rollout.id: list(range(1, rollout.revision + 1)) for rollout in rollouts}
        assert last == {rollout.id: rollout.state for rollout in rollouts}

    def teardown(self) -> None:
        self.catalog.close()
        self.journal.close()
        self.cleanup.close()


class SqliteMachine(Machine):
    def stores(self) -> tuple[Journal, Catalog]:
        self.path = Path(self.cleanup.enter_context(tempfile.TemporaryDirectory())) / "everloop.db"
        return SqliteJournal(self.path, clock=self.clock), SqliteCatalog(self.path)

    def reopen(self) -> None:
        self.catalog.close()
        self.journal.close()
        self.journal, self.catalog = SqliteJournal(self.path, clock=self.clock), SqliteCatalog(self.path)


TestMemory = Machine.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=30)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(max_examples=8, stateful_step_count=25)
