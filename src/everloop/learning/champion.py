"""The version that serves, as its learner sees it: a session of its own to test with, and what it was trained on.

A learner never asks the serving side for predictions: it opens the artifact itself, so it works in a process that serves
nothing, and its tests do not compete with requests for a batcher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from everloop.core.schema import Target
from everloop.core.types import Row, Scalar
from everloop.learning.learners.base import Losses, losses
from everloop.optimization.succession import origin_of
from everloop.runtime.session import Session
from everloop.stores.ports import VersionRecord


class Champion:
    def __init__(self, version: VersionRecord, session: Session) -> None:
        self.version = version.version
        self.session = session
        lineage = version.manifest.lineage
        self.last_id = int(lineage.get("last_id") or 0)
        """The newest example it was trained on; 0 for one that was trained elsewhere."""
        self.origin = origin_of(version)
        """The version that was trained: another one where this is a faster form of it, and answers alike."""

    def __repr__(self) -> str:
        return f"Champion(version {self.version}, trained up to example {self.last_id})"

    def answers(self, rows: Sequence[Row]) -> list[Any]:
        """One answer a row; NaN where the model raised. One bad row does not spoil the others."""
        if not len(rows):
            return []
        try:
            return self._run(rows)
        except Exception:
            if len(rows) == 1:
                return [math.nan]
            return [answer for row in rows for answer in self.answers([row])]

    def losses(self, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> Losses:
        return losses(target, labels, self.answers(rows))

    def close(self) -> None:
        self.session.close()

    def _run(self, rows: Sequence[Row]) -> list[Any]:
        schema = self.session.schema
        answers: list[Any] = self.session.run(
            schema.matrix(rows, self.session.dtype if schema.numeric else None)
        ).tolist()
        return answers
