"""The contracts of what remembers: the journal, the catalog and the artifact store.

Each is embedded (SQLite, a folder), in PostgreSQL and in memory, safe from any thread; one suite in `tests/contracts` runs over all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from everloop.core.errors import EverloopError
from everloop.core.events import Event
from everloop.core.schema import Schema, Target
from everloop.core.types import Example, Label, PredictionRecord, Task, VersionStatus
from everloop.policy.keys import KeyRecord
from everloop.policy.rollout import Rollout
from everloop.policy.routing import Allocation


class Appended(msgspec.Struct, frozen=True):
    """What became of one `append`: one entry of `outcomes` a label, in order."""

    outcomes: list[int | EverloopError]
    """The new example's id, or why this label was refused (PredictionNotFound, Conflict). Its neighbours are unharmed."""
    duplicate: bool = False
    """The idempotency key was seen before with the same body, or every label was there already: nothing was counted again."""


AppendDone = Callable[[Appended | EverloopError], None]
"""Called once, from the journal's writer thread, after the commit (or after it failed). Must not block."""


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a model's learner stands: everything up to example `cursor` is in `state`."""

    cursor: int
    state: bytes
    at: float


class JournalStats(msgspec.Struct, frozen=True):
    predictions: int
    examples: int
    events: int
    dropped: int
    """Prediction records refused since start because the bounded queue was full."""
    pending: int
    """Entries accepted but not yet committed."""
    bytes: int
    failure: str = ""
    """Why the last commit failed; empty once one has succeeded again."""


class Journal(Protocol):
    """The durable, append-only log of predictions, labels and events."""

    def record(self, record: PredictionRecord) -> bool:
        """Queue predictions for the next group commit; never waits. False (and counted) where the bounded queue is full.

        Whatever was queued before an `append` is visible to that append's join."""

    def append(self, labels: Sequence[Label], done: AppendDone, *, idempotency_key: str = "", body: str = "") -> None:
        """Queue labels for the next group commit; never waits. `done` is called after the commit.

        A label with `request_id` is joined with its recorded prediction (features, answer, version) in the same commit.
        Labelling the same (request id, index) again: same label -> its first id, nothing counted; another -> Conflict.
        `idempotency_key` is scoped by model: seen before with the same `body` digest -> the first outcome again and
        `duplicate=True`; with another body -> every outcome is Conflict. Raises Overloaded if the queue is full, Closed."""

    def append_now(self, labels: Sequence[Label], *, idempotency_key: str = "", body: str = "") -> Appended:
        """`append`, and wait for the commit. Raises what the commit raised."""

    def log(self, event: Event) -> None:
        """Queue an event for the next group commit; never waits."""

    def flush(self) -> None:
        """Wait until everything queued so far is committed."""

    def examples(self, model: str, *, after: int = 0, limit: int = 1000, latest: bool = False) -> list[Example]:
        """Up to `limit` examples with id > `after`, by ascending id; with `latest` the newest `limit` of them (still
        ascending)."""

    def count_examples(self, model: str, *, after: int = 0) -> int:
        """How many acknowledged examples with id > `after`."""

    def examples_total(self, model: str) -> int:
        """How many were ever acknowledged, retention aside. Cheap: a counter."""

    def predictions(
        self, model: str, *, after: int = 0, limit: int = 1000, latest: bool = False
    ) -> list[tuple[int, PredictionRecord]]:
        """Recorded predictions in order, each with its journal id; `latest` as in `examples`."""

    def events(
        self, *, model: str | None = None, after: int = 0, limit: int = 100, latest: bool = False
    ) -> list[Event]:
        """By ascending id; `latest` as in `examples`."""

    def save_checkpoint(self, model: str, checkpoint: Checkpoint) -> None:
        """Durable and atomic: afterwards either the old one or this one is there."""

    def load_checkpoint(self, model: str) -> Checkpoint | None: ...

    def acquire_lease(self, name: str, owner: str, *, now: float, ttl: float) -> bool:
        """Take or renew the lease `name` until `now + ttl`; False while another owner's has not run out. A lease of
        a process that is known to be dead may be taken sooner."""

    def release_lease(self, name: str, owner: str) -> None: ...

    def prune(self, *, now: float, max_age: float | None, max_bytes: int | None) -> int:
        """Forget what is oldest: predictions, and examples that their model's checkpoint has passed, by the same measure of
        age (so that no label outlives what it could be joined with); by size, events only once nothing else may go. Returns
        how many entries went. An example that a learner has not yet learned is never forgotten. An example takes its
        prediction and all older ones along, so that its label cannot come again and count twice."""

    def forget_model(self, model: str) -> None:
        """Remove a model's predictions, examples and checkpoint; its events stay (the timeline is history)."""

    def stats(self) -> JournalStats: ...

    def close(self) -> None:
        """Commit what is queued, then close. Safe to call twice."""


