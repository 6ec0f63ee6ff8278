"""What a batcher runs: the contract between the queue and whatever answers it.

A batcher knows requests, counts and deadlines; a `Work` knows what is in them. There are three: rows of features (`runner`), tensors
(`tensor_work`), and the frames of a program that batches without a server (`frame_work`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from everloop.core.errors import EverloopError, Failure, InvalidInput, ModelFailed, TooLarge

if TYPE_CHECKING:
    from everloop.policy.batching import BatchRules
    from everloop.serving.guard import Guard


class Work(Protocol):
    """Of one version, in one form. `payload`: what one request brought, `count` its rows (0: one single row, answered by `deliver`)."""

    @property
    def model(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def rules(self) -> BatchRules: ...

    @property
    def guard(self) -> Guard | None: ...

    @property
    def varies(self) -> bool:
        """Whether what a run takes depends on its input so much that no measurement foretells it: it never runs on an event loop."""

    def gather(self, payloads: Sequence[Any], counts: Sequence[int] | None) -> Any:
        """The inputs of one run out of many requests, in order; `counts` None: all are single rows. Raises EverloopError."""

    def run(self, inputs: Any) -> Any:
        """The answers to all of it. Raises ModelFailed."""

    def sound(self, answers: Any) -> bool:
        """Whether all of them can be answered."""

    def part(self, answers: Any, start: int, stop: int) -> Any:
        """The answers to rows `start` to `stop`."""

    def failed(self, what: str, how: Failure = "raised") -> ModelFailed:
        """What this version could not answer, and why."""

    def weight(self, payload: Any, count: int) -> int:
        """Bytes that a request holds while it waits, about."""

    def blame(self, payload: Any, count: int) -> EverloopError | None:
        """The error of a request that failed alone, naming the instance where one is to blame; None: it answers when it is alone."""

    def adopt(self, payload: Any, count: int, other: Work) -> Any:
        """A request that was checked for `other`, another version's work of this form, as one of this version. Raises InvalidInput."""

    def take_detour(self) -> float:
        """Seconds that runs of this thread have waited for another process, beyond what the model took, since it was last asked."""

    def key(self, payload: Any, count: int) -> bytes | None:
        """What the answer depends on besides the version, so that no two inputs share it; None: never the same twice."""


def told(work: Work, error: EverloopError) -> EverloopError:
    """What a request is told of an error that its run raised. A session may refuse an input that only it can judge (InvalidInput, TooLarge);
    whatever else it raises is its own failure."""
    return error if isinstance(error, (ModelFailed, InvalidInput, TooLarge)) else work.failed(error.message)
