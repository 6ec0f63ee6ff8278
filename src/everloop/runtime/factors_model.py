"""A model of who likes what: factors of items, what each user did, and from both a user's taste, computed when it is asked for.

A user is nothing but his interactions (`Past`): his vector x follows from them and the items' factors Y by the least squares of iALS,

    (Σ s·y yᵀ + α·YᵀY + λ(n + α·N) I) x = Σ s·p·y        over his n interactions, of N items in all

where p is 1 for what he liked and 0 for what he did not, s is how much his label says, α the weight of all that nobody touched. So what
a user did a moment ago counts without any training, one who is not known costs nothing, and every score is a sum over the items that
he liked, which is what reasons are made of. Beside the scores the model expects a label for each pair, by offsets of user and item and
what the score adds.

Sources: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008 (the model; its section 5: the sum over
items); Rendle, Krichene, Zhang, Koren, "Revisiting the Performance of iALS on Item Recommendation Benchmarks", RecSys 2022 (how it is
regularised); Koren, "Factorization Meets the Neighborhood", KDD 2008 (offsets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

LEAST_STRENGTH, MOST_STRENGTH = 0.2, 3.0
OFFSET_SHRINK = 10.0
"""An offset counts as much as this many interactions that are quite ordinary leave of it."""


class FactorParameters(msgspec.Struct, frozen=True):
    """How a recommender is trained. Raises InvalidInput naming what is wrong."""

    factors: int = 32
    """Numbers that describe an item."""
    iterations: int = 12
    """Rounds of alternating least squares."""
    unobserved: float = 0.3
    """α: the weight of a pair that nobody touched, beside 1 for one that somebody did."""
    regularization: float = 0.02
    """λ: how strongly vectors are held near zero, an interaction."""
    dislike_below: float = 0.0
    """A label of at most that says that the item was not liked."""
    popular_for: int = 5_000
    """Interactions after which one counts half for what is popular."""
    popular_weight: float = 0.1
    """How much of a score is how popular the item is now, beside 1 for taste."""
    most_past: int = 200
    """Interactions that are kept of a user, the newest."""
    most_users: int = 100_000
    """Users that are kept, those who did something last."""
    most_items: int = 100_000
    """Items that are kept; interactions with further ones are not learned."""
    seed: int = 7

    def __post_init__(self) -> None:
        least = {"factors": 1, "iterations": 1, "popular_for": 1, "most_past": 1, "most_users": 1, "most_items": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InvalidInput(f"{name}: expected at least {value}, got {getattr(self, name)}", field=name)
        if self.factors > 1024:
            raise InvalidInput(f"factors: expected at most 1024, got {self.factors}", field="factors")
        for name in ("unobserved", "regularization"):
            if not 0.0 < getattr(self, name) < 1e6:
                raise InvalidInput(f"{name}: expected above 0, got {getattr(self, name)}", field=name)
        if not 0.0 <= self.popular_weight <= 10.0:
            raise InvalidInput(f"popular_weight: expected 0 to 10, got {self.popular_weight}", field="popular_weight")
        if not abs(self.dislike_below) < 1e300:
            raise InvalidInput(f"dislike_below: expected a number, got {self.dislike_below}", field="dislike_below")


class Past(NamedTuple):
    """What one user did, oldest first."""

    places: Places
    """(n,): of the items in the catalogue."""
    labels: Floats
    """(n,)"""


class Users(Protocol):
    def get(self, user: str) -> Past | None:
        """None for one who did nothing here. Keeps nothing."""

    def __len__(self) -> int: ...


@dataclass
class PackedUsers:
    """Pasts one after the other, as a file holds them."""

    ids: list[str]
    starts: Places
    """(users + 1,)"""
    places: Places
    labels: Floats
    row_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.row_of = {user: row for row, user in enumerate(self.ids)}

    def get(self, user: str) -> Past | None:
        row = self.row_of.get(user)
        if row is None:
            return None
        part = slice(int(self.starts[row]), int(self.starts[row + 1]))
        return Past(self.places[part], self.labels[part])

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Catalogue:
    """The items, each at its place."""

    ids: list[str]
    titles: dict[str, str] = field(default_factory=dict)
    """Item -> what people call it; an item without one is called by its id."""
    attributes: dict[str, dict[str, Places]] = field(default_factory=dict)
    """What can be asked for: attribute -> value -> places of the items that have it, ascending."""
    place_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.place_of = {item: place for place, item in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def title(self, place: int) -> str:
        item = self.ids[place]
        return self.titles.get(item, item)


class Labels(msgspec.Struct, frozen=True):
    """What labels look like, and what a score adds to what is expected of one: `mean + offsets + slope * (score - centre)`."""

    mean: float = 1.0
    typical: float = 1.0
    """The mean of those that tell of liking."""
    slope: float = 0.0
    centre: float = 0.0
    least: float = 1.0
    most: float = 1.0
    """All labels that were seen are between these."""


@dataclass
class FactorModel:
    """`factors` (items, k), `popularity`, `counts` and `offsets` (items,) go by the catalogue's places."""

    parameters: FactorParameters
    catalogue: Catalogue
    factors: Floats
    popularity: Floats
    """How often each was liked of late."""
    counts: Floats
    """How many interactions each has had."""
    offsets: Floats
    """By how much an item's labels are above the mean."""
    labels: Labels
    users: Users
    people: Floats
    """(k, k): the sum of x xᵀ over the users at the last fit, x their vectors."""
    crowd: int = 0
    """How many users that were."""
    gram: Floats = field(init=False)
    """(k, k): YᵀY"""

    def __post_init__(self) -> None:
        self.gram = self.factors.T @ self.factors

    def taste(self, places: Places, labels: Floats) -> Floats:
        """(k, n): what each of these interactions adds to the user's vector, which is their sum."""
        Y = self.factors[places]
        strength, liked = strengths(labels, self.labels.typical, self.parameters.dislike_below)
        system = normal_equations(self.gram, len(self.catalogue), len(places), self.parameters)
        system += (Y.T * strength) @ Y
        parts: Floats = np.asarray(np.linalg.solve(system, Y.T * (strength * liked)), np.float64)
        return parts

    def expected(self, users: Sequence[str], items: Sequence[str]) -> Floats:
        """(n,): the label to expect of each pair. What is not known of user or item counts as the mean."""
        found = np.full(len(users), self.labels.mean)
        rows_of: dict[str, list[int]] = {}
        for row, user in enumerate(users):
            rows_of.setdefault(user, []).append(row)
        place_of = self.catalogue.place_of
        for user, rows in rows_of.items():
            past = self.users.get(user)
            vector = None if past is None else self.taste(*past).sum(axis=1)
            places = np.array([place_of.get(items[row], -1) for row in rows], np.int64)
            found[rows] = self.labels_for(past, vector, places)
        return found

    def labels_for(self, past: Past | None, vector: Floats | None, places: Places) -> Floats:
        """(n,): as `expected`, of one user with this past and vector; the place -1 is an item that is not known."""
        told = self.labels
        expected = np.full(len(places), told.mean)
        if past is not None:
            above = past.labels - told.mean - self.offsets[past.places]
            expected += float(above.sum()) / (len(above) + OFFSET_SHRINK)
        known = places >= 0
        expected[known] += self.offsets[places[known]]
        if vector is not None and told.slope:
            touched = known & (self.counts[places] > 0)
            expected[touched] += told.slope * (self.factors[places[touched]] @ vector - told.centre)
        clipped: Floats = np.minimum(np.maximum(expected, told.least), told.most)
        return clipped


