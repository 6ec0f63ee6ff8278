"""Plays streams to a server over HTTP: each example is a prediction first, and a label some predictions later.

One thread and one connection a stream. While a model has not learned anything yet, its predictions are refused
(`model_untrained`), and the labels go with their features; from the first version on they go by request id.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from everloop.app.client import Client, model_path
from everloop.app.demo.score import Score
from everloop.app.demo.streams import Example, Stream
from everloop.core.errors import EverloopError, ModelUntrained, Overloaded, StoreUnavailable

MOST_WAITS = 200
LONGEST_WAIT = 0.1
PATIENCE = 30.0
"""Seconds that a stream waits for its model's first version, once enough labels for it are there."""
GIVE_UP_AFTER = 50
"""Failures in a row after which a stream is not played on."""


class Awaiting(NamedTuple):
    """A prediction whose label has not come yet."""

    label: Any
    request_id: str | None
    features: Any


class Feeder(threading.Thread):
    """Plays `stream` to the model of its name at `rate` examples a second, until `most` are played or `stop` is set.

    When the stream ends it is played again if `again`. Labels come `delay` predictions late; the last ones at the end. After `hold_at`
    examples it waits for the model's first version: a short stream should not be over before there is anything to ask."""

    def __init__(
        self,
        stream: Stream,
        url: str,
        score: Score,
        stop: threading.Event,
        *,
        rate: float,
        delay: int,
        most: int | None,
        again: bool,
        hold_at: int | None = None,
    ) -> None:
        super().__init__(name=f"feed-{stream.name}", daemon=True)
        self._stream = stream
        self._score = score
        self._stop_event = stop
        self._rate = rate
        self._delay = delay
        self._most = most
        self._again = again
        self._hold_at = hold_at
        self._client = Client(url)
        self._awaiting: deque[Awaiting] = deque()
        self._failures = 0

    def run(self) -> None:
        name = self._stream.name
        try:
            self._play()
            while self._awaiting and not self._stop_event.is_set():
                self._label(self._awaiting.popleft())
        except EverloopError as error:  # the stream itself: a bad line of a file
            self._score.failure(name, str(error))
        finally:
            self._client.close()
            self._score.finished(name)

    def _play(self) -> None:
        began = time.monotonic()
        for played, (features, label) in enumerate(self._examples()):
            if self._most is not None and played >= self._most:
                return
            # By schedule, not by pause: a slow answer delays the next request, but does not lower the rate for good.
            ahead = began + played / self._rate - time.monotonic()
            if self._stop_event.wait(max(0.0, ahead)) or self._failures >= GIVE_UP_AFTER:
                return
            began = max(began, time.monotonic() - played / self._rate - 1.0)
            self._score.count(self._stream.name, "played")
            if played == self._hold_at and self._hold(features):
                began = time.monotonic() - played / self._rate
            waiting = self._predict(features, label)
            if waiting is not None and label is not None:
                self._awaiting.append(waiting)
            while len(self._awaiting) > self._delay:
                self._label(self._awaiting.popleft())

    def _examples(self) -> Iterator[Example]:
        yield from self._stream.play()
        while self._again:
            yield from self._stream.play()

    def _predict(self, features: Any, label: Any) -> Awaiting | None:
        name = self._stream.name
        sent = time.perf_counter()
        try:
            answer = self._ask("predict", {"features": features})
        except ModelUntrained:
            self._score.count(name, "cold")
            return Awaiting(label, None, features)
        if answer is None:
            return None
        self._score.answered(name, time.perf_counter() - sent, answer["model_version"])
        return Awaiting(label, answer["request_id"], None)

    def _hold(self, features: Any) -> bool:
        """Wait for a first version; whether that took any time."""
        until = time.monotonic() + PATIENCE
        for turn in range(int(PATIENCE / LONGEST_WAIT)):
            try:
                self._ask("predict", {"features": features})
            except ModelUntrained:
                hopeless = self._score.hopeless(self._stream.name)
                if hopeless or time.monotonic() > until or self._stop_event.wait(LONGEST_WAIT):
                    return True
            else:
                return turn > 0
        return True

    def _label(self, waiting: Awaiting) -> None:
        body: dict[str, Any] = {"label": waiting.label}
        if waiting.request_id is not None:
            body["request_id"] = waiting.request_id
        else:
            body["features"] = waiting.features
        if self._ask("feedback", body) is not None:
            self._score.count(self._stream.name, "labels")

    def _ask(self, verb: str, body: dict[str, Any]) -> Any:
        """The answer; None if it failed, which is counted. Waits while the server says that it has too much to do."""
        name = self._stream.name
        for _ in range(MOST_WAITS):
            try:
                answer = self._client.call("POST", model_path(name, verb), body)
            except (Overloaded, StoreUnavailable) as error:  # the second: its first version is being opened
                self._score.count(name, "waits")
                if self._stop_event.wait(min(error.retry_after or 0.1, LONGEST_WAIT)):
                    return None
            except ModelUntrained:
                raise
            except (EverloopError, ConnectionError) as error:
                if not self._stop_event.is_set():  # what is cut off by the end is no failure
                    self._failures += 1
                    self._score.failure(name, f"{verb}: {error}")
                return None
            else:
                self._failures = 0
                return answer
        self._score.failure(name, f"{verb}: the server had too much to do for too long")
        return None


class Listener(threading.Thread):
    """Hears the server's events from the first one on, and hands each to `tell`."""

    def __init__(self, url: str, score: Score, stop: threading.Event, tell: Any) -> None:
        super().__init__(name="demo-events", daemon=True)
        self._client = Client(url, timeout=60.0)
        self._score = score
        self._stop_event = stop
        self._tell = tell
        self._last = 0

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                for event in self._client.events(after=self._last):
                    self._last = event["id"]
                    if self._score.happened(event):
                        self._tell(event)
            except (EverloopError, ConnectionError) as error:
                if not self._stop_event.is_set():
                    self._score.trouble = f"the event stream broke: {error}"
            self._stop_event.wait(0.2)

    def close(self) -> None:
        """After `stop` is set: end the blocked read, and wait for the thread."""
        self._client.wake()
        self.join(timeout=5.0)


def look(client: Client, score: Score) -> None:
    """Take over what the server says of every model. Raises ConnectionError, EverloopError."""
    for name in score.models:
        score.told(name, client.get(model_path(name)))
