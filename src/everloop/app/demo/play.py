"""What the demo tells its server's process: which models to register, and how eagerly they learn."""

from __future__ import annotations

from typing import Any

import msgspec

from everloop.core.schema import Schema, Target


class Registration(msgspec.Struct, frozen=True):
    """One model: a built-in kind with its parameters, or `cast`, a name in `models`."""

    name: str
    cast: str = ""
    kind: str = ""
    parameters: dict[str, Any] = {}
    schema: Schema | None = None
    """Where it is known beforehand, as of a whole file."""
    target: Target | None = None


class Play(msgspec.Struct, frozen=True):
    """Everything the server process is told."""

    registrations: list[Registration]
    port: int = 0
    min_samples: int = 100
    interval_sec: float = 2.0
    drift_threshold: float = 0.1