def strengths(labels: Floats, typical: float, dislike_below: float) -> tuple[Floats, Floats]:
    """How much each label says, and 1 where it tells of liking, 0 otherwise."""
    liked = labels > dislike_below
    if typical <= 0:
        return np.ones(len(labels)), liked.astype(np.float64)
    weights: Floats = np.where(liked, np.minimum(np.maximum(labels / typical, LEAST_STRENGTH), MOST_STRENGTH), 1.0)
    return weights, liked.astype(np.float64)


def normal_equations(gram: Floats, others: int, count: float, parameters: FactorParameters) -> Floats:
    """(k, k): of one with `count` interactions, which are still to be added, among `others` whose Gram matrix is given."""
    alpha = parameters.unobserved
    ridge = parameters.regularization * (count + alpha * others)
    system: Floats = np.multiply(gram, alpha)
    system[np.diag_indices_from(system)] += max(ridge, 1e-9)
    return system


def by_value(values: Mapping[str, Sequence[str]], catalogue_ids: Sequence[str]) -> dict[str, Places]:
    """Item -> its values of one attribute, as `Catalogue.attributes` has them."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(catalogue_ids):
        for value in values.get(item, ()):
            places.setdefault(value, []).append(place)
    return {value: np.array(found, np.int64) for value, found in sorted(places.items())}
