"""What a scoring run is asked to do, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from everloop.app.scoring.formats import Format
from everloop.app.scoring.kinds import Kind
from everloop.app.scoring.scorer import OnBadRow
from everloop.parallel.work import ExecutorKind
from everloop.runtime.artifact import Trust


@dataclass(frozen=True)
class Job:
    model: str
    """A path, the name of a registered model (`NAME` or `NAME@VERSION`), or `module:function`."""
    input: str
    output: str = "-"
    input_format: Format | None = None
    output_format: Format | None = None
    keep: tuple[str, ...] | None = None
    """Columns of the input that the output has; None: all."""
    features: tuple[str, ...] = ()
    types: Mapping[str, Kind] = field(default_factory=dict)
    delimiter: str | None = None
    prediction: str = "prediction"
    scores: bool = False
    version: bool = True
    """Whether each row says which version, or digest, has answered it."""
    on_error: OnBadRow = "fail"
    dead_letter: Path | None = None
    batch: bool = False
    storage: Path | str = field(default=Path("everloop-data"), repr=False)
    """Where registered models are: a data folder, or the URL of a database, which may hold a password."""
    trust: Trust = field(default_factory=Trust)
    force: bool = False
    restart: bool = False
    workers: int | None = None
    executor: ExecutorKind | None = None


class Summary(msgspec.Struct):
    model: str
    input: str
    output: str
    rows: int = 0
    """Read, over all attempts; bad ones included."""
    written: int = 0
    errors: int = 0
    resumed: int = 0
    """Rows that an attempt before this one had done."""
    seconds: float = 0.0
    """Of this attempt."""
    executor: str = ""
    workers: int = 0
    dead_letter: str | None = None

    @property
    def rate(self) -> float:
        """Rows a second of this attempt."""
        return (self.rows - self.resumed) / self.seconds if self.seconds > 0 else 0.0
