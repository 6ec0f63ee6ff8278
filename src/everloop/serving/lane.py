"""A lane: one version, live in this process. `open_lane` is the only way to make one.

`Lane.answer` is the hot path of a prediction in process. For a small model it is one closure: the check that the input is a
list, the model's compiled row function, the check that its answer is sound, a number, one append for the recorder, the
result. Whatever is unusual (another type, a wrong length, a failing or unsound answer) goes to `direct.Direct`, which validates by
the schema and says what is wrong.

Theory of retirement. There is no count of calls in flight, because counting costs a lock. The table holds the lane; a call in
process holds the lane's `answer`; the event loop's batchers hold themselves in it while they have work. All three hold the
`Runner`, none holds the lane, so there is no cycle: when the table has let go and the last call has returned, the runner's
reference count is zero, and its session closes at that moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from everloop.core.errors import EverloopError, InvalidInput, ModelFailed
from everloop.core.schema import Schema, Target
from everloop.core.types import Features, Prediction, PredictionBatch, Row
from everloop.policy.admission import Ground
from everloop.policy.batching import MEASURED_SIZES, UNMEASURED, BatchRules, CostCurve
from everloop.policy.pacing import Pace
from everloop.runtime.session import Session
from everloop.serving.admission import RECENT_SECONDS, Admission, Hall, limits_of
from everloop.serving.apart import ApartSession, belongs_apart, misplaced, moved_apart
from everloop.serving.batcher import Batcher
from everloop.serving.cache import VersionCache
from everloop.serving.config import DEFAULT, ServingConfig
from everloop.serving.counters import Counters
from everloop.serving.direct import Direct, fastest
from everloop.serving.lane_cache import LaneCache
from everloop.serving.recorder import Channel, Recorder
from everloop.serving.recording import RowRecording, TensorRecording
from everloop.serving.remote import RemoteSession
from everloop.serving.runner import Runner
from everloop.serving.tensor_work import TensorWork
from everloop.stores.ports import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

WARM_RUNS = 3
WARM_SECONDS = 0.2
"""What measuring may take before the larger sizes are extrapolated instead: a lane should open promptly."""


class Lane:
    """Answers for one version. Every method may be called from any thread."""

    def __init__(
        self,
        record: VersionRecord,
        model: ModelRecord,
        runner: Runner,
        channel: Channel,
        costs: CostCurve,
        *,
        config: ServingConfig = DEFAULT,
        hall: Hall | None = None,
    ) -> None:
        """`hall`: what the queues of all lanes share."""
        self.record = record
        self.model = model
        self.name = model.name
        self.version = record.version
        self.digest = record.digest
        self.key = channel.key
        self.runner = runner
        self.config = config
        """How it is served; `configure` changes it."""
        self.schema: Schema = runner.schema
        self.target: Target = runner.session.target
        self.classes: list[Any] | None = runner.session.classes
        self._hall = hall or Hall()
        self._opening_costs = costs
        self._recorder = channel.recorder
        self._channel = channel
        self._batchers: dict[asyncio.AbstractEventLoop, Batcher] = {}
        self._tensor_batchers: dict[asyncio.AbstractEventLoop, Batcher] = {}
        self.tensor_work = TensorWork(runner)
        """How it answers tensors."""
        self._direct = Direct(runner, channel)
        self.tallies: list[Counters] = [self._direct.tally]
        """The live counts themselves: of in-process failures, and of each batcher. Who keeps the list has them when the lane
        is gone."""
        self.own: Callable[[Features], Prediction] = fastest(self._direct)
        """One example in, what the model makes of it out. Raises InvalidInput, ModelFailed."""
        self.answer = self.own
        """The same, or what is remembered of it (`remember`)."""
        self.cached: VersionCache | None = None
        self._memory: LaneCache | None = None
        self.compiled = self.own is not self._direct
        """Whether it is our own arithmetic, which can neither hang nor hold up anybody."""
        self.retired = False

    def configure(self, config: ServingConfig) -> None:
        """Serve by this from now on."""
        if config == self.config:
            return
        self.config = config
        self.runner.rules = rules = config.rules
        for batcher in self.batchers:
            if batcher.admission is not None:
                batcher.admission.limits = limits_of(config)
            batcher.configure(rules)

    def remember(self, cached: VersionCache | None) -> bool:
        """Answer from this part of the cache what was asked before; None: always ask the model. True if `answer` is another one now."""
        before = self.cached
        if (before and (before.prefix, before.ttl)) == (cached and (cached.prefix, cached.ttl)):
            return False
        self.cached = cached
        self._memory = None if cached is None else LaneCache(cached, self._channel, self.own, self._direct.many)
        self.answer = self.own if self._memory is None else self._memory.answer
        for batcher in self.batchers:
            batcher.remember(cached)
        return True

    @property
    def session(self) -> Session:
        return self.runner.session

    def answer_rows(self, rows: Any) -> PredictionBatch:
        """Many examples: a sequence of rows, a two-dimensional array, or a data frame. At least one row.

        Raises InvalidInput naming the instance and feature, ModelFailed naming the instance."""
        memory = self._memory
        checked = self.checked(rows)
        if memory is None or self.runner.guard is not None:
            return self.answer_checked(checked)
        return memory.answer_rows(checked)

    def checked(self, rows: Any) -> list[Row]:
        """What `answer_rows` takes, as rows. Raises InvalidInput naming the instance and feature."""
        return as_rows(rows, self.schema)

    def answer_checked(self, rows: list[Row]) -> PredictionBatch:
        """Rows that have been checked; under a guard, if there is one. Raises ModelFailed naming the instance."""
        guard = self.runner.guard
        if guard is None or self.remote:
            return self._direct.many(rows)
        return guard.run(self.runner, self._direct.many, rows)

    def answer_guarded(self, features: Features) -> Prediction:
        """The model's own answer, for a version that is not the champion: on a thread that can be given up, unless it cannot hang or runs
        in a process that can be ended."""
        guard = self.runner.guard
        if guard is None or self.compiled or self.remote:
            return self.own(features)
        return guard.run(self.runner, self.own, features)

    @property
    def lost(self) -> ModelFailed | None:
        """Why it was given up while it was under guard; None as long as it answers."""
        return None if self.runner.guard is None else self.runner.guard.error

    @property
    def remote(self) -> bool:
        """Whether it runs in the process of its trial: a champion never does."""
        return isinstance(self.runner.session, RemoteSession)

    @property
    def apart(self) -> bool:
        """Whether it has a process of its own."""
        return self.remote or isinstance(self.session, ApartSession)

    def misplaced(self, config: ServingConfig) -> bool:
        """Whether `config` wants it on a thread where it has a process, or the other way round."""
        return misplaced(config.isolation, self.record.manifest.runtime, isinstance(self.session, ApartSession))

    def unguard(self) -> None:
        """It is the champion now, or gone: an ordinary lane, whose runs nobody gives up."""
        guard, self.runner.guard = self.runner.guard, None
        if guard is not None:
            guard.close()

    def count_referred(self) -> None:
        """The champion answered a request in process on which this lane failed."""
        self._direct.tally.referred += 1

    def batcher_for(self, loop: asyncio.AbstractEventLoop) -> Batcher:
        """This lane's batcher of rows on `loop`; call it from that loop's thread."""
        batcher = self._batchers.get(loop)
        if batcher is None:
            key = self._recorder.new_key()
            recording = RowRecording(self._recorder, self.runner, key, self.model.record)
            batcher = Batcher(
                self.runner,
                loop,
                key,
                costs=self._opening_costs,
                recording=recording,
                beside=partial(Lane.batcher_for, loop=loop),
                admission=self._admission(),
            )
            self._add_batcher(self._batchers, batcher)
        return batcher

    def tensors_for(self, loop: asyncio.AbstractEventLoop) -> Batcher:
        """This lane's batcher of tensors on `loop`; call it from that loop's thread."""
        batcher = self._tensor_batchers.get(loop)
        if batcher is None:
            key, work = self._recorder.new_key(), self.tensor_work
            recording = TensorRecording(self._recorder, work, key, self.model.record)
            batcher = Batcher(
                work,
                loop,
                key,
                costs=self._opening_costs,
                recording=recording,
                beside=partial(Lane.tensors_for, loop=loop),
                admission=self._admission(),
            )
            self._add_batcher(self._tensor_batchers, batcher)
        return batcher

    def _admission(self) -> Admission:
        return Admission(self.name, limits_of(self.config), self._hall)

    @property
    def batchers(self) -> list[Batcher]:
        """All that it has, of rows and of tensors."""
        return [*self._batchers.values(), *self._tensor_batchers.values()]

    def _add_batcher(self, batchers: dict[asyncio.AbstractEventLoop, Batcher], batcher: Batcher) -> None:
        for dead in [known for known in batchers if known.is_closed()]:
            gone = batchers.pop(dead)
            gone.retire()
            self._direct.tally.add(gone.counters)
            self.tallies[:] = [tally for tally in self.tallies if tally is not gone.counters]  # equal ones stay
        batcher.remember(self.cached)
        batchers[batcher.loop] = batcher
        self.tallies.append(batcher.counters)
        if self.retired:
            batcher.retire()

    def retire(self) -> None:
        """Out of the table: what was submitted before finishes here, then threads end and the session closes."""
        self.retired = True
        if self.runner.guard is not None:
            self.runner.guard.close()
        for batcher in self.batchers:
            batcher.retire()

    @property
    def closed(self) -> bool:
        """Retired, and nothing on its way through a batcher."""
        return self.retired and all(batcher.idle for batcher in self.batchers)

    @property
    def costs(self) -> CostCurve | Pace:
        """Seconds a batch of so many rows takes: measured at opening, then learned from the batches themselves."""
        busiest = self._busiest
        return self._opening_costs if busiest is None else busiest.costs

    @property
    def full_rows(self) -> int:
        """Rows of a batch that is full: as many as the rules allow, or as a latency target does."""
        busiest = self._busiest
        return self.runner.rules.max_rows if busiest is None else busiest.size

    @property
    def _busiest(self) -> Batcher | None:
        return max(self.batchers, key=lambda batcher: batcher.counters.batches, default=None)

    @property
    def waiting(self) -> int:
        """Rows in the queues of its batchers."""
        return sum(batcher.waiting for batcher in self.batchers)

    @property
    def grounds(self) -> dict[Ground, int]:
        """Requests turned away from its queues, by why."""
        total: Counter[Ground] = Counter()
        for batcher in self.batchers:
            if batcher.admission is not None:
                total.update(dict(batcher.admission.grounds))
        return dict(total)

    def overloaded(self, now: float) -> bool:
        """Whether it has turned somebody away lately for want of room; `now` by `time.perf_counter`."""
        lasts = [batcher.admission.last for batcher in self.batchers if batcher.admission is not None]
        return any(last is not None and now - last < RECENT_SECONDS for last in lasts)

    @property
    def predictions(self) -> int:
        """Requests answered since it opened, in process and over the network."""
        return self.in_process + self.counters().requests

    @property
    def in_process(self) -> int:
        return self._channel.issued

    def counters(self) -> Counters:
        """A snapshot, summed: everything over the network, and the failures in process."""
        total = Counters()
        for tally in self.tallies:
            total.add(tally)
        return total

    def __repr__(self) -> str:
        state = "closed" if self.closed else "retired" if self.retired else "live"
        return f"<Lane {self.name}@{self.version} {state}, {self.predictions} answered, {self.waiting} waiting>"


def open_lane(
    record: VersionRecord,
    model: ModelRecord,
    registry: Registry,
    recorder: Recorder,
    *,
    config: ServingConfig = DEFAULT,
    rules: BatchRules | None = None,
    samples: Sequence[Row] = (),
    remote: RemoteSession | None = None,
    hall: Hall | None = None,
) -> Lane:
    """Verify, load, warm and measure one version; only then can anybody ask it.

    `rules`: what the batchers decide by, where that is not as `config` says. `samples`: some rows that it should be able to answer, in schema order; made-up ones otherwise. `remote`: its trial has opened and
    warmed it in a process, where it stays; measuring would wait for it here. Takes milliseconds to seconds: never call it on an event
    loop. Raises ArtifactCorrupt, Untrusted, NotSupported, MissingExtra."""
    session = registry.open_session(record) if remote is None else remote
    runner = Runner(session, model.name, record.version, rules or config.rules)
    costs = measure(runner, samples) if remote is None else UNMEASURED
    if remote is None and belongs_apart(config.isolation, record.manifest.runtime, costs):
        session = moved_apart(session, config.isolation, record, registry, samples)
        runner = Runner(session, model.name, record.version, runner.rules)
    channel = recorder.channel(model.name, record.version, session.schema, model.record, session.classes)
    return Lane(record, model, runner, channel, costs, config=config, hall=hall)


def measure(runner: Runner, samples: Sequence[Row] = ()) -> CostCurve:
    """Run it at a few sizes: that warms it, and gives its cost curve. Seconds are the least of a few runs."""
    fields = runner.schema.fields
    rows = [row for row in samples if len(row) == len(fields)]
    rows = rows or [[0.0 if field.kind == "number" else "" for field in fields]]
    sizes: list[int] = []
    seconds: list[float] = []
    until = perf_counter() + WARM_SECONDS
    for size in MEASURED_SIZES:
        if seconds and perf_counter() + WARM_RUNS * seconds[-1] > until:
            break
        best = float("inf")
        for _ in range(WARM_RUNS + 1):
            start = perf_counter()
            try:
                runner.run(runner.matrix([rows[i % len(rows)] for i in range(size)]))
            except (EverloopError, ValueError, TypeError):
                # The made-up rows may be outside of what the model takes; real ones will be measured as they come.
                return CostCurve(tuple(sizes), tuple(seconds)) if sizes else UNMEASURED
            best = min(best, perf_counter() - start)
            if perf_counter() > until:
                break
        sizes.append(size)
        seconds.append(best)
    return CostCurve(tuple(sizes), tuple(seconds))


def as_rows(instances: Any, schema: Schema) -> list[Row]:
    """Whatever holds several examples, as checked rows. Raises InvalidInput naming instance and feature."""
    if hasattr(instances, "to_dicts"):  # polars
        instances = instances.to_dicts() if schema.named else instances.to_numpy()
    elif hasattr(instances, "to_dict") and hasattr(instances, "columns"):  # pandas
        instances = instances.to_dict("records") if schema.named else instances.to_numpy()
    if isinstance(instances, np.ndarray):
        if instances.ndim != 2:
            raise InvalidInput(
                f"instances: expected a two-dimensional array of rows, got shape {instances.shape}", field="instances"
            )
        listed: list[Any] = instances.tolist()
        if (
            instances.dtype.kind == "f"
            and instances.shape[1] == len(schema.fields)
            and schema.numeric
            and (len(listed) and np.isfinite(instances).all())
        ):
            return listed
        instances = listed
    elif isinstance(instances, (str, bytes, Mapping)) or not hasattr(instances, "__iter__"):
        raise InvalidInput(f"instances: expected a list of rows, got {type(instances).__name__}", field="instances")
    rows = schema.rows(instances)
    if not rows:
        raise InvalidInput("instances: expected at least one row", field="instances")
    return rows
