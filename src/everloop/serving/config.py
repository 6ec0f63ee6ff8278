"""What a user can say about how a model is served: the section `[serving]`, and what each model overrides of it.

A model's overrides are in its record (`stores.ports.ModelRecord.serving`), so every process that serves it sees them; the reconciler
hands a change to the lanes that are open, which go on answering meanwhile.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import msgspec

from everloop.core.errors import InvalidInput
from everloop.core.wording import near_names
from everloop.policy.batching import BatchRules
from everloop.runtime.artifact import MOST_THREADS
from everloop.stores.ports import VersionRecord

Isolation = Literal["auto", "thread", "process"]
Optimize = Literal["auto", "off", "float", "int8"]
HOUR_MS = 3_600_000.0


@dataclass(frozen=True)
class ServingConfig:
    """How requests for a model are put together, bounded, cached and kept apart. Raises InvalidInput naming the field."""

    max_batch_size: int = 256
    """Most rows of one run of the model. A request with more rows than that is run in slices."""
    window_ms: float = 0.0
    """Most milliseconds that a request waits for others to join its batch. 0: nobody waits for a timer; what arrives together runs together,
    and what arrives during a run is the next batch."""
    target_latency_ms: float | None = None
    """Milliseconds within which nearly all requests should be answered: batches are kept so small, and released so soon, that they are.
    None, or 0: batches are as large as what waits."""
    max_queue: int = 4096
    """Most rows that wait for their run, and never fewer than `max_batch_size`; beyond it requests are refused (`overloaded`)."""
    max_wait_ms: float | None = None
    """Milliseconds for which others may hold up a request; one that would have to wait longer is refused at once (`overloaded`). None, or 0:
    ten times what the model takes for one row, at least a second, and at most ten or two such rows."""
    cache: bool = False
    """Whether equal inputs are answered from memory, as long as the same version serves."""
    cache_ttl_sec: float = 300.0
    """Seconds for which an answer may be repeated."""
    isolation: Isolation = "auto"
    """Where a version that is Python code (scikit-learn, River) runs: on a `thread` of the server, in a `process` of its own, or `auto`: in a process
    if it takes longer than 20 ms for one row, for it would hold up all other models. Other runtimes are on a thread."""
    threads: int | None = None
    """Threads that one run of the model may use, where its library has threads of its own. None: one, or as many as its artifact says. Holds for
    what is opened from then on."""
    loaded: bool = True
    """Whether the model is held ready to answer."""
    optimize: Optimize = "auto"
    """What a version that goes live may become in the background: `off` nothing else, `float` a faster form that answers alike, `int8` also one
    whose answers differ a little; `auto` as `optimize.on_publish` and `optimize.int8` say."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            try:
                plain = msgspec.convert(value, _KINDS[each.name])
            except msgspec.ValidationError:
                raise InvalidInput(
                    f"{each.name}: expected {_EXPECTED[each.name]}, got {value!r}", field=each.name
                ) from None
            if plain is not value:
                object.__setattr__(self, each.name, plain)
        checks: tuple[tuple[str, bool], ...] = (
            ("max_batch_size", 1 <= self.max_batch_size <= 1 << 24),
            ("window_ms", 0 <= self.window_ms <= HOUR_MS),
            ("target_latency_ms", 0 <= (self.target_latency_ms or 0) <= HOUR_MS),
            ("max_queue", 1 <= self.max_queue <= 1 << 30),
            ("max_wait_ms", 0 <= (self.max_wait_ms or 0) <= HOUR_MS),
            ("cache_ttl_sec", 0 < self.cache_ttl_sec <= 366 * 86_400),
            ("threads", self.threads is None or 1 <= self.threads <= MOST_THREADS),
        )
        for name, good in checks:
            if not good:
                raise InvalidInput(f"{name}: expected {_EXPECTED[name]}, got {getattr(self, name)!r}", field=name)

    @property
    def rules(self) -> BatchRules:
        """What of this the batcher decides by."""
        return BatchRules(
            max_rows=self.max_batch_size,
            queue_rows=max(self.max_queue, self.max_batch_size),
            window_seconds=self.window_ms / 1e3,
            target_seconds=self.target_latency_ms / 1e3 if self.target_latency_ms else None,
        )


_KINDS = typing.get_type_hints(ServingConfig)
_EXPECTED = {
    "max_batch_size": "a whole number of rows from 1 to 16,777,216",
    "window_ms": "milliseconds from 0 to an hour",
    "target_latency_ms": "milliseconds above 0 and at most an hour, or none",
    "max_queue": "a whole number of rows from 1 on",
    "max_wait_ms": "milliseconds above 0 and at most an hour, or none",
    "cache": "true or false",
    "cache_ttl_sec": "seconds above 0 and at most a year",
    "isolation": "'auto', 'thread' or 'process'",
    "threads": "a whole number from 1 to 1,024, or none",
    "loaded": "true or false",
    "optimize": "'auto', 'off', 'float' or 'int8'",
}

DEFAULT = ServingConfig()


def effective(config: ServingConfig, overrides: Mapping[str, Any]) -> ServingConfig:
    """What holds for one model: the server's configuration with what the model overrides on top. Raises InvalidInput naming the field, as
    `serving.FIELD`."""
    if not overrides:
        return config
    for name in overrides:
        if name not in _KINDS:
            near = near_names(str(name), _KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KINDS)}"
            raise InvalidInput(f"serving.{name}: unknown; {hint}", field=f"serving.{name}")
    try:
        return replace(config, **overrides)
    except InvalidInput as error:
        raise InvalidInput(f"serving.{error.message}", field=f"serving.{error.field}") from None


def threaded(record: VersionRecord, threads: int | None) -> VersionRecord:
    """The version, to be opened with so many threads; None: as many as it says itself."""
    if threads is None:
        return record
    options = {**record.manifest.options, "threads": threads}
    return msgspec.structs.replace(record, manifest=msgspec.structs.replace(record.manifest, options=options))


def merged(overrides: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` after a change of some: None takes one back (as RFC 7396 has it)."""
    return {name: value for name, value in {**overrides, **changes}.items() if value is not None}


def loaded(config: ServingConfig, overrides: Mapping[str, Any]) -> bool:
    """Whether a model is held open. One whose record no release of ours has written, is."""
    try:
        return effective(config, overrides).loaded
    except InvalidInput:
        return True
