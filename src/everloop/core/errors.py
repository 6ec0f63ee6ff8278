"""The one tree of errors, each saying whose fault it is.

Every error has a stable, machine-readable `code`; `api.status` maps codes to HTTP and gRPC statuses, so nothing here
knows a protocol. Errors that Python users would expect as `ValueError` or `KeyError` are those, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from everloop.core.wording import near_names

Fault = Literal["caller", "server", "model"]
Failure = Literal["raised", "not_finite", "shape", "timeout", "crash"]
"""How a model failed on an input."""


class EverloopError(Exception):
    """Base of all errors that everloop raises on purpose."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = "server"

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """Which part of the input was wrong, e.g. `features[3]` or `label`; None where no part is to blame."""
        self.retry_after = retry_after
        """Seconds after which the same request may succeed; None where retrying does not help."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return self.message


class Malformed(EverloopError, ValueError):
    """The bytes or the structure of a request cannot be read."""

    code = "malformed"
    fault = "caller"


class InvalidInput(EverloopError, ValueError):
    """Readable, but of the wrong shape, type or range; `field` names the part."""

    code = "invalid_input"
    fault = "caller"


class TooLarge(EverloopError, ValueError):
    """A body, batch or row beyond the configured limit."""

    code = "too_large"
    fault = "caller"


class ModelNotFound(EverloopError, KeyError):
    """No model of that name; the message proposes near names."""

    code = "model_not_found"
    fault = "caller"

    @classmethod
    def named(cls, name: str, known: Iterable[str]) -> ModelNotFound:
        names = list(known)
        near = near_names(name, names, n=3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        if not names:
            hint = "; no model is registered yet"
        return cls(f"there is no model named {name!r}{hint}")


class VersionNotFound(EverloopError, KeyError):
    """The model exists, that version of it does not."""

    code = "version_not_found"
    fault = "caller"


class RolloutNotFound(EverloopError, KeyError):
    """The model exists and has had no rollout yet."""

    code = "rollout_not_found"
    fault = "caller"


class KeyNotFound(EverloopError, KeyError):
    """There is no key of that id or name."""

    code = "key_not_found"
    fault = "caller"


class PredictionNotFound(EverloopError, KeyError):
    """A label names a request id that is not in the journal: never made, not sampled, or past retention."""

    code = "prediction_not_found"
    fault = "caller"


class Conflict(EverloopError, ValueError):
    """The request contradicts what is already there: a name taken, a label given twice with different values."""

    code = "conflict"
    fault = "caller"


class Forbidden(EverloopError, PermissionError):
    """The caller is known or not, but may not do this: asking for a version by header needs a key for it."""

    code = "forbidden"
    fault = "caller"


class Unauthenticated(EverloopError, PermissionError):
    """The caller gave no key where one is needed, or one that is unknown, expired or withdrawn."""

    code = "unauthenticated"
    fault = "caller"


class ModelUntrained(EverloopError, ValueError):
    """The model is registered but has no version yet: it has not seen enough labelled examples."""

    code = "model_untrained"
    fault = "caller"


class NotSupported(EverloopError, ValueError):
    """A kind of model or artifact, or an operation on it, that everloop cannot do."""

    code = "not_supported"
    fault = "caller"


class Untrusted(EverloopError, ValueError):
    """Loading would execute code from a file (pickle, unknown types) and nobody said that is fine."""

    code = "untrusted"
    fault = "caller"


class MissingExtra(EverloopError, ImportError):
    """An optional dependency is not installed; the message is the exact line that installs it."""

    code = "missing_extra"
    fault = "server"

    @classmethod
    def of(cls, extra: str, what: str) -> MissingExtra:
        return cls(f"{what} needs an optional dependency: pip install 'everloop[{extra}]'")


class Overloaded(EverloopError, RuntimeError):
    """A bounded queue is full; nothing was accepted. Carries `retry_after`."""

    code = "overloaded"
    fault = "server"


class QuotaExceeded(EverloopError, RuntimeError):
    """This caller has used up what its key may ask for; others are not concerned. Carries `retry_after`."""

    code = "quota_exceeded"
    fault = "caller"


class DeadlineExceeded(EverloopError, TimeoutError):
    """The answer cannot be there, or was not there, within the time that the caller gave it; the model was not asked in vain."""

    code = "deadline_exceeded"
    fault = "server"


class Starting(EverloopError, RuntimeError):
    """The server still opens what it serves: the model may be there in a moment. Carries `retry_after`."""

    code = "starting"
    fault = "server"


class Draining(EverloopError, RuntimeError):
    """The server is shutting down and takes no new work. Carries `retry_after`."""

    code = "draining"
    fault = "server"


class ModelFailed(EverloopError, RuntimeError):
    """The model raised, or answered something unusable (NaN, infinity, a wrong shape), or took too long, for this input."""

    code = "model_failed"
    fault = "model"
    how: Failure = "raised"


class FitFailed(EverloopError, RuntimeError):
    """A fit raised, ran out of time or its process died; the examples are untouched."""

    code = "fit_failed"
    fault = "model"


class NotPicklable(EverloopError, TypeError):
    """The function, an item or a result cannot be sent between processes; the message says which part and what to do."""

    code = "not_picklable"
    fault = "caller"


class ItemFailed(EverloopError, RuntimeError):
    """An item of a parallel run failed in a way that its own exception cannot tell: that exception could not be sent back."""

    code = "item_failed"
    fault = "model"


class WorkerDied(ItemFailed):
    """The workers that ran this item were killed or crashed, as often as was allowed: the item is poison."""

    code = "worker_died"
    how = "it died"
    """What became of the last of them: `killed by signal 9`."""


class ItemTimeout(ItemFailed, TimeoutError):
    """An item of a parallel run took longer than its `timeout`, as often as was allowed."""

    code = "item_timeout"


class CheckpointMismatch(EverloopError, ValueError):
    """A checkpoint belongs to another function, other data or other options; nothing was overwritten."""

    code = "checkpoint_mismatch"
    fault = "caller"


class ArtifactCorrupt(EverloopError, RuntimeError):
    """Bytes whose SHA-256 differs from their name, or that their runtime cannot read."""

    code = "artifact_corrupt"
    fault = "server"


class StoreUnavailable(EverloopError, RuntimeError):
    """The journal, registry or artifact store cannot be written or read (disk full, locked, closed)."""

    code = "store_unavailable"
    fault = "server"


class Closed(EverloopError, RuntimeError):
    """Used after `close()`."""

    code = "closed"
    fault = "caller"


def explain(error: BaseException) -> str:
    """Any exception in one line: ours by its message, others by type, message, and where they were raised."""
    if isinstance(error, EverloopError):
        return error.message
    try:
        told = f"{type(error).__name__}: {error}"
    except Exception:  # a user's class, whose own __str__ fails
        told = type(error).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return told
    code = trace.tb_frame.f_code
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{told} (in {code.co_name}, {file}:{trace.tb_lineno})"