class Manifest(msgspec.Struct, frozen=True):
    """What is known of an artifact besides its bytes."""

    runtime: str  # a key of `runtime.formats.FORMATS`
    task: Task
    schema: Schema
    target: Target
    classes: list[Any] | None = None
    """Classification: the labels, in the order of the model's scores."""
    metrics: dict[str, float] = {}
    lineage: dict[str, Any] = {}
    """How it came about: parent version, reason, examples (first id, last id, count), seconds, rows kept for judging."""
    libraries: dict[str, str] = {}
    """Versions of the libraries it was made with."""
    options: dict[str, Any] = {}
    """What its runtime needs besides the bytes, as its module tells."""


class ModelRecord(msgspec.Struct, frozen=True):
    name: str
    kind: str
    """`linear`, `ridge`, `logistic`, `auto`, `estimator`, `river`, `artifact`, `learner`."""
    created_at: float
    parameters: dict[str, Any] = {}
    task: Task | None = None
    """None until the first label tells (kind `auto`)."""
    learning: dict[str, Any] = {}
    """Fields of `LearningConfig` that this model overrides."""
    record: float = 1.0
    """Which share of predictions is recorded: 0 to 1."""
    schema: Schema | None = None
    target: Target | None = None
    live_version: int | None = None
    template: str | None = None
    """Digest of the unfitted estimator's bytes, where the kind needs one."""
    allocation: Allocation | None = None
    """Which version answers whom, where several do; None: `live_version` answers everybody."""
    shadow: int | None = None
    """The version that is shown a copy of the traffic."""
    aliases: dict[str, int] = {}
    """Name -> version, as in `fraud@champion`. `champion` (what is live) and `challenger` (of the rollout) are not kept here."""
    rollout: dict[str, Any] = {}
    """How versions that the learning loop makes go out: overrides of its policy, as `registry.rollouts.policy_of` reads it."""
    serving: dict[str, Any] = {}
    """How it is served: overrides of `serving.config.ServingConfig`."""
    cleared: dict[str, int] = {}
    """How often its cached answers were cleared: those of all versions under `*`, those of one under its number."""


class VersionRecord(msgspec.Struct, frozen=True):
    model: str
    version: int
    digest: str
    status: VersionStatus
    created_at: float
    manifest: Manifest
    note: str = ""
    name: str = ""
    """What its maker calls it, as `v1.0`; unique within the model where it is not empty."""
    tags: dict[str, str] = {}
    collected: bool = False
    """Its artifact is gone (`Registry.collect_garbage`); only this record is left."""
    claim: tuple[float, float] | None = None
    """Which share of the traffic was asked for it, and which it got with that, where it got more: as the one that answers whatever nobody
    asked for (`registry.models`). None: it has what was asked for."""


class Report(msgspec.Struct, frozen=True):
    """What one process has seen of a rollout so far, cumulated since it first saw it."""

    source: str
    """Names the process and its life."""
    at: float
    payload: bytes


