"""When live quality is worth an event of the timeline: once a version's is first known, and when a rollout has come to its verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everloop.core.wording import counted
from everloop.learning.quality import Quality, in_words
from everloop.registry.catalog import Registry

if TYPE_CHECKING:
    from everloop.learning.campaign import Tell

_ENDS = {"promoted": "promoted", "rolled_back": "rolled back", "inconclusive": "ended without a verdict"}


class QualityTeller:
    """Owned by a trainer."""

    def __init__(self, model: str, registry: Registry, tell: Tell) -> None:
        self._model = model
        self._registry = registry
        self._tell = tell
        self._ended = self._newest_ended()

    def known(self, quality: Quality) -> None:
        """After labels were counted."""
        for version, figures in quality.newly_known():
            message = f"version {version} on its first {counted(figures['n'], 'label')}: {in_words(figures)}"
            self._tell("quality", message, version=version, **figures)

    def settled(self, quality: Quality) -> None:
        """After the catalog has changed: if a rollout has ended with that, how both versions have done by their labels so far."""
        newest = self._newest_ended()
        if newest in (None, self._ended):
            return
        self._ended = newest
        rollout = self._registry.catalog.rollout(self._model)
        if rollout is None:
            return
        figures = {
            part: {"version": version} | found
            for part, version in (("challenger", rollout.challenger), ("champion", rollout.champion))
            if version is not None and (found := quality.figures(version))
        }
        if not figures:
            return
        told = "; ".join(
            f"version {each['version']} on {counted(each['n'], 'label')}: {in_words(each)}" for each in figures.values()
        )
        self._tell(
            "quality",
            f"when version {rollout.challenger} was {_ENDS[rollout.state]}: {told}",
            version=rollout.challenger,
            rollout=rollout.id,
            state=rollout.state,
            **figures,
        )

    def _newest_ended(self) -> int | None:
        """The newest rollout's id, if it has ended."""
        rollout = self._registry.catalog.rollout(self._model)
        return None if rollout is None or rollout.active else rollout.id
