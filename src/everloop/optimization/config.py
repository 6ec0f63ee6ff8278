"""What can be said about making new versions smaller and faster in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everloop.core.errors import InvalidInput

Mode = Literal["off", "float", "int8"]
"""What a model's versions may become: nothing else, other forms that compute in floats, or INT8 as well."""
BY = "optimizer"
"""Who acts, in the timeline."""


@dataclass(frozen=True)
class OptimizeConfig:
    """When a version is made faster by itself, and how far that may go. Raises InvalidInput naming the field."""

    on_publish: bool = False
    """Whether versions that go live are made faster in the background; of `everloop serve` it is on. A model may say otherwise for itself:
    `serving.optimize`."""
    int8: bool = False
    """Whether INT8 may be chosen, whose answers differ a little: only where the labels recorded show no loss."""
    min_examples: int = 500
    """Different inputs that have to be recorded before a form can prove that it answers alike."""
    max_examples: int = 5000
    """The newest so many are compared on."""
    settle_sec: float = 120.0
    """Seconds for which a version has to have been live: one that is about to be replaced is not worth it."""
    max_seconds: float = 600.0
    """Processor time after which an attempt is given up."""

    def __post_init__(self) -> None:
        checks = (
            ("min_examples", 10 <= self.min_examples <= self.max_examples, "from 10 to max_examples"),
            ("max_examples", self.max_examples <= 1_000_000, "at most 1000000"),
            ("settle_sec", 0 <= self.settle_sec <= 86_400 * 366, "from 0 seconds to a year"),
            ("max_seconds", 0 < self.max_seconds <= 86_400, "above 0 seconds and at most a day"),
        )
        for name, good, expected in checks:
            if not good:
                raise InvalidInput(f"{name}: expected {expected}, got {getattr(self, name)!r}", field=name)

    @property
    def mode(self) -> Mode:
        """Of models that say nothing of their own."""
        return "off" if not self.on_publish else "int8" if self.int8 else "float"
