"""How a run treats trouble: one declaration of every option of `execute` and `stream` that does not choose speed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from everloop.core.errors import InvalidInput
from everloop.parallel.validation import number

OnError = Literal["raise", "skip", "return"]


@dataclass(frozen=True)
class RunOptions:
    """Checked when it is made: InvalidInput names the field, what was wrong and what is allowed."""

    on_error: OnError = "raise"
    """What an item's failure does once its retries are over: `raise` ends the run with it, `skip` leaves the item out of the results,
    `return` puts an `ItemFailure` in its place."""
    dead_letter: str | Path | None = None
    """With `skip` or `return`: an NDJSON file that each failed item is appended to, with its error."""
    retries: int = 0
    """How often an item that raised or timed out is tried again."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Only these exceptions are worth another try."""
    backoff: float = 0.1
    """Seconds before the first retry, doubled for each further one."""
    max_backoff: float = 30.0
    jitter: float = 0.5
    """Share of the wait that is random, in [0, 1]: retries must not come back in step."""
    timeout: float | None = None
    """Seconds that one item may take. Its process is ended if need be; a thread cannot be ended and is abandoned."""
    max_deaths: int = 3
    """An item alone in its chunk that has killed this many workers is poison. Where somebody else kills workers, too (which shows in
    items that lost one and went well later), it takes as many more."""
    checkpoint: str | Path | None = None
    """A file that finished chunks are kept in: the same call after a crash goes on where it was."""
    checkpoint_interval: float = 1.0
    """Seconds between two syncs of that file."""
    memory_threshold: float | None = None
    """Share of memory in use (of the cgroup's limit, where there is one) above which nothing more is submitted; None: no backpressure."""
    progress: bool | None = None
    """A progress bar on stderr; None: for work that takes long, where stderr is a terminal or a notebook."""
    label: str = ""
    """What the progress bar, hooks and counters call this run; the function's name if empty."""

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip", "return"):
            raise InvalidInput(f"on_error: {self.on_error!r} is not one of raise, skip, return", field="on_error")
        if self.dead_letter is not None and self.on_error == "raise":
            raise InvalidInput(
                "dead_letter: needs on_error='skip' or 'return', an error now ends the run", field="dead_letter"
            )
        number("retries", self.retries, 0, whole=True)
        number("max_deaths", self.max_deaths, 1, whole=True)
        number("backoff", self.backoff, 0)
        number("max_backoff", self.max_backoff, 0)
        number("jitter", self.jitter, 0, 1)
        number("checkpoint_interval", self.checkpoint_interval, 0)
        if self.timeout is not None:
            number("timeout", self.timeout, 0, above=True)
        if self.memory_threshold is not None:
            number("memory_threshold", self.memory_threshold, 0, 1, above=True)
        if not isinstance(self.retry_on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.retry_on
        ):
            raise InvalidInput("retry_on: a tuple of exception classes is needed", field="retry_on")

    @classmethod
    def of(cls, **given: Any) -> RunOptions:
        """From a call's keyword arguments. Raises InvalidInput for one that does not exist, with near names."""
        known = {each.name for each in fields(cls)}
        for name in given:
            if name not in known:
                import difflib

                near = difflib.get_close_matches(name, known, n=3)
                hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(sorted(known))}"
                raise InvalidInput(f"{name}: no such option{hint}", field=name)
        return cls(**given)
