"""A form of a model that may take its place, and one that may not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from everloop.core.tensors import Signature
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


def same(a: Candidate, b: Candidate) -> bool:
    """Whether they are the same model in the same runtime."""
    return a.payload == b.payload and (a.manifest.runtime, a.manifest.options) == (
        b.manifest.runtime,
        b.manifest.options,
    )


def answers(before: Signature, after: Signature) -> bool:
    """Whether who asks by tensors need not notice: the same inputs, and no output less."""
    return before.inputs == after.inputs and set(before.outputs) <= set(after.outputs)


def differs(original: Manifest, made: Manifest) -> str:
    """Why a form could not stand where the original does; empty where it could."""
    ours, theirs = original.schema.fields, made.schema.fields
    if [(f.name, f.kind) for f in ours] != [(f.name, f.kind) for f in theirs]:
        return "it takes other features"
    if any(a.nullable and not b.nullable for a, b in zip(ours, theirs, strict=True)):
        return "it takes no missing values, as the original does"
    if (original.task, original.target, original.classes) != (made.task, made.target, made.classes):
        return "it answers another kind of thing"
    return ""