class Shelf(Protocol):
    """All that the catalog holds of one model, inside one transaction: read, changed, and told.

    What is put is seen by what is read later from the same shelf. Nothing is visible outside before the transaction ends. Not to be
    used after it, nor by another thread."""

    @property
    def model(self) -> ModelRecord: ...

    @property
    def history(self) -> list[int]:
        """The versions that were live, oldest first; the last one is live now."""

    @property
    def created(self) -> bool:
        """Whether this transaction has made the model."""

    def put_model(self, record: ModelRecord, history: Sequence[int] | None = None) -> None:
        """`history` None: as it was."""

    def versions(self) -> list[VersionRecord]:
        """By ascending number."""

    def version(self, number: int) -> VersionRecord:
        """Raises VersionNotFound."""

    def next_number(self) -> int:
        """Take the next version number; never given again."""

    def put_version(self, record: VersionRecord) -> None:
        """New or changed. Raises Conflict where another version of the model has its `name`."""

    def delete_version(self, number: int) -> None:
        """Its number is never used again."""

    def rollout(self) -> Rollout | None:
        """The newest one, active or ended."""

    def rollouts(self) -> list[Rollout]:
        """By ascending id."""

    def next_rollout(self) -> int:
        """Take the next rollout's id; never given again, not even to a later model of the same name."""

    def put_rollout(self, rollout: Rollout) -> None:
        """New (its id from `next_rollout`) or changed."""

    def log(self, event: Event) -> None:
        """An event of the model's timeline, committed with the change that it tells of."""


class KeyStore(Protocol):
    """The keys of callers. They are never deleted: a withdrawn one says who had it."""

    def keys(self) -> list[KeyRecord]:
        """All that were ever made, oldest first."""

    def put_keys(self, records: Sequence[KeyRecord]) -> None:
        """New or changed, all of them or none. Raises Conflict where one was withdrawn meanwhile and its new record does not say so."""

    def touch_keys(self, ids: Sequence[str], now: float) -> None:
        """They were used. No revision."""

    def key_uses(self) -> dict[str, float]:
        """Id -> when it was used last, as far as that was told."""

    def revision(self) -> int:
        """As of the catalog."""


class Catalog(KeyStore, Protocol):
    """Models and their versions: what *should* be live. Every change is one transaction."""

    def change(self, name: str, new: ModelRecord | None = None) -> AbstractContextManager[Shelf]:
        """One transaction on one model: commits at the end of the `with` block, and rolls back if it raises. Serialised with every
        other change, of whichever process. `new`: made first, in the same transaction, where there is no model of that name. Raises
        ModelNotFound (with near names).

        Others wait meanwhile, the journal's writer too: keep it short, and never wait for the journal inside (nor begin another
        change: RuntimeError)."""

    def look(self, name: str) -> AbstractContextManager[Shelf]:
        """One state of one model, for reading only. Raises ModelNotFound."""

    def rollout(self, model: str) -> Rollout | None:
        """The newest one. Raises ModelNotFound."""

    def rollouts(self, model: str) -> list[Rollout]:
        """All, by ascending id. Raises ModelNotFound."""

    def active_rollouts(self) -> list[Rollout]:
        """Of all models, those that have not ended."""

    def put_report(self, model: str, rollout: int, report: Report) -> None:
        """Keep what a process has seen of a rollout, instead of what the same source had reported; nothing where there is no such
        rollout (any more). No revision."""

    def reports(self, model: str, rollout: int) -> list[Report]:
        """By source."""

    def put_findings(self, model: str, rollout: int, payload: bytes, *, step_revision: int) -> bool:
        """Keep what the controller has made of the reports. False, and nothing is kept, where the rollout's `revision` is not
        `step_revision` any more (or the rollout is gone): somebody has acted meanwhile. No revision of the catalog."""

    def findings(self, model: str, rollout: int) -> bytes | None: ...

    def create_model(self, record: ModelRecord, event: Event | None = None) -> None:
        """`event` is committed with it. Raises Conflict if the name is taken."""

    def get_model(self, name: str) -> ModelRecord:
        """Raises ModelNotFound (with near names)."""

    def list_models(self) -> list[ModelRecord]: ...

    def delete_model(self, name: str, event: Event | None = None, *, versions: Sequence[int] | None = None) -> None:
        """`event` is committed with it. Rollouts, reports and findings go, too. Raises ModelNotFound, and Conflict where it has not (any
        more) exactly these `versions`. A later model of that name continues the numbering of versions, and of rollouts."""

    def set_schema(self, name: str, schema: Schema, target: Target | None) -> ModelRecord:
        """Fix the schema, once: the first writer wins and everybody gets the winner's record back. A `target` that was
        None may still be set later."""

    def add_version(
        self,
        model: str,
        digest: str,
        manifest: Manifest,
        *,
        now: float,
        status: VersionStatus = "staging",
        note: str = "",
        name: str = "",
    ) -> VersionRecord:
        """The next number, never reused. With `live` it becomes the one that should serve in the same transaction. Raises
        Conflict where `name` is taken."""

    def versions(self, model: str) -> list[VersionRecord]:
        """By ascending number."""

    def get_version(self, model: str, version: int) -> VersionRecord:
        """Raises ModelNotFound, VersionNotFound."""

    def set_live(self, model: str, version: int) -> VersionRecord:
        """Make `version` the one that serves everybody (an allocation ends); the one before becomes `retired`. Returns the
        record."""

    def roll_back(self, model: str) -> VersionRecord:
        """Make the version live that was so before the live one; again goes further back, never forth. Raises Conflict
        where there is none (archived and rejected versions are passed over)."""

    def set_status(self, model: str, version: int, status: VersionStatus) -> VersionRecord:
        """Not for `live` (Conflict: use set_live), nor away from live (Conflict)."""

    def revision(self) -> int:
        """A number that changes whenever anything changed, by whichever process. Cheap enough to poll."""

    def close(self) -> None: ...


