"""The shapes of what is asked and answered about models. Predictions and labels have theirs in `http.codec`.

The OpenAPI document is generated from these, so a field's docstring says what a reader of `/docs` should know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from everloop.core.types import Task

ModelName = Annotated[
    str, Meta(extra_json_schema={"minLength": 1, "maxLength": 128, "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$"})
]
"""Described here, checked by the registry, which says in words what is wrong."""
VersionNumber = Annotated[int, Meta(ge=1, le=2**53)]
VersionText = Annotated[str, Meta(min_length=1, max_length=128)]
VersionRef = VersionNumber | VersionText
"""A version by its number, its name, an alias, or as `champion` (what is live) or `challenger` (of the rollout)."""
Note = Annotated[str, Meta(max_length=1000)]
ModelStatus = Literal["ready", "untrained", "loading", "failed", "unloaded"]
"""`ready`: answers. `untrained`: has no version yet. `loading`: its version is being opened. `failed`: it cannot be.
`unloaded`: it is held closed until somebody loads it."""


class ModelSpec(msgspec.Struct, forbid_unknown_fields=True):
    """A model to create."""

    name: ModelName
    kind: Annotated[
        str, Meta(max_length=64, description="`linear`, `ridge`, `logistic`, `auto`, `forest`, `boosting`")
    ] = "auto"
    parameters: Annotated[dict[str, Any], Meta(description="Of the kind: `learning_rate`, `regularization` …")] = {}
    learning: Annotated[
        dict[str, Any], Meta(description="Overrides of the learning configuration: `min_samples`, `interval_sec` …")
    ] = {}
    rollout: Annotated[
        dict[str, Any],
        Meta(description="How what it learns goes out, where not as configured: `strategy`, `steps` …"),
    ] = {}
    serving: Annotated[
        dict[str, Any] | None,
        Meta(description="How it is served, where not as configured: `max_batch_size`, `target_latency_ms`, `cache` …"),
    ] = None
    record: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of predictions that is recorded, so that a label can come by request id"),
    ] = 1.0


class ModelChange(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a model."""

    serving: Annotated[
        dict[str, Any],
        Meta(description="How it is served from now on; what is not said stays, null takes an override back"),
    ]


class VersionChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Which version, and why."""

    version: VersionRef
    """Its number, name or alias, `champion` or `challenger`."""
    note: Note = ""


class Reason(msgspec.Struct, forbid_unknown_fields=True):
    """Why; optional."""

    note: Note = ""


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object; may be left out."""


class FieldInfo(msgspec.Struct):
    name: str
    kind: str
    """`number` or `text`."""
    nullable: bool


class SchemaInfo(msgspec.Struct):
    """What a model takes: its fields in order."""

    fields: list[FieldInfo]
    named: bool
    """Whether features may be given as an object by name."""


class TargetInfo(msgspec.Struct):
    task: Task
    kind: str
    """The kind of a label: `number`, `integer`, `boolean`, `text`."""


class Traffic(msgspec.Struct):
    """What the model has answered here since the server started, and how long the version that serves now takes."""

    requests: int = 0
    """Over the network, answered or failed, by all its versions."""
    rows: int = 0
    """Of those requests."""
    failed: int = 0
    """Requests on which the model failed."""
    refused: int = 0
    """Requests turned away because its queue was full."""
    in_process: int = 0
    """Predictions asked for by the program that runs this server, of the version that serves now."""
    waiting: int = 0
    """Rows in its queue right now."""
    mean_seconds: float | None = None
    """Of the version that serves now, as the two below; null until it has answered over the network."""
    p50_seconds: float | None = None
    p99_seconds: float | None = None


class Learner(msgspec.Struct):
    """Where the training of a model stands."""

    is_training: bool = False
    learns_here: bool = False
    """Whether this process is the one that trains it."""
    backlog: int = 0
    """Acknowledged examples not yet learned."""
    examples_learned: int = 0
    failures: int = 0
    """Fits that failed one after the other."""
    last_error: str | None = None
    """What failed last, and has not succeeded since."""
    last_verdict: str | None = None
    """Why the last challenger does not serve; null if it does, or if there was none."""
    last_fit: float | None = None
    """Seconds since the epoch."""


class OptimizeSpec(msgspec.Struct, forbid_unknown_fields=True):
    """How far making it faster may go."""

    int8: bool = False
    """Whether its answers may differ a little: INT8 is chosen where the recorded labels show no loss."""


class Optimization(msgspec.Struct):
    """Where making the version that serves faster stands, in this process."""

    state: str = "off"
    """`off`, `waiting`, `running` or `done`."""
    reason: str = ""
    """What it waits for, or what came of it."""
    version: int | None = None
    """Which version that is about."""
    since: float | None = None
    """When the attempt began, seconds since the epoch, while it runs."""
    result: dict[str, Any] = {}
    """Of the last attempt: what was chosen, how much faster it is, and what was dropped and why."""


class ModelSummary(msgspec.Struct, kw_only=True):
    """One line of the list of models."""

    name: str
    kind: str
    task: Task | None
    status: ModelStatus
    live_version: int | None
    """The version that should serve, by the registry; None while untrained."""
    labels: int
    """Labelled examples acknowledged, ever."""
    created_at: float
    """Seconds since the epoch."""


