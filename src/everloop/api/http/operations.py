"""Every route of the server in one table: what it takes, what it answers, how it can refuse.

The Starlette app is built from it and so is the OpenAPI document, so neither can know a route that the other does not.
"""

from __future__ import annotations

from everloop.api import wire
from everloop.api.http import codec
from everloop.api.http.cache_operations import CACHE
from everloop.api.http.key_operations import KEYS
from everloop.api.http.oip_operations import OIP
from everloop.api.http.operation import ASKING, Operation, Parameter
from everloop.api.http.rollout_operations import ROLLOUTS
from everloop.api.http.showcase_operations import SHOWCASE
from everloop.api.http.version_operations import VERSIONS
from everloop.api.observing import SlowRequests

_ID = {"type": "integer", "minimum": 0, "default": 0}
_AFTER = Parameter("after", "query", _ID, "Only what comes after this event id.")
_LIMIT = Parameter("limit", "query", {"type": "integer", "minimum": 1, "default": 100}, "At most so many.")
_LATEST = Parameter("latest", "query", {"type": "boolean", "default": False}, "The newest ones instead of the oldest.")

_MODELS: tuple[Operation, ...] = (
    Operation(
        "predict",
        "POST",
        "/v1/models/{model}/predict",
        "predictions",
        "Answer one row (`features`) or many (`instances`), all by one version.",
        body=codec.PredictRequest,
        example={"features": [1.0, 2.0]},
        answer=(codec.PredictionAnswer, codec.PredictionsAnswer),
        refusals=(
            "model_untrained",
            "model_failed",
            "overloaded",
            "deadline_exceeded",
            "forbidden",
            "version_not_found",
            "conflict",
        ),
        parameters=ASKING,
        scope="predict",
    ),
    Operation(
        "feedback",
        "POST",
        "/v1/models/{model}/feedback",
        "predictions",
        "Tell what was true: a label by request id or with its own features, singly or as `examples`. "
        "Answered once it is durable.",
        body=codec.FeedbackRequest,
        example={"features": [1.0, 2.0], "label": 3.0},
        answer=codec.FeedbackAnswer,
        status=202,
        refusals=("prediction_not_found", "conflict", "overloaded", "store_unavailable"),
        parameters=(
            Parameter(
                "Idempotency-Key",
                "header",
                {"type": "string", "maxLength": 255},
                "Sent again with the same body, it counts once.",
            ),
        ),
        scope="feedback",
    ),
    Operation(
        "create_model",
        "POST",
        "/v1/models",
        "models",
        "Register a model that will learn from feedback.",
        body=wire.ModelSpec,
        example={"name": "price", "kind": "linear"},
        answer=wire.ModelInfo,
        status=201,
        refusals=("conflict", "not_supported", "untrusted"),
        also=((200, "It was there already, with the same specification."),),
    ),
    Operation("list_models", "GET", "/v1/models", "models", "All models.", answer=wire.ModelList, scope="own"),
    Operation(
        "describe_model",
        "GET",
        "/v1/models/{model}",
        "models",
        "One model: schema, labels, quality, drift, traffic, batching, learner.",
        answer=wire.ModelInfo,
    ),
    Operation(
        "change_model",
        "PATCH",
        "/v1/models/{model}",
        "models",
        "How a model is served from now on: batch sizes, latency target, queue, cache. In force at once here, and within moments on every "
        "server of the same store.",
        body=wire.ModelChange,
        example={"serving": {"max_batch_size": 64, "target_latency_ms": 50}},
        answer=wire.ModelInfo,
    ),
    Operation(
        "delete_model",
        "DELETE",
        "/v1/models/{model}",
        "models",
        "Remove a model with its versions and examples. Requests in flight finish; the timeline stays.",
        status=204,
    ),
)

_SERVER: tuple[Operation, ...] = (
    Operation(
        "train",
        "POST",
        "/v1/models/{model}/train",
        "learning",
        "Fit now instead of waiting for the loop; answered when the fit is done.",
        body=wire.Nothing,
        body_required=False,
        answer=wire.VersionInfo,
        refusals=("fit_failed", "conflict", "model_untrained", "not_supported", "overloaded"),
    ),
    Operation(
        "optimize",
        "POST",
        "/v1/models/{model}/optimize",
        "learning",
        "Look for a faster form of the version that serves, now and in the background; what comes of it is on the timeline, and in the "
        "model's `optimization`.",
        body=wire.OptimizeSpec,
        body_required=False,
        example={"int8": False},
        answer=wire.Optimization,
        status=202,
        refusals=("invalid_input",),
    ),
    Operation(
        "timeline",
        "GET",
        "/v1/models/{model}/timeline",
        "learning",
        "What happened to a model: fits, drift, swaps.",
        answer=wire.Timeline,
        refusals=("invalid_input",),
        parameters=(_AFTER, _LIMIT, _LATEST),
    ),
    Operation(
        "quality",
        "GET",
        "/v1/models/{model}/quality",
        "learning",
        "What the answers of a model's versions were worth, by labels as they came: side by side, overall and over the newest, beside the "
        "no-change baseline.",
        answer=wire.QualityInfo,
    ),
    Operation(
        "drift",
        "GET",
        "/v1/models/{model}/drift",
        "learning",
        "Drift of a model's errors and inputs, and the alarms so far.",
        answer=wire.DriftInfo,
    ),
    Operation(
        "events",
        "GET",
        "/v1/events",
        "learning",
        "Events of all models as they happen (server-sent events). With Last-Event-ID, what was missed comes first.",
        media_type="text/event-stream",
        refusals=("invalid_input", "overloaded", "draining"),
        parameters=(
            Parameter("model", "query", {"type": "string"}, "Only this model's."),
            Parameter(
                "after",
                "query",
                {"type": "integer", "minimum": 0},
                "As Last-Event-ID, for clients that cannot set headers.",
            ),
            Parameter(
                "Last-Event-ID", "header", {"type": "integer", "minimum": 0}, "The last event that was received."
            ),
        ),
    ),
    Operation(
        "health",
        "GET",
        "/health",
        "server",
        "How the server and its parts are.",
        answer=wire.Health,
        also=((503, "Not healthy: a part has failed."),),
    ),
    Operation(
        "live", "GET", "/v2/health/live", "server", "Whether the process answers.", answer=wire.ServerLive, scope="open"
    ),
    Operation(
        "ready",
        "GET",
        "/v2/health/ready",
        "server",
        "Whether to send traffic here.",
        answer=wire.ServerReady,
        also=((503, "Starting, draining, or a part has failed."),),
        scope="open",
    ),
    Operation(
        "metrics",
        "GET",
        "/metrics",
        "server",
        "Prometheus or OpenMetrics text where `Accept` asks for it, a JSON summary otherwise.",
        answer=wire.MetricsSummary,
    ),
    Operation(
        "slow",
        "GET",
        "/v1/slow",
        "server",
        "The newest requests that took longer than `observe.slow_ms`, with the time of each stage.",
        answer=SlowRequests,
        scope="admin",
    ),
    Operation(
        "openapi", "GET", "/openapi.json", "server", "This document.", media_type="application/json", scope="open"
    ),
    Operation("docs", "GET", "/docs", "server", "This document as a page.", media_type="text/html", scope="open"),
    Operation("index", "GET", "/", "server", "Leads to `/docs`.", status=307, media_type="", scope="open"),
)

OPERATIONS = (*_MODELS, *SHOWCASE, *OIP, *VERSIONS, *ROLLOUTS, *CACHE, *KEYS, *_SERVER)
