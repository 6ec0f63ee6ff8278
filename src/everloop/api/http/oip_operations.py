"""The operations of the Open Inference Protocol: a part of the table in `http.operations`. Health is among the server's."""

from __future__ import annotations

from everloop.api import oip_wire
from everloop.api.http import oip_codec
from everloop.api.http.operation import Operation, Parameter

_AT = "/v2/models/{model}"
_VERSION = f"{_AT}/versions/{{version}}"
_NOT_OPEN = ("model_untrained", "conflict")
_INFER = (
    "model_untrained",
    "model_failed",
    "overloaded",
    "deadline_exceeded",
    "forbidden",
    "conflict",
    "not_supported",
)
_EXAMPLE = {"inputs": [{"name": "features", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 2.0]}]}
_HEADERS = (
    Parameter(
        "Inference-Header-Content-Length",
        "header",
        {"type": "integer", "minimum": 0},
        "Bytes of the JSON at the beginning of the body, where tensors follow it as bytes.",
    ),
    Parameter(
        "Everloop-Timeout", "header", {"type": "number", "minimum": 0}, "Seconds within which the answer is of use."
    ),
)

OIP: tuple[Operation, ...] = (
    Operation(
        "infer",
        "POST",
        f"{_AT}/infer",
        "inference",
        "Answer tensors, as JSON or as bytes behind it.",
        body=oip_codec.InferRequest,
        example=_EXAMPLE,
        answer=oip_codec.InferResponse,
        refusals=_INFER,
        parameters=_HEADERS,
        scope="predict",
    ),
    Operation(
        "infer_version",
        "POST",
        f"{_VERSION}/infer",
        "inference",
        "The same, by one version. The champion's is anybody's; another one takes a key with the scope `admin`.",
        body=oip_codec.InferRequest,
        example=_EXAMPLE,
        answer=oip_codec.InferResponse,
        refusals=_INFER,
        parameters=_HEADERS,
        scope="predict",
    ),
    Operation(
        "server_metadata",
        "GET",
        "/v2",
        "inference",
        "The server's name and version, and which extensions it has.",
        answer=oip_wire.ServerMetadata,
        scope="open",
    ),
    Operation(
        "server_statistics",
        "GET",
        "/v2/models/stats",
        "inference",
        "What every version that answers here has answered.",
        answer=oip_wire.Statistics,
        scope="own",
    ),
    Operation(
        "model_metadata",
        "GET",
        _AT,
        "inference",
        "Names, types and shapes of a model's inputs and outputs.",
        answer=oip_wire.ModelMetadata,
        refusals=_NOT_OPEN,
    ),
    Operation(
        "version_metadata",
        "GET",
        _VERSION,
        "inference",
        "The same, of one version.",
        answer=oip_wire.ModelMetadata,
        refusals=_NOT_OPEN,
    ),
    Operation(
        "model_ready",
        "GET",
        f"{_AT}/ready",
        "inference",
        "Whether a model can be asked now.",
        answer=oip_wire.ModelReady,
        also=((503, "Not now."),),
    ),
    Operation(
        "version_ready",
        "GET",
        f"{_VERSION}/ready",
        "inference",
        "Whether one version can be asked now.",
        answer=oip_wire.ModelReady,
        refusals=("model_untrained",),
        also=((503, "Not now."),),
    ),
    Operation(
        "model_config",
        "GET",
        f"{_AT}/config",
        "inference",
        "How requests for a model are put together, in Triton's words.",
        answer=oip_wire.ModelConfig,
        refusals=_NOT_OPEN,
    ),
    Operation(
        "version_config",
        "GET",
        f"{_VERSION}/config",
        "inference",
        "The same, of one version.",
        answer=oip_wire.ModelConfig,
        refusals=_NOT_OPEN,
    ),
    Operation(
        "model_statistics",
        "GET",
        f"{_AT}/stats",
        "inference",
        "What a model's versions have answered here.",
        answer=oip_wire.Statistics,
        refusals=_NOT_OPEN,
    ),
    Operation(
        "version_statistics",
        "GET",
        f"{_VERSION}/stats",
        "inference",
        "What one version has answered here.",
        answer=oip_wire.Statistics,
        refusals=_NOT_OPEN,
    ),
    Operation(
        "repository_index",
        "POST",
        "/v2/repository/index",
        "inference",
        "Every version that answers here, and every model of which none does.",
        body=oip_wire.IndexSpec,
        body_required=False,
        answer=list[oip_wire.IndexEntry],
        scope="own",
    ),
    Operation(
        "load_model",
        "POST",
        "/v2/repository/models/{model}/load",
        "inference",
        "Open what was unloaded; answered when it can be asked.",
        body=oip_wire.LoadSpec,
        body_required=False,
        answer=oip_wire.Settled,
        refusals=("model_untrained", "not_supported", "store_unavailable", "artifact_corrupt"),
    ),
    Operation(
        "unload_model",
        "POST",
        "/v2/repository/models/{model}/unload",
        "inference",
        "Close a model's versions and keep all else of it. Requests in flight finish; later ones are refused.",
        body=oip_wire.LoadSpec,
        body_required=False,
        answer=oip_wire.Settled,
        refusals=("store_unavailable",),
    ),
)
