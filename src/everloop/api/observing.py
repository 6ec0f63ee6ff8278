"""Who looks at single requests: lines of access, samples of slow ones, spans. And who is told of errors.

    begin ──► Observed ──► settled (by the batcher's ticket: which version, when it ran) ──► end ──► line, sample, span, exemplar
       └─ one test where nobody looks: `Services.observer` is None

A request has one id in all of them: what its caller sent as `X-Request-Id`, else the request id of the prediction that it was answered
with (the one that labels name and the journal has); one that fails by the server's fault without either gets one. What a caller
sends is bounded and printable before it is written anywhere.

Seconds are of `time.perf_counter`, but for `at`, which is since the epoch.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import random
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from everloop.core.errors import EverloopError, InvalidInput, explain
from everloop.core.types import request_id

if TYPE_CHECKING:
    from everloop.api.tracing import Trace, Tracing
    from everloop.serving.batcher import Batcher

Address: TypeAlias = "tuple[str, int] | str | None"
REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""What is taken for a caller's request id, and given back; anything else is passed over, as if it had not been sent."""
LONGEST_PATH = 200
MOST_ERRORS = 10
"""Lines of errors in one second; further ones are counted, and the count is told with the next."""
CLIENT_GONE = 499
"""The status of a request whose client went before it was answered: nothing was sent. nginx's number for it."""

access = logging.getLogger("everloop.access")
errors = logging.getLogger("everloop.errors")


@dataclass(frozen=True)
class Observing:
    """What is told of single requests. Raises InvalidInput naming the field."""

    access_log: float = 0.0
    """Share of requests that get a line in the log when they have been answered: 0 to 1."""
    slow_ms: float | None = None
    """Milliseconds from which on a request is kept as a sample, with the time of each stage; None keeps none."""
    slow_kept: int = 100
    """The newest so many samples."""
    trace_endpoint: str | None = None
    """Where spans go: the URL of an OpenTelemetry collector (OTLP over HTTP); None makes none. Needs the extra `otel`."""
    trace_share: float = 0.01
    """Share of requests that are traced, of those that come without a `traceparent`; its own flag decides for one that has it."""

    def __post_init__(self) -> None:
        for name, value in (("access_log", self.access_log), ("trace_share", self.trace_share)):
            if not 0 <= value <= 1:
                raise InvalidInput(f"{name}: expected between 0 and 1, got {value!r}", field=name)
        if self.slow_ms is not None and not self.slow_ms >= 0:
            raise InvalidInput(f"slow_ms: expected at least 0 milliseconds, got {self.slow_ms!r}", field="slow_ms")
        if not 1 <= self.slow_kept <= 100_000:
            raise InvalidInput(f"slow_kept: expected between 1 and 100000, got {self.slow_kept!r}", field="slow_kept")
        if self.trace_endpoint is not None and not self.trace_endpoint.startswith(("http://", "https://")):
            raise InvalidInput(
                f"trace_endpoint: expected a URL like http://127.0.0.1:4318/v1/traces, got {self.trace_endpoint!r}",
                field="trace_endpoint",
            )


class SlowRequest(msgspec.Struct, kw_only=True):
    """One that took longer than `slow_ms`: where its time went."""

    at: float
    """When it came, in seconds since the epoch."""
    request_id: str
    method: str
    path: str
    status: int
    """499: the client went before it was answered."""
    total_seconds: float
    queue_seconds: float | None
    """Until its batch began to run, reading and checking it among them; null where no model ran."""
    run_seconds: float | None
    """Its batch's, in the model."""
    rest_seconds: float
    """Writing the answer, and waiting for whatever else the event loop did; all of it where no model ran."""
    model: str = ""
    version: int = 0
    rows: int = 0
    client: str = ""
    caller: str = ""
    """Whose key it came with."""
    trace_id: str = ""


