"""How a run treats trouble: one declaration of every option of `execute` and `stream` that does not choose speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from everloop.core.errors import InvalidInput
from everloop.core.wording import near_names
from everloop.parallel.validation import number

_ELSEWHERE = {
    "ml_prediction": ("use_ml_prediction", "enable_ml_prediction"),
    "max_workers": ("n_jobs",),
    "workers": ("n_jobs",),
    "processes": ("n_jobs",),
    "chunk_size": ("chunksize",),
    "batch_size": ("chunksize",),
    "backend": ("executor",),
    "ordered": ("prefer_ordered",),
    "desc": ("label",),
    "progress_bar": ("progress",),
    "memory_backpressure": ("enable_memory_backpressure", "memory_threshold"),
}

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
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,)
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
            number("timeout", self.timeout, 0, 1e9, above=True)
        if self.memory_threshold is not None:
            number("memory_threshold", self.memory_threshold, 0, 1, above=True)
        kinds = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)  # as in `except`
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise InvalidInput(
                f"retry_on: an exception class or a tuple of them is needed, this is {self.retry_on!r}",
                field="retry_on",
            )
        for name in ("checkpoint", "dead_letter"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, (str, Path)):
                raise InvalidInput(f"{name}: the path of a file is needed, this is {path!r}", field=name)
        if self.progress not in (None, True, False):
            raise InvalidInput(f"progress: True, False or None is needed, this is {self.progress!r}", field="progress")
        if not isinstance(self.label, str):
            raise InvalidInput(f"label: text is needed, this is {self.label!r}", field="label")

    @classmethod
    def of(cls, call: Callable[..., Any] | None = None, /, **given: Any) -> RunOptions:
        """From the keyword arguments that `call` has no parameters for. Raises InvalidInput for one that does not exist, with near
        names."""
        known = {each.name for each in fields(cls)}
        for name in given:
            if name not in known:
                if call is not None:
                    import inspect

                    known.update(inspect.signature(call).parameters)
                near = _near(name, known) or near_names(name, known, n=3)
                hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(sorted(known))}"
                raise InvalidInput(f"{name}: no such option{hint}", field=name)
        return cls(**given)


def _near(name: str, known: set[str]) -> list[str]:
    """What the same thing is called by other libraries, and in our own other calls."""
    found = _ELSEWHERE.get(name.removeprefix("use_").removeprefix("enable_"), ())
    return [each for each in found if each in known]
