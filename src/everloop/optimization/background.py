"""Makes what serves faster, without being asked: looks at each live version once, apart from everything that answers.

    live for a while ─► enough recorded inputs ─► lease ─► a process of low priority: candidates, parity, measurements ─► the next version
                                                                                                                  └─► stays as it is

Rules.

1. One attempt at a time in the whole deployment: whoever holds the lease. What it does, it does in a process of its own, of low priority;
   this thread only waits for it. Threads that answer never wait for any of this.
2. The timeline is the memory. An attempt is told before it begins (`optimize_started`) and when it ends (`optimized`, `not_optimized`), and a
   version that has been looked at to the end is not looked at again, by whichever process, whenever. An attempt without an end is one
   that its process did not survive; after two of them a version is left alone.
3. A version that is replaced, unregistered, or rolled out against ends its attempt at once. The transaction that publishes looks again.
4. A form of a version is not optimised further, nor what is our own arithmetic already.
5. What comes back from the process may be anything, for a model's own code may have run there: only how to run the new form is taken from
   it, and that is opened by the same rules as any artifact.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from everloop.core.clock import Clock
from everloop.core.errors import Conflict, EverloopError, InvalidInput, ModelNotFound
from everloop.core.events import EventKind
from everloop.core.stepping import StepThread
from everloop.optimization.attempts import Attempts, attempts_at
from everloop.optimization.config import BY, Mode, OptimizeConfig
from everloop.optimization.desk import LOOK, Desk, Ready, Status, pointless
from everloop.optimization.job import Job, Outcome, Running
from everloop.optimization.recorded import recorded
from everloop.optimization.succession import Way, check_current, succeed
from everloop.policy.retraining import backoff
from everloop.registry.catalog import Registry
from everloop.stores.ports import Journal, ModelRecord, VersionRecord

LEASE = "optimize"
LEASE_TTL = 20.0
LEASE_RENEW = 6.0
LEAST_ASKED = 50
"""Different inputs without which even somebody who asks learns nothing."""
_LONGEST_LOOK = 60.0
"""Seconds between two looks at a model while nothing comes."""
_WATCH = 1.0
"""Seconds between two looks at an attempt that is under way."""
_UNFINISHED = 2


class Ports(Protocol):
    """What the rooms above know of a model."""

    def mode(self, model: ModelRecord) -> Mode: ...

    def way(self, model: ModelRecord) -> Way:
        """How its next version goes out now."""

    def sizes(self, model: str) -> dict[int, int]:
        """Rows of a batch -> how many such batches this process has answered lately."""


class BackgroundOptimizer:
    """Safe from any thread. Does nothing by itself until `start`; `step` may be called by hand instead."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        config: OptimizeConfig,
        clock: Clock,
        *,
        owner: str,
        ports: Ports,
        begin: Callable[[Job, Callable[[], None]], Running] | None = None,
    ) -> None:
        """`owner`: names this process among all that share the journal. `begin`: starts an attempt, and calls back when it is over;
        in a process of its own if None."""
        self._registry = registry
        self._journal = journal
        self._config = config
        self._clock = clock
        self._owner = owner
        self._ports = ports
        self._begin = begin or Running
        self._rng = random.Random()  # noqa: S311  spreads retries, guards nothing
        self._lock = threading.Lock()
        self._desks: dict[str, Desk] = {}
        self._thread = StepThread(
            "everloop-optimizer",
            self.step,
            self._rest,
            clock=clock,
            backoff=lambda failures: backoff(failures, self._rng),
            news=(registry.subscribe_changes,),
        )

    # -- the thread ----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """False when it was started and its thread is dead, or nothing but failing, without having been stopped."""
        return self._thread.alive

    @property
    def last_error(self) -> str:
        """What went wrong last in the loop itself; what went wrong with a model is on its timeline."""
        return self._thread.last_error

    def start(self) -> None:
        """Idempotent: there is one thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the attempt at hand, which begins anew with the next start, and the thread. Idempotent."""
        self._thread.stop()

    def _rest(self, _made: bool) -> None:
        self._clock.wait(self._thread.wake, self._next_look())
        self._clock.wait(self._thread.stopping, 0.1)  # changes come in bursts

    def _next_look(self) -> float:
        now = self._clock.monotonic()
        due = [desk.look_at - now for desk in self._desks.copy().values() if not desk.settled or desk.asked]
        return min([_LONGEST_LOOK, *(max(0.1, wait) for wait in due)])

    # -- what others ask -----------------------------------------------------------------------------------------------

    def ask(self, model: str, mode: Mode = "float") -> Status:
        """Make an attempt now, whatever was decided before. Returns at once: `status` and the timeline tell.

        Raises ModelNotFound, and InvalidInput where there is nothing that could be made faster, or nothing to compare it on."""
        record = self._registry.get(model)
        version = self._registry.live(model)
        if why := pointless(record, version, asked=True):
            raise InvalidInput(f"model {model!r} cannot be made faster: {why}", field="model")
        found = len(recorded(self._journal, model, least=LEAST_ASKED, most=LEAST_ASKED).rows)
        if found < LEAST_ASKED:
            raise InvalidInput(
                f"{found} different inputs of {model!r} are recorded; at least {LEAST_ASKED} are needed to compare its forms on",
                field="model",
            )
        with self._lock:
            desk = self._desk(record)
            desk.asked, desk.look_at = mode, 0.0
            if desk.status.state != "running":
                desk.wait("for its turn", record.live_version)
        self._thread.wake.set()
        return desk.status

    def status(self, model: str) -> Status:
        """Of what this process knows; an attempt of another one is on the timeline."""
        desk = self._desks.get(model)
        return Status() if desk is None else desk.status

    def running(self) -> Sequence[str]:
        """The models whose attempt is under way here: none, or one."""
        return [name for name, desk in self._desks.copy().items() if desk.status.state == "running"]

    # -- work ----------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Look at every model whose turn it is, and make the first attempt that can be made; whether there was one. Raises what the
        stores raise."""
        records = self._registry.list()
        with self._lock:
            for gone in self._desks.keys() - {record.name for record in records}:
                del self._desks[gone]
            desks = [(record, self._desk(record)) for record in records]
        for record, desk in desks:
            if self._thread.stopping.is_set():
                return False
            now = self._clock.monotonic()
            if (desk.version, desk.serving) != (record.live_version, record.serving):
                desk.version, desk.serving = record.live_version, record.serving
                desk.settled, desk.look_at, desk.pause = False, 0.0, LOOK
            if (desk.settled and desk.asked is None) or now < desk.look_at:
                continue
            try:
                ready = self._ready(record, desk)
                if ready is not None and self._attempt(ready, desk):
                    return True
            except ModelNotFound:
                continue
            desk.look_at, desk.pause = now + desk.pause, min(2 * desk.pause, _LONGEST_LOOK)
        return False

    def _desk(self, record: ModelRecord) -> Desk:
        desk = self._desks.get(record.name)
        if desk is None or desk.created_at != record.created_at:
            desk = self._desks[record.name] = Desk(record.created_at)
        return desk

    def _ready(self, model: ModelRecord, desk: Desk) -> Ready | None:
        """What to attempt; None: nothing now, or nothing at all, as the desk then says."""
        asked, number = desk.asked is not None, model.live_version
        mode = desk.asked or self._ports.mode(model)
        version = None if number is None else self._registry.version(model.name, number)
        never = pointless(model, version, asked=asked)
        if mode == "off" or version is None or never:
            desk.asked = None
            desk.settle(never, number, state="off" if mode == "off" else "done")
            return None
        early = self._early(model, version, asked=asked)
        if early:
            desk.wait(early, number)
            return None
        least = LEAST_ASKED if asked else self._config.min_examples
        found = recorded(self._journal, model.name, least=least, most=max(least, self._config.max_examples))
        if len(found.rows) < least:
            desk.asked = None  # some were forgotten meanwhile
            desk.wait(f"{len(found.rows)} of {least} different inputs are recorded", number)
            return None
        return Ready(model, version, mode, found)

    def _early(self, model: ModelRecord, version: VersionRecord, *, asked: bool) -> str:
        """Why this is not the time; empty if it is."""
        least = self._config.settle_sec
        if not asked and self._clock.now() - version.created_at < least:
            return f"until it has been live for {least:g} s"
        try:
            check_current(model, self._registry.catalog.rollout(model.name), model, version.version)
        except Conflict as error:
            return error.message
        return ""

    def _attempt(self, ready: Ready, desk: Desk) -> bool:
        """Under the lease: whether one was made."""
        number = ready.version.version
        if not self._lease():
            desk.wait("for another one's turn", number)
            return False
        try:
            before = attempts_at(self._journal, ready.model.name, number)
            if desk.asked is None and before.decided:
                desk.settle(before.message, number)
                return False
            if desk.asked is None and before.unfinished >= _UNFINISHED:
                self._end(ready, desk, Outcome(error=_killed(before)))
                return True
            desk.asked = None
            self._make(ready, desk)
        finally:
            self._journal.release_lease(LEASE, self._owner)
        return True

    def _lease(self) -> bool:
        return self._journal.acquire_lease(LEASE, self._owner, now=self._clock.now(), ttl=LEASE_TTL)

    def _make(self, ready: Ready, desk: Desk) -> None:
        model, version = ready.model, ready.version
        payload = self._registry.payload(version)
        rows, labels, _ = ready.examples
        number = version.version
        try:
            self._tell(ready, "optimize_started", f"looking for a faster form of version {number}", rows=len(rows))
        except Conflict as error:
            desk.wait(error.message, number)
            return
        desk.status = Status("running", f"comparing on {len(rows):,} inputs", number, self._clock.now())
        job = Job.of(
            version.manifest,
            payload,
            rows=rows,
            labels=labels,
            int8=ready.mode == "int8",
            sizes=self._ports.sizes(model.name),
            seconds=self._config.max_seconds,
            trust=self._registry.trust,
        )
        running = self._begin(job, self._thread.wake.set)
        stopped = ""
        try:
            stopped = self._watch(running, ready)
        finally:
            running.kill()  # nothing if it has ended
        self._end(ready, desk, Outcome(stopped=stopped) if stopped else running.outcome())

    def _watch(self, running: Running, ready: Ready) -> str:
        """Until it has ended (empty), or shall be ended: why."""
        renewed = self._clock.monotonic()
        while not running.poll():
            self._clock.wait(self._thread.wake, _WATCH)
            self._thread.wake.clear()
            if self._thread.stopping.is_set():
                return "this server stops"
            now = self._clock.monotonic()
            if now - renewed >= LEASE_RENEW:
                renewed = now
                if not self._lease():
                    return "another process has taken over"
            if overtaken := self._overtaken(ready):
                return overtaken
        return ""

    def _overtaken(self, ready: Ready) -> str:
        """Why nobody waits for a form of this version any more; empty if somebody does."""
        try:
            model = self._registry.get(ready.model.name)
            check_current(model, self._registry.catalog.rollout(model.name), ready.model, ready.version.version)
        except (Conflict, ModelNotFound) as error:
            return error.message
        return ""

    def _end(self, ready: Ready, desk: Desk, outcome: Outcome) -> None:
        number = ready.version.version
        try:
            if outcome.manifest is not None:
                made = self._succeed(ready, outcome)
                desk.status = Status("done", f"version {made.version}: {outcome.why}", number, result=outcome.told)
                return
            state = "stopped" if outcome.stopped else "failed" if outcome.error else "kept"
            why = outcome.stopped or outcome.error or outcome.why
        except ModelNotFound:
            return
        except EverloopError as error:
            state, why = "stopped" if self._overtaken(ready) else "failed", error.message
        desk.settled = state != "stopped"
        desk.status = Status("done" if desk.settled else "waiting", why, number, result=outcome.told)
        self._tell(ready, "not_optimized", f"version {number} stays as it is: {why}", state=state, **outcome.told)

    def _succeed(self, ready: Ready, outcome: Outcome) -> VersionRecord:
        assert outcome.manifest is not None
        return succeed(
            self._registry,
            ready.model,
            ready.version,
            outcome.manifest,
            outcome.payload,
            source=ready.examples.source,
            way=self._ports.way(self._registry.get(ready.model.name)),
            note=f"the faster form of version {ready.version.version}: {outcome.why}",
            told=outcome.told,
        )

    def _tell(self, ready: Ready, kind: EventKind, message: str, **data: Any) -> None:
        """On the timeline, durably. Nothing where the model is gone. Raises Conflict where an attempt would begin in vain."""
        try:
            with self._registry.changes.on(ready.model.name, by=BY) as change:
                if kind == "optimize_started":
                    check_current(change.shelf.model, change.shelf.rollout(), ready.model, ready.version.version)
                if change.shelf.model.created_at == ready.model.created_at:
                    change.log(kind, message, version=ready.version.version, data=data)
        except ModelNotFound:
            return


def _killed(before: Attempts) -> str:
    return f"{before.unfinished} attempts were not survived by the process that made them; `everloop models optimize` tries again"