class SlowRequests(msgspec.Struct):
    slow_ms: float | None
    """From which on a request is kept; null: none is, and `observe.slow_ms` changes that."""
    seen: int
    """How many were slow since the server started, kept or not."""
    requests: list[SlowRequest]
    """The newest first."""


class Observed:
    """One request that is looked at, from its beginning to its end. Making one costs little; what only a few are asked for is found when
    it is."""

    status = 0
    code = ""
    """Of the error that was answered."""
    caller = ""
    """Whose key it came with."""
    model = ""
    version = 0
    rows = 0
    key = ""
    number = 0
    """With `key`, the prediction's request id."""
    ran = 0.0
    """When its batch began to run; 0 if none did."""
    run = 0.0
    """Seconds that its batch ran."""
    total = 0.0
    trace: Trace | None = None
    """The span, if it is traced."""

    def __init__(self, method: str, target: str | bytes, route: str, request_id: str, client: Address) -> None:
        self.method = method
        self._target = target
        self.route = route
        """As in the table of operations, with the names of its parts; empty until the router knows."""
        self.request_id = request_id
        """The caller's; empty if it sent none."""
        self._client = client
        self.began = perf_counter()

    def settled(self, batcher: Batcher, number: int, rows: int) -> None:
        """It is being answered, from the batch that `batcher` has just run."""
        self.model = batcher.model
        self.version = batcher.version
        self.key = batcher.key
        self.number = number
        self.rows = rows
        self.ran, self.run = batcher.ran

    @property
    def at(self) -> float:
        """When it came, in seconds since the epoch."""
        return time() - (perf_counter() - self.began)

    @property
    def path(self) -> str:
        text = self._target if isinstance(self._target, str) else self._target.decode("latin-1")
        return text[:LONGEST_PATH]

    @property
    def client(self) -> str:
        """Its address."""
        client = self._client
        return client if isinstance(client, str) else f"{client[0]}:{client[1]}" if client else ""

    @property
    def prediction_id(self) -> str:
        return request_id(self.key, self.number) if self.key else ""

    @property
    def queue(self) -> float | None:
        """Seconds until its batch began to run, reading and checking it among them; None if none did."""
        return max(0.0, self.ran - self.began) if self.ran else None

    @property
    def id(self) -> str:
        return self.request_id or self.prediction_id

    @property
    def traceresponse(self) -> str:
        """A header of the answer: which span of ours the request became; empty if it is not traced."""
        return self.trace.header if self.trace is not None else ""

    @property
    def trace_id(self) -> str:
        return self.trace.id if self.trace is not None else ""


class Observer:
    """Of one server. `begin` and `end` of a request are called on one thread; requests may be on several."""

    def __init__(self, config: Observing, tracing: Tracing | None = None) -> None:
        self._access = config.access_log
        self._slow_ms = config.slow_ms
        self._slow = float("inf") if config.slow_ms is None else config.slow_ms / 1000
        self._samples: deque[SlowRequest] = deque(maxlen=config.slow_kept)
        self._tracing = tracing
        self.seen_slow = 0
        """Requests that were slow, kept or not."""

    @property
    def tracing(self) -> Tracing | None:
        return self._tracing

    def begin(  # noqa: PLR0917  called once a request, where names cost
        self,
        method: str,
        target: str | bytes,
        route: str = "",
        request_id: str = "",
        client: Address = None,
        traceparent: str = "",
    ) -> Observed:
        seen = Observed(method, target, route, request_id, client)
        if self._tracing is not None:
            seen.trace = self._tracing.begin(seen, traceparent)
        return seen

    def end(self, seen: Observed, status: int) -> None:
        """It has been answered, with `status`; CLIENT_GONE if nobody was there to be answered."""
        seen.status = status
        seen.total = perf_counter() - seen.began
        if seen.total >= self._slow:
            self.seen_slow += 1
            self._samples.append(_sample(seen))
        if seen.trace is not None:
            assert self._tracing is not None
            self._tracing.end(seen)
        if self._access and (self._access >= 1 or random() < self._access):  # noqa: S311  not a secret
            access.info(
                "%s %s %d %.2f ms %s",
                seen.method,
                seen.path,
                status,
                seen.total * 1000,
                seen.id,
                extra={"facts": dict(_fields(seen))},
            )

    def slow(self) -> SlowRequests:
        """From any thread."""
        return SlowRequests(self._slow_ms, self.seen_slow, [*reversed(self._samples.copy())])


