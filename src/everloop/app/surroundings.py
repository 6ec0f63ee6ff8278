"""What the background optimiser asks of the rooms above it: what a model allows, how its next version goes out, which batches it sees."""

from __future__ import annotations

from everloop.core.clock import Clock
from everloop.learning.config import LearningConfig
from everloop.learning.config import effective as learning_of
from everloop.learning.going_out import next_plan
from everloop.optimization.config import Mode, OptimizeConfig
from everloop.optimization.succession import Way
from everloop.serving.config import ServingConfig
from everloop.serving.config import effective as serving_of
from everloop.serving.counters import SIZE_BOUNDS
from everloop.serving.table import TableRef
from everloop.stores.ports import Journal, ModelRecord


class Surroundings:
    """`optimization.background.Ports`, of one engine."""

    def __init__(
        self,
        journal: Journal,
        table: TableRef,
        clock: Clock,
        *,
        optimize: OptimizeConfig,
        serving: ServingConfig,
        learning: LearningConfig,
    ) -> None:
        self._journal = journal
        self._table = table
        self._clock = clock
        self._optimize = optimize
        self._serving = serving
        self._learning = learning

    def mode(self, model: ModelRecord) -> Mode:
        said = serving_of(self._serving, model.serving).optimize
        return self._optimize.mode if said == "auto" else said

    def way(self, model: ModelRecord) -> Way:
        config = learning_of(self._learning, model.learning)
        if not config.auto_swap:
            return Way()
        plan = next_plan(self._journal, self._clock, model, config.rollout, recovering=False)
        return Way(live=plan is None, plan=plan)

    def sizes(self, model: str) -> dict[int, int]:
        lane = self._table.current.lanes.get(model)
        if lane is None:
            return {}
        counts = lane.counters()
        found = dict(zip([*SIZE_BOUNDS, counts.largest], counts.sizes, strict=True))
        found[1] += lane.in_process
        return {rows: number for rows, number in found.items() if rows and number}
