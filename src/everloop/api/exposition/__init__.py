"""What `/metrics` shows, as families of Prometheus samples, read anew at each scrape.

Nothing is counted here: a scrape reads the plain counters that the lanes, the door, the cache, the journal and the learner keep anyway.
Labels are the model, its version, a caller's key by its name and words of a fixed list, nothing that a request chooses; the series of
a model go with it. A histogram has a fixed number of buckets.

`server` owns the process, `guards` what stands before the models, `answers` what the lanes did, `caching` what they remembered,
`changes` rollouts, shadows and what happened to models, `learning` labels, learner and journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from everloop.api.exposition import answers, caching, changes, guards, learning, server
from everloop.api.services import Services

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_FAMILIES: tuple[Callable[[Services], Iterator[Metric]], ...] = (
    server.process,
    guards.refused,
    guards.room,
    guards.door,
    answers.answered,
    answers.lanes,
    caching.cache,
    changes.rollouts,
    changes.shadows,
    changes.happened,
    learning.labels,
    learning.journal,
)


class Collector:
    """For a `prometheus_client` registry."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        for families in _FAMILIES:
            yield from families(self._services)
