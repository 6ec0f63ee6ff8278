"""Who sees a model's predictions besides the journal: its shadows.

They stand at the end of the recorder, where every prediction comes by anyway, in batches and off the path of any request. So a
shadow costs a request nothing.

A model that records only a share of its predictions (`record` below 1) hands over all of them while somebody watches; the journal
still gets that share alone. So what a shadow is shown does not depend on what is recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

import msgspec

from everloop.core.schema import unpack_rows
from everloop.core.types import PredictionRecord
from everloop.policy.batching import sampled_runs

if TYPE_CHECKING:
    from everloop.serving.recorder import Channel

Watcher: TypeAlias = Callable[[PredictionRecord], object]
"""Called on the recorder's thread, by one thread at a time. Must neither block nor raise."""


class Audience:
    """Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: dict[str, tuple[Watcher, ...]] = {}
        self._shares: dict[str, float] = {}
        """Of models whose predictions are not all recorded."""
        self._channels: dict[str, WeakSet[Channel]] = {}

    def watch(self, model: str, watcher: Watcher) -> Callable[[], None]:
        """`watcher` sees every prediction of `model` from now on. Returns the function that ends that."""
        with self._lock:
            self._watchers[model] = (*self._watchers.get(model, ()), watcher)
            self._pass(model)

        def leave() -> None:
            with self._lock:
                others = tuple(other for other in self._watchers.get(model, ()) if other is not watcher)
                self._watchers = {**self._watchers, model: others}
                if not others:
                    del self._watchers[model]
                self._pass(model)

        return leave

    def watched(self, model: str) -> bool:
        return model in self._watchers

    def admit(self, channel: Channel) -> None:
        """A lane's channel is told what to hand over as that changes."""
        if channel.share >= 1.0:
            return
        with self._lock:
            self._shares[channel.model] = channel.share
            self._channels.setdefault(channel.model, WeakSet()).add(channel)
            self._pass(channel.model)

    def show(self, record: PredictionRecord) -> Sequence[PredictionRecord]:
        """To whoever watches; what of it is to be recorded comes back."""
        for watcher in self._watchers.get(record.model, ()):
            watcher(record)
        share = self._shares.get(record.model, 1.0)
        return (record,) if share >= 1.0 else kept(record, share)

    def _pass(self, model: str) -> None:
        for channel in self._channels.get(model, ()):
            channel.passed = 1.0 if model in self._watchers else channel.share


def kept(record: PredictionRecord, share: float) -> list[PredictionRecord]:
    """The requests of a record whose numbers are sampled at this share, as records of consecutive ones."""
    runs = list(sampled_runs(record.first, record.count, share))
    if runs == [(0, record.count)]:
        return [record]
    return [part(record, offset, offset + length) for offset, length in runs]


def part(record: PredictionRecord, start: int, stop: int) -> PredictionRecord:
    """Requests `start` to `stop` of a record."""
    low, high, total = start * record.rows, stop * record.rows, record.count * record.rows
    if record.encoding == "msgpack":
        features = msgspec.msgpack.encode(unpack_rows(record.encoding, record.features, total)[low:high])
    else:
        each = len(record.features) // total
        features = record.features[low * each : high * each]
    return msgspec.structs.replace(
        record,
        first=record.first + start,
        count=stop - start,
        features=features,
        predictions=record.predictions[low:high],
    )