class ArtifactStore(Protocol):
    """Immutable bytes by their SHA-256."""

    def put(self, payload: bytes) -> str:
        """Store and return the digest. Atomic and durable; storing the same bytes again is nearly free, and counts as put now."""

    def renew(self, digest: str) -> bool:
        """Count it as put now; False if it is not there (any more). Against a `delete` of any process, as `put`."""

    def get(self, digest: str) -> bytes:
        """Verified bytes. Raises ArtifactCorrupt (damaged or missing)."""

    def now(self) -> float:
        """Seconds, by the clock that tells when something was put: that of the store, not of this process."""

    def delete(self, digest: str, *, before: float | None = None) -> int | None:
        """The bytes that it had; None if it is not there. One that was put at `before` (as `now` tells it) or since stays (None):
        whoever put it may be about to name it. Compared and deleted in one step, against a `put` of any process."""

    def sweep(self, *, idle: float) -> int:
        """Remove what writes that never ended have left more than `idle` seconds ago. The bytes that it had."""

    def digests(self) -> list[str]: ...


class AnswerStore(Protocol):
    """Answers of models that several processes share: the second level of `serving.cache`.

    Nothing here raises for the store's sake: without it predictions only cost what they cost. What it cannot do within a bounded time
    it leaves out, and says so in `trouble`."""

    def get(self, key: str) -> bytes | None:
        """Waits, for a bounded time. None: not there, or not to be had now."""

    def fetch(self, key: str, done: Callable[[bytes | None], None]) -> None:
        """`get` without waiting: `done` is called once, from whatever thread, within a bounded time. It must not block."""

    def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep it for `ttl` seconds; never waits. What is queued beyond a bound is left out."""

    def forget(self, pattern: str) -> int:
        """Remove all whose key matches (`*`, `?`, `[…]` as of fnmatch); how many those were. Waits. Raises StoreUnavailable: whoever
        wants them gone must know that they are not."""

    @property
    def name(self) -> str:
        """Where it is, without secrets."""

    @property
    def trouble(self) -> str:
        """What it cannot do now, and why; empty if all is well."""

    @property
    def skipped(self) -> int:
        """Lookups and answers that were left out because it was in trouble, or too much was waiting."""

    def close(self) -> None:
        """Write what is queued, for a bounded time. Safe to call twice."""
