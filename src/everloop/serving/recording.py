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
        """Rows `start` to `stop` of a run, of requests that are numbered from `first` on. `count` 0: single rows; otherwise each has
        `count` rows. `payloads`: what these requests brought."""


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
        rows: Sequence[Row] = [row for payload in payloads for row in payload] if count else payloads
        X, values = (inputs, answers) if stop - start == len(answers) else (inputs[start:stop], answers[start:stop])
        each = count or 1
        if share >= 1.0:
            recorder.batch(self._source, (first, len(payloads), each), encode_matrix(X, rows, schema), values)
            return
        for offset, length in sampled_runs(first, len(payloads), share):
            part = slice(offset * each, (offset + length) * each)
            encoded = encode_matrix(X[part], rows[part], schema)
            recorder.batch(self._source, (first + offset, length, each), encoded, values[part])


class TensorRecording(_ByShare):
    """Of tensors, where they are rows as the model's schema has them."""

    __slots__ = ("_work",)

    def __init__(self, recorder: Recorder, work: TensorWork, key: str, share: float) -> None:
        super().__init__(recorder, work.runner, key, share)
        self._work = work

    def put(  # noqa: PLR0917  as `Recording`
        self,
        first: int,
        count: int,
        inputs: Any,
        answers: Any,
        start: int,
        stop: int,
        payloads: Sequence[Any],
    ) -> None:
        share = self._share_now
        if share <= 0.0:
            return
        if len(payloads) > 1 and (share < 1.0 or len(inputs.groups) > 1):
            each = count or 1
            for i in range(len(payloads)):
                at = start + i * each
                self.put(first + i, count, inputs, answers, at, at + each, payloads[i : i + 1])
            return
        if share < 1.0 and not sampled(first, share):
            return
        found = self._work.recorded(answers, start, stop)
        if found is None:
            return
        X, values = found
        rows: list[Row] = X.tolist() if X.dtype == object else []
        shape = (first, len(payloads), len(values) // len(payloads))
        self._recorder.batch(self._source, shape, encode_matrix(X, rows, self._runner.schema), values)
