"""The learner of recommenders: fits factors to all interactions, and learns on from each as it comes.

    fit      what the artifact that it started from knows, then the new rows: alternating least squares over both (`als`)
    learn    the user's past grows, from which his vector follows; the item's vector takes one step of recursive least squares, with the
             second moments of the users as they were at the fit; what is popular, and the offsets, follow

A new item begins at zero and moves with the first user who has a past; a new user is there with his first interaction. What is kept is
bounded (`FactorParameters.most_…`). Items keep the titles and attributes that came with the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import FitFailed, ModelUntrained
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.als import Interactions, factorize, left_out
from everloop.learning.learners.base import Weight
from everloop.runtime.artifact import library_versions
from everloop.runtime.factors import MOST_RATING, SCHEMA, manifest_of
from everloop.runtime.factors_file import pack_factors, unpack_factors
from everloop.runtime.factors_model import (
    OFFSET_SHRINK,
    Catalogue,
    FactorModel,
    FactorParameters,
    Floats,
    Labels,
    PackedUsers,
    Past,
    strengths,
)
from everloop.runtime.recommending import LONGEST_ID
from everloop.stores.ports import Manifest

_LEAST_FOR_SLOPE = 50
"""Interactions below which a score says nothing about labels yet."""


class Pasts:
    """What each user did, at most so many users and interactions each: `runtime.factors_model.Users` that grow."""

    def __init__(self, most_users: int, most_past: int) -> None:
        self._most_users = most_users
        self._most_past = most_past
        self._of: dict[str, dict[int, float]] = {}
        """User -> place -> label; whoever and whatever came last is last."""

    def __len__(self) -> int:
        return len(self._of)

    def get(self, user: str) -> Past | None:
        past = self._of.get(user)
        if past is None:
            return None
        n = len(past)
        return Past(np.fromiter(past, np.int64, n), np.fromiter(past.values(), np.float64, n))

    def add(self, user: str, place: int, label: float) -> float | None:
        """The label that the pair had before."""
        past = self._of.pop(user, None)
        if past is None:
            past = {}
            if len(self._of) >= self._most_users:
                del self._of[next(iter(self._of))]
        self._of[user] = past
        before = past.pop(place, None)
        past[place] = label
        if len(past) > self._most_past:
            del past[next(iter(past))]
        return before

    def packed(self) -> PackedUsers:
        pasts = list(self._of.values())
        total = sum(map(len, pasts))
        return PackedUsers(
            list(self._of),
            np.cumsum([0, *map(len, pasts)]).astype(np.int64),
            np.fromiter((place for past in pasts for place in past), np.int64, total),
            np.fromiter((label for past in pasts for label in past.values()), np.float64, total),
        )

    @classmethod
    def of(cls, packed: PackedUsers, parameters: FactorParameters) -> Pasts:
        found = cls(parameters.most_users, parameters.most_past)
        starts, places, labels = packed.starts.tolist(), packed.places.tolist(), packed.labels.tolist()
        for row, user in enumerate(packed.ids):
            part = slice(starts[row], starts[row + 1])
            found._of[user] = dict(zip(places[part], labels[part], strict=True))
        return found


class FactorsLearner:
    kind = "factors"
    task: Task | None = "regression"
    incremental = True
    weight: Weight = "unknown"
    identities = True
    prefers: Mapping[str, Any] = {"rule": "fresh"}
    """What a new user did changes what he is recommended, and hardly the error of ratings: a version that is only no worse there shall
    serve."""

    def __init__(self, parameters: FactorParameters | None = None, base: bytes | None = None) -> None:
        """`base`: an artifact's bytes, whose parameters, interactions and items every fit starts from. Raises ArtifactCorrupt."""
        self._base = pack_factors(*_nothing(parameters or FactorParameters())) if base is None else base
        known = unpack_factors(self._base)
        self.parameters = known.parameters
        self._bounds = _bounds(known)
        self._model: FactorModel | None = None
        self._pasts = Pasts(1, 1)
        self._spectrum: tuple[Floats, Floats] | None = None

    @property
    def model(self) -> FactorModel:
        """As it stands, to ask it; it changes with what is learned. Raises ModelUntrained."""
        if self._model is None:
            raise ModelUntrained("this recommender has not been fitted yet")
        return self._model

    def clone(self) -> FactorsLearner:
        return FactorsLearner(base=self._base)

    def started_from(self) -> tuple[Manifest, bytes]:
        return _manifest(), self._base

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed: other rows than (user, item), nothing that anybody liked."""
        if schema != SCHEMA or target.task != "regression":
            raise FitFailed(
                f"a recommender learns numbers from rows of user and item, not from {', '.join(schema.names)}"
            )
        base = unpack_factors(self._base)
        assert isinstance(base.users, PackedUsers)
        pasts = Pasts.of(base.users, self.parameters)
        catalogue = _with_new(base.catalogue, rows, self.parameters.most_items)
        steps = _steps(catalogue, rows, labels, self._bounds)
        for user, place, label in steps:
            if _learned(user):
                pasts.add(user, place, label)
        packed = pasts.packed()
        people = np.repeat(np.arange(len(packed)), np.diff(packed.starts))
        given = Interactions(people, packed.places, packed.labels)
        told = _labels(given, self.parameters)
        X, Y = factorize(given, len(packed), len(catalogue), self.parameters, typical=told.typical, start=base.factors)
        counts = np.bincount(given.items, minlength=len(catalogue)).astype(np.float64)
        above = np.bincount(given.items, given.labels - told.mean, minlength=len(catalogue))
        offsets = above / (counts + OFFSET_SHRINK)
        if told.least < told.most:
            told = _with_slope(told, given, offsets, left_out(given, Y, len(packed), self.parameters, told.typical))
        popularity = np.zeros(len(catalogue))
        popularity[: len(base.popularity)] = base.popularity
        model = FactorModel(
            self.parameters, catalogue, Y, popularity, counts, offsets, told, pasts, X.T @ X, len(packed)
        )
        _count_popular(model, steps)
        self._model, self._pasts, self._spectrum = model, pasts, None

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        model = self.model
        _extend(model, rows)
        steps = _steps(model.catalogue, rows, labels, self._bounds)
        _count_popular(model, steps)
        for user, place, label in steps:
            self._learn_one(model, user, place, label)

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        answers: list[Any] = self.model.expected([row[0] for row in rows], [row[1] for row in rows]).tolist()
        return answers

    def freeze(self) -> tuple[Manifest, bytes]:
        return _manifest(), pack_factors(self.model, self._pasts.packed())

    def dump(self) -> bytes:
        return b"" if self._model is None else self.freeze()[1]

    def restore(self, data: bytes) -> None:
        if not data:
            self._model, self._spectrum = None, None
            return
        model = unpack_factors(data)
        assert isinstance(model.users, PackedUsers)
        self._pasts = Pasts.of(model.users, self.parameters)
        model.users = self._pasts
        self._model, self._spectrum = model, None

    def _learn_one(self, model: FactorModel, user: str, place: int, label: float) -> None:
        told = model.labels
        if not told.least <= label <= told.most:
            told = model.labels = msgspec.structs.replace(
                told, least=min(told.least, label), most=max(told.most, label)
            )
        past = self._pasts.get(user) if _learned(user) else None
        before = self._pasts.add(user, place, label) if _learned(user) else None
        liked = label > self.parameters.dislike_below
        model.offsets[place] += (label - told.mean - model.offsets[place]) / (model.counts[place] + 1.0 + OFFSET_SHRINK)
        if before is not None and (before > self.parameters.dislike_below) == liked:
            return  # said already
        if past is not None:
            x = model.taste(past.places, past.labels).sum(axis=1)
            self._move(model, place, x, label)
        model.counts[place] += 1.0

    def _move(self, model: FactorModel, place: int, x: Floats, label: float) -> None:
        """One more equation x·y = p of weight s for an item of n: y += A⁻¹x · s(p - x·y) / (1 + s·xᵀA⁻¹x), where A, the matrix of all
        of the item's equations, is taken for what n users of the ordinary kind would make of it."""
        if self._spectrum is None:
            values, vectors = np.linalg.eigh(model.people)
            self._spectrum = np.maximum(values, 0.0), vectors
        values, vectors = self._spectrum
        crowd, count, parameters = max(model.crowd, 1), model.counts[place], self.parameters
        ridge = parameters.regularization * (count + parameters.unobserved * crowd)
        z = vectors @ ((vectors.T @ x) / ((parameters.unobserved + count / crowd) * values + max(ridge, 1e-9)))
        (strength,), (liked,) = strengths(np.array([label]), model.labels.typical, parameters.dislike_below)
        y = model.factors[place].copy()
        moved = y + z * (strength * (liked - x @ y) / (1.0 + strength * (x @ z)))
        model.factors[place] = moved
        model.gram += np.outer(moved, moved) - np.outer(y, y)


