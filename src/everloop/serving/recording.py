"""How a batcher's answers are recorded: once a batch where it can be, before anybody is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from everloop.core.types import Row
from everloop.policy.batching import sampled, sampled_runs
from everloop.serving.recorder import Recorder, encode_matrix

if TYPE_CHECKING:
    from everloop.serving.runner import Runner
    from everloop.serving.tensor_work import TensorWork


class Recording(Protocol):
    """Where the answers of one batcher go."""

    def put(  # noqa: PLR0917  what was asked, of what, and what came of it
        self, first: int, count: int, inputs: Any, answers: Any, start: int, stop: int, payloads: Sequence[Any]
    ) -> None:
        """Rows `start` to `stop` of a run. `count` 0: single rows, one request each, numbered from `first` on; otherwise the one request
        `first` of `count` rows. `payloads`: what these requests brought."""


class _ByShare:
    """Of one version, by the share of its requests that is recorded."""

    __slots__ = ("_recorder", "_runner", "_share", "_source")

    def __init__(self, recorder: Recorder, runner: Runner, key: str, share: float) -> None:
        self._recorder = recorder
        self._runner = runner
        self._share = share
        self._source = (runner.model, runner.version, key)

    @property
    def _share_now(self) -> float:
        """All of them while somebody looks who wants to see all."""
        return 1.0 if self._recorder.audience.watched(self._runner.model) else self._share


class RowRecording(_ByShare):
    """Of rows."""

    __slots__ = ()

    def put(  # noqa: PLR0917  as `Recording`
        self, first: int, count: int, inputs: Any, answers: Any, start: int, stop: int, payloads: Sequence[Any]
    ) -> None:
        recorder, schema, share = self._recorder, self._runner.schema, self._share_now
        if share <= 0.0:
            return
        rows: Sequence[Row] = payloads[0] if count else payloads
        X, values = (inputs, answers) if stop - start == len(answers) else (inputs[start:stop], answers[start:stop])
        if share >= 1.0:
            requests, each = (1, count) if count else (len(values), 1)
            recorder.batch(self._source, (first, requests, each), encode_matrix(X, rows, schema), values)
        elif count:
            if sampled(first, share):
                recorder.batch(self._source, (first, 1, count), encode_matrix(X, rows, schema), values)
        else:
            for offset, length in sampled_runs(first, len(values), share):
                part = slice(offset, offset + length)
                encoded = encode_matrix(X[part], rows[part], schema)
                recorder.batch(self._source, (first + offset, length, 1), encoded, values[part])


class TensorRecording(_ByShare):
    """Of tensors, where they are rows as the model's schema has them."""

    __slots__ = ("_work",)

    def __init__(self, recorder: Recorder, work: TensorWork, key: str, share: float) -> None:
        super().__init__(recorder, work.runner, key, share)
        self._work = work

    def put(  # noqa: PLR0917  as `Recording`
        self,
        first: int,
        count: int,  # noqa: ARG002
        inputs: Any,  # noqa: ARG002
        answers: Any,
        start: int,
        stop: int,
        payloads: Sequence[Any],  # noqa: ARG002
    ) -> None:
        share = self._share_now
        if share <= 0.0 or not sampled(first, share):
            return
        found = self._work.recorded(answers, start, stop)
        if found is None:
            return
        X, values = found
        rows: list[Row] = X.tolist() if X.dtype == object else []
        self._recorder.batch(self._source, (first, 1, len(values)), encode_matrix(X, rows, self._runner.schema), values)