def observer_of(config: Observing, tracing: Tracing | None = None) -> Observer | None:
    """None where nobody looks."""
    if not config.access_log and config.slow_ms is None and tracing is None:
        return None
    return Observer(config, tracing)


class ErrorLog:
    """Every error that is the server's or a model's gets a line with its request's id; of a flood of them the first few a second do, and the
    others are counted. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._second = 0
        self._told = 0
        self._untold = 0

    def new_id(self) -> str:
        """For a request that came without one and fails: what its answer says and the log has."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def heard(self, operation: str, error: BaseException, *, request_id: str, model: str = "") -> str:
        """Tell of it if it is worth that; of a defect of ours with its trace. Returns the id that the answer has to say: empty where the
        caller has one, or there is nothing to be found in the log. Called where `error` is handled."""
        if isinstance(error, EverloopError) and (error.fault == "caller" or error.code in ("starting", "draining")):
            return ""
        made = "" if request_id else self.new_id()
        untold = self._admit()
        if untold is not None:
            self._tell(operation, error, request_id or made, model, untold)
        return made

    def _tell(self, operation: str, error: BaseException, request_id: str, model: str, untold: int) -> None:
        code = error.code if isinstance(error, EverloopError) else "internal"
        more = f" ({untold} more errors were not told)" if untold else ""
        errors.error(
            "%s%s: %s: %s [%s]%s",
            operation,
            f" of {model}" if model else "",
            code,
            explain(error),
            request_id,
            more,
            exc_info=error if code == "internal" else None,
            extra={
                "facts": {
                    "operation": operation,
                    "model": model,
                    "code": code,
                    "request_id": request_id,
                    "untold": untold,
                }
            },
        )

    def _admit(self) -> int | None:
        """How many were not told since the last one; None if this one is not either."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._told = second, 0
            if self._told >= MOST_ERRORS:
                self._untold += 1
                return None
            self._told += 1
            untold, self._untold = self._untold, 0
            return untold


def checked_id(text: str | None) -> str:
    """A caller's `X-Request-Id`; empty if it has none that can be used."""
    return text if text is not None and REQUEST_ID.fullmatch(text) else ""


def _sample(seen: Observed) -> SlowRequest:
    queue = seen.queue
    return SlowRequest(
        at=seen.at,
        method=seen.method,
        path=seen.path,
        status=seen.status,
        request_id=seen.id,
        total_seconds=seen.total,
        queue_seconds=queue,
        run_seconds=None if queue is None else seen.run,
        rest_seconds=seen.total if queue is None else max(0.0, seen.total - queue - seen.run),
        model=seen.model,
        version=seen.version,
        rows=seen.rows,
        client=seen.client,
        caller=seen.caller,
        trace_id=seen.trace_id,
    )


def _fields(seen: Observed) -> Iterator[tuple[str, Any]]:
    """Of a line, without what is not known."""
    yield "method", seen.method
    yield "path", seen.path
    yield "status", seen.status
    yield "seconds", round(seen.total, 6)
    if seen.ran:
        yield "queue_seconds", round(seen.queue or 0.0, 6)
        yield "run_seconds", round(seen.run, 6)
        yield "model", seen.model
        yield "version", seen.version
        yield "rows", seen.rows
    for name in ("code", "client", "caller", "prediction_id", "trace_id"):
        if value := getattr(seen, name):
            yield name, value
    yield "request_id", seen.id