def start(manifest: Manifest, payload: bytes) -> FactorsLearner:  # noqa: ARG001  all recommenders have one manifest
    """A learner that goes on from an artifact; one that knows items only has still to be fitted. Raises ArtifactCorrupt."""
    learner = FactorsLearner(base=payload)
    if unpack_factors(payload).crowd:
        learner.restore(payload)
    return learner


def base_of(parameters: FactorParameters, catalogue: Catalogue) -> bytes:
    """What a learner starts from that knows items, and no interaction yet."""
    model, users = _nothing(parameters)
    n = len(catalogue)
    model.catalogue = catalogue
    model.factors = np.zeros((n, parameters.factors))
    model.popularity, model.counts, model.offsets = np.zeros(n), np.zeros(n), np.zeros(n)
    return pack_factors(model, users)


def _nothing(parameters: FactorParameters) -> tuple[FactorModel, PackedUsers]:
    k, none = parameters.factors, np.zeros(0)
    users = PackedUsers([], np.zeros(1, np.int64), np.zeros(0, np.int64), none)
    model = FactorModel(
        parameters, Catalogue([]), np.zeros((0, k)), none, none, none, Labels(), users, np.zeros((k, k))
    )
    return model, users


def _manifest() -> Manifest:
    return msgspec.structs.replace(manifest_of(), libraries=library_versions("numpy"))