class ModelInfo(ModelSummary, kw_only=True):
    """Everything about one model."""

    serving_version: int | None
    """The version that answers in this process right now."""
    schema: SchemaInfo | None
    """None until the first examples tell."""
    target: TargetInfo | None
    parameters: dict[str, Any]
    learning: dict[str, Any]
    serving: dict[str, Any]
    """What is overridden of how it is served; `batching` tells what is in force."""
    record: float
    quality: dict[str, Any]
    """Test-then-train figures on the labels as they came, beside the no-change baseline."""
    drift: dict[str, Any]
    input_drift: dict[str, Any]
    traffic: Traffic
    batching: dict[str, Any]
    learner: Learner
    optimization: Optimization


class ModelList(msgspec.Struct):
    models: list[ModelSummary]


class VersionInfo(msgspec.Struct, kw_only=True):
    """One trained version of a model."""

    model: str
    version: int
    status: str
    """`staging`, `live`, `retired`, `rejected` or `archived`."""
    serving: bool
    """Whether it is the one that answers in this process right now, where no traffic is split."""
    name: str
    """What its maker calls it, like `v1.0`; may be empty."""
    tags: dict[str, str]
    aliases: list[str]
    share: float
    """Of the model's traffic that it should answer, 0 to 1."""
    shadow: bool
    """Whether it is shown a copy of the traffic."""
    digest: str
    """SHA-256 of the artifact."""
    created_at: float
    note: str
    runtime: str
    task: Task
    classes: list[Any] | None
    metrics: dict[str, float]
    lineage: dict[str, Any]
    """How it came about: parent version, reason, examples, seconds."""
    libraries: dict[str, str]
    quality: dict[str, Any]
    """Live figures of its answers by labels as they came, beside the no-change baseline, and `window`, the newest 1,000 of them; empty
    where this process does not learn the model, or no label has judged the version lately."""


class VersionList(msgspec.Struct):
    model: str
    versions: list[VersionInfo]


class VersionQuality(msgspec.Struct, kw_only=True):
    """What a version's answers were worth."""

    version: int
    name: str
    status: str
    share: float
    """Of the model's traffic that it should answer, 0 to 1."""
    overall: dict[str, Any]
    """`n` labels, then the figures; `baseline_…` are those of answering with the label before."""
    window: dict[str, Any]
    """The same of its newest 1,000 labels."""


class QualityInfo(msgspec.Struct, kw_only=True):
    """A model's versions side by side."""

    model: str
    task: Task | None
    learns_here: bool
    """Whether this process learns the model; only there its quality is known."""
    overall: dict[str, Any]
    """Of all versions together, since they were first seen."""
    window: dict[str, Any]
    """Of the newest 1,000 labels, whichever version had answered."""
    versions: list[VersionQuality]
    """Those that labels have judged lately, by number."""


class EventInfo(msgspec.Struct):
    id: int
    model: str
    kind: str
    at: float
    """Seconds since the epoch."""
    message: str
    """One sentence for a person."""
    version: int | None
    data: dict[str, Any]


class Timeline(msgspec.Struct):
    model: str
    events: list[EventInfo]
    next: int
    """Give it as `after` to read on."""


class DriftInfo(msgspec.Struct):
    """What is known of a model's drift: of its errors, of its inputs, and the alarms so far."""

    model: str
    drift: dict[str, Any]
    input_drift: dict[str, Any]
    alarms: list[EventInfo]
    """The most recent drift events, newest first."""


class Memory(msgspec.Struct, rename="camel"):
    heap_used: str
    """Resident memory of this process, like `245 MB`."""
    heap_total: str
    """The most it ever was."""


class Component(msgspec.Struct):
    status: Literal["ok", "off", "degraded", "failed"]
    detail: str = ""


class Health(msgspec.Struct):
    status: Literal["healthy", "degraded", "starting", "draining", "unhealthy"]
    """`degraded`: a model's version cannot be opened; the others answer, and the server stays ready."""
    uptime: int
    """Milliseconds."""
    models: dict[str, ModelStatus]
    memory: Memory
    components: dict[str, Component]


class ServerLive(msgspec.Struct):
    live: bool


class ServerReady(msgspec.Struct):
    """Both names: the Open Inference Protocol's text and its clients differ."""

    ready: bool
    live: bool


class RequestCounts(msgspec.Struct, rename="camel"):
    total: int
    success: int
    error: int
    success_rate: str
    """Like `99.50%`."""


class Latencies(msgspec.Struct):
    avg: str = msgspec.field(name="avgLatency")
    """Like `0.4ms`."""
    p95: str = msgspec.field(name="p95Latency")
    p99: str = msgspec.field(name="p99Latency")


class ModelCalls(msgspec.Struct, rename="camel"):
    calls: int
    avg_latency: str


class MetricsSummary(msgspec.Struct):
    """Predictions since the server started."""

    requests: RequestCounts
    performance: Latencies
    models: dict[str, ModelCalls]
