"""Several forms of one model, each for the batch sizes at which it is the fastest: few rows to one, many to another.

A tree that is written out as Python answers one row before ONNX Runtime has looked at it, and loses to scikit-learn's own loops at ten
thousand. Where no form wins everywhere, `combine` keeps the winners; which one answers depends on the number of rows and nothing else.
All were proved to answer alike before they were put together, and this is not proved again here.

Manifest options: `from`, the smallest size of each member, and `runtimes`, what they are; both only tell, the payload decides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.core.tensors import Array, Tensor, Tensors
from everloop.runtime.artifact import Trust
from everloop.runtime.members import Artifact, close_all, libraries_of, open_members, pack_members, unpack_members
from everloop.runtime.session import Matrix, Session
from everloop.runtime.tensors import Answered, TensorModel
from everloop.stores.ports import Manifest


class BySizeSession:
    """Answers `n` rows with the last member whose first size is at most `n`."""

    def __init__(self, schema: Schema, firsts: Sequence[int], sessions: Sequence[Session]) -> None:
        small = sessions[0]
        self.schema = schema
        self.target: Target = small.target
        self.classes: list[Any] | None = small.classes
        self.dtype: Any = _widest(sessions)
        self.scored = self.classes is not None and all(getattr(each, "scored", True) for each in sessions)
        self._firsts = list(firsts)
        self._sessions = list(sessions)
        if hasattr(small, "compile_row"):
            self.compile_row = small.compile_row
        own: list[TensorModel | None] = [getattr(each, "tensors", None) for each in sessions]
        models = [model for model in own if model is not None]
        if len(models) == len(sessions) and all(model.signature == models[0].signature for model in models):
            self.tensors = _BySizeTensors(self._firsts, models)

    def run(self, X: Matrix) -> Matrix:
        session = self._for(len(X))
        return session.run(np.asarray(X, session.dtype))

    def scores(self, X: Matrix) -> Any:
        if not self.scored:
            return None
        session = self._for(len(X))
        return session.scores(np.asarray(X, session.dtype))

    def close(self) -> None:
        close_all(self._sessions)

    def _for(self, rows: int) -> Session:
        return self._sessions[max(0, bisect_right(self._firsts, rows) - 1)]


class _BySizeTensors:
    """Where all members take and give the same tensors of their own."""

    def __init__(self, firsts: Sequence[int], models: Sequence[TensorModel]) -> None:
        self._firsts, self._models = list(firsts), list(models)
        small = models[0]
        self.signature, self.always = small.signature, small.always
        self.batched = all(model.batched for model in models)

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        return self._models[0].take(tensors)

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        rows = len(arrays[0]) if arrays and arrays[0].ndim else 1
        return self._models[max(0, bisect_right(self._firsts, rows) - 1)].infer(arrays, outputs)

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered | None:
        return self._models[0].answered(arrays, answers)


def combine(members: Sequence[tuple[int, Manifest, bytes]]) -> Artifact:
    """One artifact: from `first` rows on, that member answers. The first sizes ascend, beginning at 1.

    Raises InvalidInput (no members, or sizes that do not ascend from 1), NotSupported (members that do not take or answer the same)."""
    firsts = [first for first, _, _ in members]
    artifacts = [(manifest, payload) for _, manifest, payload in members]
    _check_sizes(firsts)
    schema = _common_schema([manifest for manifest, _ in artifacts])
    small = artifacts[0][0]
    manifest = Manifest(
        runtime="by_size",
        task=small.task,
        schema=schema,
        target=small.target,
        classes=small.classes,
        metrics=small.metrics,
        lineage=small.lineage,
        libraries=libraries_of(artifacts),
        options={"from": firsts, "runtimes": [each.runtime for each, _ in artifacts]},
    )
    return manifest, pack_members({"from": firsts}, artifacts)


def load(manifest: Manifest, payload: bytes, trust: Trust) -> BySizeSession:
    plan, members = unpack_members(payload)
    firsts = plan.get("from")
    if not isinstance(firsts, list) or len(firsts) != len(members):
        raise ArtifactCorrupt(f"an artifact by size with {len(members)} members and the sizes {firsts!r}")
    try:
        _check_sizes(firsts)
        schema = _common_schema([inside for inside, _ in members])
    except (InvalidInput, NotSupported) as error:
        raise ArtifactCorrupt(f"an artifact by size: {error.message}") from error
    small = members[0][0]
    if (schema, small.task, small.target, small.classes) != (
        manifest.schema,
        manifest.task,
        manifest.target,
        manifest.classes,
    ):
        raise ArtifactCorrupt("an artifact by size whose members take or answer something else than its manifest tells")
    return BySizeSession(schema, firsts, open_members(members, trust, manifest))


def _check_sizes(firsts: Sequence[Any]) -> None:
    whole = all(type(first) is int for first in firsts)
    if not firsts or not whole or firsts[0] != 1 or any(a >= b for a, b in pairwise(firsts)):
        raise InvalidInput(f"the first sizes of the members must ascend from 1, got {list(firsts)!r}", field="members")


def _common_schema(manifests: Sequence[Manifest]) -> Schema:
    """A value may be missing where every member takes that."""
    small = manifests[0]
    if small.task == "tensors":
        raise NotSupported("a model that is asked by tensors alone has no rows that could be counted")
    shape = [(f.name, f.kind) for f in small.schema.fields]
    for each in manifests[1:]:
        if [(f.name, f.kind) for f in each.schema.fields] != shape:
            raise NotSupported("forms of a model that take different features cannot stand in for each other")
        if (each.task, each.target, each.classes) != (small.task, small.target, small.classes):
            raise NotSupported("forms of a model that answer different things cannot stand in for each other")
    fields = (
        Field(f.name, f.kind, all(each.schema.fields[i].nullable for each in manifests))
        for i, f in enumerate(small.schema.fields)
    )
    return Schema(tuple(fields), named=small.schema.named)


def _widest(sessions: Sequence[Session]) -> Any:
    """What every member's type can be made of without a loss."""
    kinds = [np.dtype(each.dtype) for each in sessions]
    return object if any(kind.kind == "O" for kind in kinds) else np.result_type(*kinds).type
