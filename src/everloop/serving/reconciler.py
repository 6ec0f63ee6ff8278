"""Turns what should be live (the registry) into what is live (the table).

    registry.deployment.desired ──► step: open (slow, off every hot path) ──► one assignment ──► retire what is gone

Rules.

1. `step` alone changes the table (by its `arranger`), and one step runs at a time. So a version goes back only if the registry does.
2. A new lane is loaded, warmed and measured before anybody can ask it; the old one answers until then.
3. A champion that cannot be opened leaves the old one serving. It is told once as an event, kept in `failures`, and tried
   again after a growing pause, or at once when the registry wants another version.
4. Models are published one by one: a slow one does not hold up the others. Challengers are opened last.
5. A challenger that cannot be opened, hangs or has crashed this process before (`serving.trial`, `serving.evidence`) disturbs
   nobody: its buckets are the champion's, and `challenger_failures` tells the controller, who rolls back.
6. New weights are a new split over the same lanes. A lane is opened once, whatever it then is: challenger, champion, challenger;
   except that what is Python code runs in the process of its trial (`serving.remote`) until it is the champion. Then it is opened
   here, and answers from there until that is done.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, InvalidInput, ModelFailed, ModelNotFound
from everloop.core.events import Event, EventBus, EventKind
from everloop.core.types import Row
from everloop.registry.deployment import Deployment, desired
from everloop.serving.admission import Hall
from everloop.serving.arranger import Arranger, same
from everloop.serving.awaited import Awaited
from everloop.serving.cache import AnswerCache
from everloop.serving.cache_config import CacheConfig
from everloop.serving.config import DEFAULT, ServingConfig, effective, loaded, threaded
from everloop.serving.evidences import Evidences
from everloop.serving.failures import Failures
from everloop.serving.lane import Lane, open_lane
from everloop.serving.recorder import Recorder
from everloop.serving.remote import RUNTIMES, RemoteSession
from everloop.serving.shadows import Shadows
from everloop.serving.table import TableRef
from everloop.serving.trial import Trial, Trials
from everloop.stores.ports import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

POLL = 0.05
"""Seconds between two looks at the registry's revision: how soon a change by another process is seen."""
SAMPLES = 64
"""Recent examples a new lane is warmed and measured with."""


