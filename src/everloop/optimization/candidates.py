"""A form of a model that may take its place, and one that may not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from everloop.stores.ports import Manifest


@dataclass(frozen=True)
class Candidate:
    """An artifact that claims to answer as the original does."""

    name: str
    """`original`, `compiled`, `onnx`, `onnx-basic`, `int8-dynamic`, `int8-static`, `fp16`, …"""
    manifest: Manifest
    payload: bytes = field(repr=False)
    exact: bool = True
    """Whether it computes in floats, so that labels must not flip; not so for INT8, which a metric's change judges."""
    how: dict[str, Any] = field(default_factory=dict)
    """How it was made, so that it can be made again; JSON."""


@dataclass(frozen=True)
class Dropped:
    """One that was not made, or was made and not taken."""

    name: str
    why: str