def _bounds(known: FactorModel) -> tuple[float, float]:
    """Labels beyond these count as these. Beside ratings from 1 to 5, one of 1,000 says that it is liked, and nothing of how people rate:
    it would be all that is expected of its item and its user. What starts from no interaction takes what comes."""
    if not known.crowd:
        return -MOST_RATING, MOST_RATING
    least, most = known.labels.least, known.labels.most
    reach = max(most - least, abs(least), abs(most), 1.0)
    return max(least - reach, -MOST_RATING), min(most + reach, MOST_RATING)


def _steps(
    catalogue: Catalogue, rows: Sequence[Row], labels: Sequence[Scalar], bounds: tuple[float, float]
) -> list[tuple[str, int, float]]:
    """User, place and label, of the items that there is room for."""
    least, most = bounds
    return [
        (row[0], catalogue.place_of[row[1]], min(max(float(label), least), most))
        for row, label in zip(rows, labels, strict=True)
        if row[1] in catalogue.place_of
    ]


def _learned(user: str) -> bool:
    """Nobody in particular has no past."""
    return 0 < len(user) <= LONGEST_ID


def _with_new(known: Catalogue, rows: Sequence[Row], most: int) -> Catalogue:
    """The items that are known, then the new ones in the order in which they came; where these are too many, those that came most."""
    counts: dict[str, int] = {}
    for row in rows:
        if row[1] not in known.place_of and len(row[1]) <= LONGEST_ID:
            counts[row[1]] = counts.get(row[1], 0) + 1
    new, room = list(counts), max(0, most - len(known))
    if len(new) > room:
        kept = set(sorted(new, key=lambda item: -counts[item])[:room])
        new = [item for item in new if item in kept]
    return Catalogue([*known.ids, *new], known.titles, known.attributes)


def _extend(model: FactorModel, rows: Sequence[Row]) -> None:
    """Room for the items of these rows that are new, as long as there is any."""
    catalogue = model.catalogue
    for row in rows:
        item = row[1]
        if item not in catalogue.place_of and len(item) <= LONGEST_ID and len(catalogue) < model.parameters.most_items:
            catalogue.place_of[item] = len(catalogue.ids)
            catalogue.ids.append(item)
    more = len(catalogue) - len(model.factors)
    if more:
        model.factors = np.vstack([model.factors, np.zeros((more, model.factors.shape[1]))])
        for name in ("popularity", "counts", "offsets"):
            setattr(model, name, np.concatenate([getattr(model, name), np.zeros(more)]))


def _count_popular(model: FactorModel, steps: Sequence[tuple[str, int, float]]) -> None:
    """Each interaction halves a little what came before it."""
    keeps = 0.5 ** (1.0 / model.parameters.popular_for)
    model.popularity *= keeps ** len(steps)
    places = np.fromiter((place for _, place, label in steps if label > model.parameters.dislike_below), np.int64)
    ages = np.fromiter(
        (len(steps) - 1 - i for i, step in enumerate(steps) if step[2] > model.parameters.dislike_below), np.float64
    )
    np.add.at(model.popularity, places, keeps**ages)


def _labels(given: Interactions, parameters: FactorParameters) -> Labels:
    """Raises FitFailed."""
    labels = given.labels
    liked = labels[labels > parameters.dislike_below]
    if not len(liked):
        raise FitFailed(
            f"among {len(labels)} interactions there is none whose label is above {parameters.dislike_below:g}, which is what liking is"
        )
    return Labels(
        mean=float(labels.mean()), typical=float(liked.mean()), least=float(labels.min()), most=float(labels.max())
    )


def _with_slope(told: Labels, given: Interactions, offsets: Floats, scores: Floats) -> Labels:
    """How labels go with the scores that their pairs had before they were made, beyond the offsets."""
    above = given.labels - told.mean - offsets[given.items]
    people = np.bincount(given.users, above) / (np.bincount(given.users) + OFFSET_SHRINK)
    rest, centred = above - people[given.users], scores - scores.mean()
    spread = float(centred @ centred)
    if len(rest) < _LEAST_FOR_SLOPE or spread <= 1e-12:
        return told
    return msgspec.structs.replace(told, slope=float(centred @ rest) / spread, centre=float(scores.mean()))
