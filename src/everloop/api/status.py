"""The one table from an error's code to what a protocol answers: an HTTP status, a gRPC status, a title for people.

The doubtful ones, decided here:

- `fit_failed` is 422: the server is well and understood the request; these examples cannot be fitted with these parameters,
  and sending the same again changes nothing. (Background fits that fail are events, not answers.)
- `model_failed` is 500: the input passed the schema, so it is the model's defect and its owner should be paged.
- `not_supported` is 422: readable, but a kind or an operation that everloop does not have.
- `closed` is 503: an engine that was closed under a running server is a server that is going away.
- `missing_extra` is 501: the route exists, this installation cannot serve it.
"""

from __future__ import annotations

from typing import NamedTuple

from everloop.core.errors import EverloopError


class Status(NamedTuple):
    http: int
    grpc: str
    """The name of a gRPC status code."""
    title: str
    retry_after: float | None = None
    """Seconds, where the error itself does not say."""


STATUSES: dict[str, Status] = {
    "internal": Status(500, "INTERNAL", "Internal error"),
    "malformed": Status(400, "INVALID_ARGUMENT", "Malformed request"),
    "invalid_input": Status(422, "INVALID_ARGUMENT", "Invalid input"),
    "too_large": Status(413, "RESOURCE_EXHAUSTED", "Too large"),
    "model_not_found": Status(404, "NOT_FOUND", "Model not found"),
    "version_not_found": Status(404, "NOT_FOUND", "Version not found"),
    "rollout_not_found": Status(404, "NOT_FOUND", "Rollout not found"),
    "key_not_found": Status(404, "NOT_FOUND", "Key not found"),
    "prediction_not_found": Status(404, "NOT_FOUND", "Prediction not found"),
    "conflict": Status(409, "FAILED_PRECONDITION", "Conflict"),
    "model_untrained": Status(409, "FAILED_PRECONDITION", "Model untrained"),
    "not_supported": Status(422, "UNIMPLEMENTED", "Not supported"),
    "untrusted": Status(403, "PERMISSION_DENIED", "Not trusted"),
    "unauthenticated": Status(401, "UNAUTHENTICATED", "Unauthenticated"),
    "forbidden": Status(403, "PERMISSION_DENIED", "Forbidden"),
    "missing_extra": Status(501, "UNIMPLEMENTED", "Optional dependency missing"),
    "overloaded": Status(503, "UNAVAILABLE", "Overloaded", 1.0),
    "quota_exceeded": Status(429, "RESOURCE_EXHAUSTED", "Quota exceeded", 1.0),
    "deadline_exceeded": Status(504, "DEADLINE_EXCEEDED", "Deadline exceeded"),
    "starting": Status(503, "UNAVAILABLE", "Starting", 1.0),
    "draining": Status(503, "UNAVAILABLE", "Draining", 1.0),
    "model_failed": Status(500, "INTERNAL", "Model failed"),
    "fit_failed": Status(422, "FAILED_PRECONDITION", "Fit failed"),
    "not_picklable": Status(422, "INVALID_ARGUMENT", "Not picklable"),
    "item_failed": Status(500, "INTERNAL", "Item failed"),
    "worker_died": Status(500, "INTERNAL", "Worker died"),
    "item_timeout": Status(500, "DEADLINE_EXCEEDED", "Item timed out"),
    "checkpoint_mismatch": Status(409, "FAILED_PRECONDITION", "Checkpoint mismatch"),
    "artifact_corrupt": Status(500, "DATA_LOSS", "Artifact corrupt"),
    "store_unavailable": Status(503, "UNAVAILABLE", "Store unavailable", 5.0),
    "closed": Status(503, "UNAVAILABLE", "Closed", 1.0),
}


def status_of(error: BaseException) -> Status:
    """The status of any error; what is not ours (or not in the table) is `internal`."""
    code = error.code if isinstance(error, EverloopError) else "internal"
    return STATUSES.get(code, STATUSES["internal"])


def retry_after(error: BaseException) -> float | None:
    """Seconds after which the same request may succeed: what the error says, else the table; None: no use."""
    status = status_of(error)
    told = error.retry_after if isinstance(error, EverloopError) else None
    if status.http not in (429, 503):
        return None
    return told if told is not None else status.retry_after
