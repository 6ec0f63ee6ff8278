"""Recommenders from files: trained on interactions, with settings that are chosen and judged on what users did later.

    first 60 % of the interactions    train, once for each of `SETTINGS`
    the next 20 %                     choose among them
    the last 20 %                     judge the chosen one, trained on all before, against what is popular
    all                               train what is kept

Nothing that judges has been seen by what it judges, nor by what chose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from everloop.core.errors import InvalidInput
from everloop.learning.learners.factors import FactorsLearner, base_of
from everloop.runtime.factors import SCHEMA, TARGET
from everloop.runtime.factors_model import Catalogue, FactorModel, FactorParameters
from everloop.runtime.recommending import MOST, Query, recommend
from everloop.showcase.interactions import Interaction

SETTINGS = ((0.3, 0.02), (0.1, 0.02), (0.1, 0.005), (0.03, 0.01))
"""`unobserved` and `regularization`: the larger the catalogue, the smaller they do best."""
JUDGED = 0.2
LEAST = 20
"""Interactions below which there is nothing to be held out."""


class Recall(NamedTuple):
    """Mean over the users, of the share of what they went on to take that was among the first `k`."""

    recall: float
    popular: float
    """Of the same users, when all are recommended what most took."""
    spread: float
    """Half the width of the 95 % confidence interval of the difference of the two."""
    users: int
    k: int

    @property
    def ratio(self) -> float:
        return self.recall / self.popular if self.popular else float("inf")


def train(
    given: Sequence[Interaction], items: Catalogue | None = None, parameters: FactorParameters | None = None
) -> FactorsLearner:
    """Fitted to interactions in order of time. Raises FitFailed."""
    parameters = parameters or FactorParameters()
    learner = FactorsLearner(parameters, None if items is None else base_of(parameters, items))
    learner.fit(SCHEMA, TARGET, [[each.user, each.item] for each in given], [each.label for each in given])
    return learner


def train_and_judge(
    given: Sequence[Interaction], items: Catalogue | None = None, parameters: FactorParameters | None = None
) -> tuple[FactorsLearner, Recall | None]:
    """Trained on all, with the settings that did best; and what these reach (see above), None where there is too little to tell.
    Raises FitFailed."""
    parameters = parameters or FactorParameters()
    if len(given) < LEAST:
        return train(given, items, parameters), None
    judge, choose = (int(len(given) * (1.0 - JUDGED * parts)) for parts in (1, 2))
    wanted = later_items(given[:choose], given[choose:judge], parameters.dislike_below)
    if wanted:
        tried = [
            msgspec.structs.replace(parameters, unobserved=unobserved, regularization=regularization)
            for unobserved, regularization in SETTINGS
        ]
        reached = [recall_at(train(given[:choose], items, each).model, given[:choose], wanted).recall for each in tried]
        parameters = tried[int(np.argmax(reached))]
    wanted = later_items(given[:judge], given[judge:], parameters.dislike_below)
    recall = recall_at(train(given[:judge], items, parameters).model, given[:judge], wanted) if wanted else None
    return train(given, items, parameters), recall


def later_items(
    train: Sequence[Interaction], later: Sequence[Interaction], dislike_below: float = 0.0
) -> dict[str, set[str]]:
    """User -> the items that he liked later and had not touched before."""
    before = {(each.user, each.item) for each in train}
    wanted: dict[str, set[str]] = {}
    for each in later:
        if (each.user, each.item) not in before and each.label > dislike_below:
            wanted.setdefault(each.user, set()).add(each.item)
    return wanted


def recall_at(model: FactorModel, train: Sequence[Interaction], wanted: Mapping[str, set[str]], k: int = 10) -> Recall:
    """Hits among the first k over min(k, items wanted), against recommending what is most taken, in `train` as a whole or of late,
    whichever is better. Both leave out what the user has touched."""
    popular = [_popular(train, part) for part in (train, train[-max(1, len(train) // 5) :])]
    touched: dict[str, set[str]] = {}
    for each in train:
        touched.setdefault(each.user, set()).add(each.item)
    own: list[float] = []
    baselines: list[list[float]] = [[], []]
    for user, items in wanted.items():
        own.append(_recall([each.item_id for each in recommend(model, Query(user=user, limit=min(k, MOST)))], items, k))
        known = touched.get(user, set())
        for ranking, found in zip(popular, baselines, strict=True):
            first = [item for item in ranking[: k + len(known)] if item not in known][:k]
            found.append(_recall(first, items, k))
    if not own:
        raise InvalidInput(
            "nobody took anything new in the later part: there is nothing to be held against", field="path"
        )
    best = max(baselines, key=lambda each: float(np.mean(each)))
    differences = np.array(own) - np.array(best)
    spread = 1.96 * float(differences.std()) / float(np.sqrt(len(differences)))
    return Recall(float(np.mean(own)), float(np.mean(best)), spread, len(own), k)


def _recall(first: Sequence[str], wanted: set[str], k: int) -> float:
    return sum(item in wanted for item in first) / min(k, len(wanted))


def _popular(given: Sequence[Interaction], part: Sequence[Interaction]) -> list[str]:
    """Items, those that most took in `part` first."""
    counts: dict[str, int] = dict.fromkeys((each.item for each in given), 0)
    for each in part:
        counts[each.item] += 1
    return sorted(counts, key=lambda item: -counts[item])