class Reconciler(Awaited):
    def __init__(
        self,
        registry: Registry,
        table: TableRef,
        recorder: Recorder,
        bus: EventBus,
        clock: Clock,
        *,
        config: ServingConfig = DEFAULT,
        hall: Hall | None = None,
        cache: AnswerCache | None = None,
        rng: Random | None = None,
        trial: Trial | None = None,
    ) -> None:
        """`config`: how models are served that do not say otherwise. `cache`: where answers are remembered; one of its own, if None. `trial`: how a challenger is tried before it is opened here; None opens it at once."""
        self._registry = registry
        self._table = table
        self._recorder = recorder
        self._bus = bus
        self._clock = clock
        self._config = config
        self.hall = Hall() if hall is None else hall
        """What waits in this process."""
        self._cache = cache or AnswerCache(CacheConfig(), clock)
        self._trials = None if trial is None else Trials(trial, self._stir)
        self._stepping = threading.Lock()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._unsubscribe: Callable[[], None] = lambda: None
        self._seen: int | None = None
        self.evidences = Evidences(registry.catalog, clock)
        """What the traffic of this process says of the active rollouts."""
        self._arranger = Arranger(table, self.evidences, self._lose)
        self.shadows = Shadows(registry, recorder, bus)
        """Those that are shown what this process is asked."""
        rng = rng or Random()  # noqa: S311  spreads retries, guards nothing
        self._champions: Failures[str] = Failures(clock, rng)
        self._others: Failures[tuple[str, int]] = Failures(clock, rng)
        self.unloaded: frozenset[str] = frozenset()
        """Models that have a live version and are held closed (`ServingConfig.loaded`)."""
        self.broken: EverloopError | None = None
        """Why the registry itself cannot be read, if so: what is live goes on."""

    def step(self) -> bool:
        """Make what is live what should be. True if the table changed. Called by the thread, or by hand."""
        with self._stepping:
            before = self._table.current
            try:
                revision = self._registry.revision()
                wanted = desired(self._registry)
                self.unloaded = frozenset(n for n, one in wanted.items() if not loaded(self._config, one.model.serving))
                wanted = {name: one for name, one in wanted.items() if name not in self.unloaded}
                for deployment in wanted.values():
                    self._reach_champion(deployment)
                for deployment in wanted.values():
                    self._reach_others(deployment)
                    self._configure(deployment.model)
                self.shadows.reach(wanted)
                self._seen = revision
                self.broken = None
            except EverloopError as error:
                self.broken = error
                return self._table.current is not before
            for name in [name for name in self._table.current.lanes if name not in wanted]:
                self._arranger.remove(name)
            self._forget(wanted)
            return self._table.current is not before

    def start(self) -> None:
        """Keep stepping in the background. Starting twice is one thread."""
        with self._starting:
            if self._thread is not None:
                return
            self._stopping = False
            self._unsubscribe = self._registry.subscribe_changes(self._wake.set)
            self._thread = threading.Thread(target=self._work, name="everloop-reconciler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread and retire every lane. Safe to call twice."""
        with self._starting:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._unsubscribe()
            self._wake.set()
        if thread is not None:
            thread.join()
        with self._stepping:
            for name in list(self._table.current.lanes):
                self._arranger.remove(name)
            self.shadows.close()
            self.evidences.close()
        if self._trials is not None:
            self._trials.close()  # after that: what ends now has not crashed

    @property
    def alive(self) -> bool:
        """Whether the thread that `start` began is at work."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            if self._due():
                self.step()
            self._wake.wait(POLL)

    def forgive(self) -> None:
        """Try again whatever could not be opened: it might be allowed now."""
        self._champions.keep(())
        self._others.keep(())
        self._stir()

    def _stir(self) -> None:
        """There is something to do that the registry does not know of. From any thread."""
        self._seen = None
        self._wake.set()

    def _due(self) -> bool:
        """Whether anything changed, or a failed version is to be tried again."""
        if self._champions.due or self._others.due:
            return True
        try:
            return self._registry.revision() != self._seen
        except EverloopError as error:
            self.broken = error
            return False

    # -- the champion --

    def _reach_champion(self, wanted: Deployment) -> None:
        """Open it if need be, and arrange whatever is open already around it: new weights wait for nothing."""
        record = wanted.champion
        name = record.model
        there = self._table.current.versions(name)
        lane = there.get(record.version)
        before = self._table.current.lanes.get(name)
        start, opened = self._clock.monotonic(), False
        if (
            lane is None
            or lane.lost is not None
            or lane.remote
            or self._elsewhere(lane, wanted.model)
            or not same(lane.record, record)
        ):
            lane = before
            if not self._champions.resting(name, record):
                try:
                    lane, opened = self._open(record, self._registry.get(name)), True
                except ModelNotFound:
                    return  # unregistered meanwhile; the next step sees it
                except EverloopError as error:
                    self._fail(record, error)
        if lane is None:
            return
        seconds = self._clock.monotonic() - start
        if lane.version == record.version:
            self._champions.forgive(name)
        self._arranger.arrange(wanted, lane)
        if lane is not before and lane.version == record.version:
            self._tell(
                record,
                "swapped",
                f"version {record.version} answers"
                + (f" instead of {before.version}" if before is not None else "")
                + (f"; it was ready in {seconds * 1000:.1f} ms" if opened else "; it was open already"),
                {"from": None if before is None else before.version, "to": record.version, "seconds": seconds},
            )

    # -- those beside it --

    def _reach_others(self, wanted: Deployment) -> None:
        """Open what is missing, each published as soon as it is there."""
        name = wanted.model.name
        for record in wanted.others:
            lane = self._table.current.versions(name).get(record.version)
            champion = self._table.current.lanes.get(name)
            if champion is None or (lane is not None and same(lane.record, record)):
                continue
            if self._others.resting((name, record.version), record):
                continue
            try:
                opened = self._open_challenger(record, wanted)
            except ModelNotFound:
                return
            except EverloopError as error:
                self._fail_challenger(record, error)
                continue
            if opened is None:
                continue
            self._others.forgive((name, record.version))
            self._arranger.arrange(wanted, champion, opened)
        self._note(wanted)

    def _open_challenger(self, record: VersionRecord, wanted: Deployment) -> Lane | None:
        """None: it is still on trial. Raises EverloopError, ModelNotFound."""
        model = self._registry.get(record.model)
        rollout = wanted.rollout
        trials = None if record.manifest.runtime == "linear" else self._trials
        if rollout is not None and record.version == wanted.challenger:
            evidence = self.evidences.open(rollout)
            apart = trials is not None and record.manifest.runtime in RUNTIMES  # it can end no process but its own
            deaths = "" if apart else self.evidences.deaths(rollout)
            if deaths:
                error = ModelFailed(deaths)
                error.how = "crash"
                raise error
            self.evidences.report(evidence)
        if trials is None:
            return self._open(record, model)
        tried = threaded(record, effective(self._config, model.serving).threads)
        passed = trials.passed(tried, self._samples(record))
        return None if passed is None else self._open(record, model, passed.session)

    def _note(self, wanted: Deployment) -> None:
        """What the controller wants to know besides the counts."""
        if wanted.rollout is None or wanted.challenger is None:
            return
        name = wanted.model.name
        evidence = self.evidences.open(wanted.rollout)
        lane = self._table.current.versions(name).get(evidence.challenger)
        failure = self.challenger_failures.get((name, evidence.challenger))
        was_open, evidence.open = evidence.open, lane is not None and lane.lost is None
        if evidence.open and not was_open:
            self.evidences.report(evidence)  # soon requests come: a crash must find it written
        evidence.failure = "" if failure is None or evidence.lost else failure.error.message

    def _lose(self, record: VersionRecord, error: ModelFailed) -> None:
        """A run of this version hangs, or has ended its process: out of routing at once. From any thread, an event loop's as well."""
        name = record.model
        self._arranger.withdraw(name, record.version)
        self._others.add((name, record.version), record, error, again=False)
        self.evidences.lose(name, record.version, error)
        self._tell(
            record,
            "guard",
            f"nobody is routed to version {record.version} any more: {error.message}",
            {"how": error.how},
        )
        self._stir()

    # -- both --

    def _open(self, record: VersionRecord, model: ModelRecord, remote: RemoteSession | None = None) -> Lane:
        """Raises EverloopError, whatever a library raised."""
        registry, recorder = self._registry, self._recorder
        try:
            config = effective(self._config, model.serving)
            record = threaded(record, config.threads)
            samples = () if remote is not None else self._samples(record)
            return open_lane(
                record, model, registry, recorder, config=config, samples=samples, remote=remote, hall=self.hall
            )
        except EverloopError:
            raise
        except Exception as error:
            raise EverloopError(f"{type(error).__name__}: {error}") from error

    def _elsewhere(self, lane: Lane, model: ModelRecord) -> bool:
        """Whether its model's record wants it on a thread or in a process, and it is not there."""
        try:
            return lane.misplaced(effective(self._config, model.serving))
        except InvalidInput:
            return False

    def _configure(self, model: ModelRecord) -> None:
        """Whatever is open of it is served as its record says now; by what no release of ours has written, as it was."""
        with contextlib.suppress(InvalidInput):  # nothing new is opened with it either, and that is told
            config = effective(self._config, model.serving)
            changed = False
            for lane in self._table.current.versions(model.name).values():
                lane.configure(config)
                cached = self._cache.version(lane.record, model, config.cache_ttl_sec) if config.cache else None
                changed = lane.remember(cached) or changed
            if changed:
                self._arranger.refresh()

    def _samples(self, record: VersionRecord) -> Sequence[Row]:
        examples = self._recorder.journal.examples(record.model, limit=SAMPLES, latest=True)
        return [example.row for example in examples]

    def _forget(self, wanted: dict[str, Deployment]) -> None:
        """What was about versions that nobody wants any more."""
        if self._trials is not None:
            self._trials.keep([record for one in wanted.values() for record in one.others])
        self._champions.keep(wanted.keys())
        self._cache.keep(wanted.keys())
        self._others.keep({(name, record.version) for name, one in wanted.items() for record in one.others})
        self.evidences.keep({name: one.rollout.id for name, one in wanted.items() if one.rollout is not None})

    def _fail(self, record: VersionRecord, error: EverloopError) -> None:
        failure = self._champions.add(record.model, record, error)
        with self._arranger.changed:
            self._arranger.changed.notify_all()
        if failure.attempts == 1:
            lane = self._table.current.lanes.get(record.model)
            still = f"version {lane.version} goes on answering" if lane is not None else "nothing answers yet"
            self._tell(
                record,
                "open_failed",
                f"version {record.version} cannot be opened ({error.message}); {still}",
                {"code": error.code, "serving": None if lane is None else lane.version},
            )

    def _fail_challenger(self, record: VersionRecord, error: EverloopError) -> None:
        # What crashed or hung would do so again, and not only in its trial.
        failure = self._others.add(
            (record.model, record.version), record, error, again=not isinstance(error, ModelFailed)
        )
        with self._arranger.changed:
            self._arranger.changed.notify_all()
        if failure.attempts == 1:
            serving = self._table.current.lanes[record.model].version
            self._tell(
                record,
                "open_failed",
                f"version {record.version} cannot be opened ({error.message}); version {serving} answers in its place",
                {"code": error.code, "serving": serving, "challenger": True},
            )

    def _tell(self, record: VersionRecord, kind: EventKind, message: str, data: dict[str, Any]) -> None:
        event = Event(record.model, kind, self._clock.now(), message, record.version, data)
        self._recorder.journal.log(event)
        self._bus.emit(event)
