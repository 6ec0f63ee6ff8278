"""The private clone of an incremental learner: it learns every example, after having been tested on it.

Its own test-then-train losses beside the champion's, on the same examples, are the evidence when its snapshot wants to serve:
each was made before the learner had seen the example, and the champion never saw it, so nothing needs to be held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from everloop.core.schema import Target
from everloop.core.types import Example
from everloop.learning.learners.base import Learner, Losses, losses
from everloop.learning.window import Slice
from everloop.policy.windows import MOST_HELD_OUT

BATCH = 32
"""Rows that are predicted before they are learned: few, or the learner would be judged by what it knew long before."""


class Apprentice:
    def __init__(self, learner: Learner, target: Target, *, first_id: int, last_id: int) -> None:
        self.learner = learner
        self.first_id = first_id
        """The oldest example that it has learned."""
        self.last_id = last_id
        """The newest example that it has learned."""
        self.unpublished = 0
        """Examples learned since its last snapshot."""
        self._target = target
        self._duel: deque[tuple[float, float, float]] = deque(maxlen=MOST_HELD_OUT)
        """Example, the champion's loss, its own."""

    def learn(self, examples: Sequence[Example], champion: Sequence[Any]) -> None:
        """Test, then train, in order. `champion`: its answers, None where unknown. May raise what the learner raises."""
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            rows, labels = [e.row for e in batch], [e.label for e in batch]
            known = [i for i in range(len(batch)) if champion[start + i] is not None]
            if known:
                some = [labels[i] for i in known]
                own = losses(self._target, some, self.learner.predict([rows[i] for i in known]))
                theirs = losses(self._target, some, [champion[start + i] for i in known])
                self._duel.extend(zip([batch[i].id for i in known], theirs.tolist(), own.tolist(), strict=True))
            self.learner.learn(rows, labels)
            self.last_id = batch[-1].id
            self.unpublished += len(batch)

    def catch_up(self, part: Slice) -> None:
        """Learn what came while it was being fitted."""
        self.learner.learn(list(part.rows), part.labels)
        self.last_id = int(part.ids[-1])
        self.unpublished += len(part)

    def duel(self, since: int = 0) -> tuple[Losses, Losses]:
        """The champion's losses and its own on the newest examples from the id `since` on, (n,) each."""
        table = np.asarray(self._duel, np.float64).reshape(-1, 3)
        table = table[table[:, 0] >= since]
        return table[:, 1], table[:, 2]

    def new_champion(self) -> None:
        self._duel.clear()

    def dump_duel(self) -> bytes:
        return np.asarray(self._duel, "<f8").tobytes()

    def load_duel(self, data: bytes) -> None:
        self._duel.extend(map(tuple, np.frombuffer(data, "<f8").reshape(-1, 3).tolist()))
