"""What a recommender is asked and what it answers: whom for, what to leave out, how many; the best items, each with a reason.

One question is a JSON object (`Query`), one answer a JSON list of `Recommended`. Errors name the field as callers wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput, Malformed
from everloop.core.structs import looked_into
from everloop.core.wording import near_names
from everloop.runtime.factors_model import Past

if TYPE_CHECKING:
    from everloop.runtime.factors_model import Catalogue, FactorModel, Floats, Places

Mask: TypeAlias = npt.NDArray[np.bool_]

MOST = 1000
"""Items of one answer, and that one question may name."""
LONGEST_ID = 256
"""Characters of a user's or an item's."""
MOST_CONDITIONS = 100
"""Attributes of one question, and values of all of them together."""
_LONGEST_VALUE = 1000
_TOLD_VALUES = 3
"""In a reason."""


Condition: TypeAlias = str | int | float | bool


@looked_into
class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    user: str = ""
    """Whom for; whoever is not known, and nobody, gets what is popular."""
    item: str = ""
    """Instead: what is like this item."""
    limit: int = 10
    context: dict[str, Condition | list[Condition]] = {}
    """Only items that have these attributes; of several values any one."""
    exclude: list[str] = []
    """Items to leave out."""
    history: list[str] = []
    """Items that the user liked just now, which the model has not been told yet."""
    seen: bool = False
    """Whether items that the user knows already may come again."""


class Recommended(msgspec.Struct, frozen=True):
    item_id: str
    score: float
    """How well it fits, 0 to 1; of what is popular, how popular beside what is most so."""
    reason: str
    expected: float
    """The label (the rating) to expect of this user for it."""


_QUERY = msgspec.json.Decoder(Query)


def read_query(text: str | bytes) -> Query:
    """Checked as far as no model is needed. Raises Malformed, InvalidInput."""
    try:
        query = _QUERY.decode(text)
    except msgspec.ValidationError as error:
        raise _wrong(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"query: no JSON: {error}", field="query") from error
    check_query(query)
    return query


def query_of(given: Mapping[str, Any]) -> Query:
    """As `read_query`, of what is no text yet. Raises InvalidInput."""
    try:
        query = msgspec.convert(given, Query)
    except msgspec.ValidationError as error:
        raise _wrong(error) from error
    check_query(query)
    return query


def check_id(value: str, field: str, least: int = 1) -> None:
    """Raises InvalidInput."""
    if not least <= len(value) <= LONGEST_ID:
        raise InvalidInput(f"{field}: expected {least} to {LONGEST_ID} characters, got {len(value):,}", field=field)


def check_query(query: Query) -> None:
    """Raises InvalidInput."""
    if not 1 <= query.limit <= MOST:
        raise InvalidInput(f"limit: expected 1 to {MOST}, got {query.limit}", field="limit")
    check_id(query.user, "user_id", 0)
    check_id(query.item, "item_id", 0)
    for name in ("exclude", "history"):
        items = getattr(query, name)
        if len(items) > MOST:
            raise InvalidInput(f"{name}: at most {MOST} items, got {len(items)}", field=name)
        for i, item in enumerate(items):
            check_id(item, f"{name}[{i}]", 0)
    check_context(query.context)
    if query.user and query.item:
        raise InvalidInput("item_id: give either a user or an item, not both", field="item_id")


def check_context(context: Mapping[str, Condition | list[Condition]]) -> None:
    """Raises InvalidInput."""
    count = 0
    for name, value in context.items():
        field = f"context.{name[:60]}"
        if len(name) > LONGEST_ID:
            raise InvalidInput(f"{field}…: at most {LONGEST_ID} characters, got {len(name):,}", field="context")
        several = value if isinstance(value, list) else [value]
        count += max(1, len(several))
        if count > MOST_CONDITIONS:
            raise InvalidInput(f"context: at most {MOST_CONDITIONS} attributes and values in all", field="context")
        for each in several:
            long = each.bit_length() > 64 if isinstance(each, int) else len(str(each)) > _LONGEST_VALUE
            if long:
                raise InvalidInput(
                    f"{field}: a value has at most {_LONGEST_VALUE:,} characters, and a whole number 64 bits",
                    field=field,
                )


def check_known(query: Query, catalogue: Catalogue) -> None:
    """What the query names is there to be named. Raises InvalidInput."""
    if query.item and query.item not in catalogue.place_of:
        raise InvalidInput(f"item_id: no item {query.item[:60]!r} is known", field="item_id")
    for name, value in query.context.items():
        known = catalogue.attributes.get(name)
        if known is None:
            raise _unknown(f"context.{name[:60]}", name, list(catalogue.attributes), "the items have no such attribute")
        for each in values_of(value):
            if each not in known:
                raise _unknown(f"context.{name}", each, list(known), f"no item has {each[:60]!r}")


def values_of(value: Condition | list[Condition]) -> list[str]:
    """Of one attribute, as the catalogue has them, which is text."""
    several = value if isinstance(value, list) else [value]
    return [str(each).lower() if isinstance(each, bool) else str(each) for each in several]


def recommend(model: FactorModel, query: Query) -> list[Recommended]:
    """Best first, at most `limit`. Raises InvalidInput (`check_known`)."""
    catalogue = model.catalogue
    check_known(query, catalogue)
    allowed = _allowed(model, query)
    if query.item:
        return _similar(model, query, allowed)
    past = _past(model, query)
    if past is None:
        return _most_popular(model, query, allowed)
    if not query.seen:
        allowed[past.places] = False
    parts = model.taste(*past)
    vector = parts.sum(axis=1)
    if not vector.any():  # he liked nothing, or only what nobody else has touched
        return _most_popular(model, query, allowed)
    scores = model.factors @ vector + model.parameters.popular_weight * _popularity(model)
    best = _best(scores, allowed, query.limit)
    reasons = _because(model, query, (past.places, parts), best)
    return _told(model, best, scores, reasons, model.labels_for(past, vector, best))


def _most_popular(model: FactorModel, query: Query, allowed: Mask) -> list[Recommended]:
    scores = _popularity(model)
    best = _best(scores, allowed, query.limit)
    return _told(model, best, scores, [_popular(query)] * len(best), model.labels_for(None, None, best))


def _allowed(model: FactorModel, query: Query) -> Mask:
    catalogue = model.catalogue
    allowed = np.ones(len(catalogue), np.bool_)
    for name, value in query.context.items():
        having = np.zeros(len(catalogue), np.bool_)
        for each in values_of(value):
            having[catalogue.attributes[name][each]] = True
        allowed &= having
    for item in query.exclude:
        place = catalogue.place_of.get(item)
        if place is not None:
            allowed[place] = False
    return allowed


def _past(model: FactorModel, query: Query) -> Past | None:
    past = model.users.get(query.user) if query.user else None
    just_now = [place for item in query.history if (place := model.catalogue.place_of.get(item)) is not None]
    if not just_now:
        return past
    places, labels = np.array(just_now, np.int64), np.full(len(just_now), model.labels.typical)
    if past is None:
        return Past(places, labels)
    return Past(np.concatenate([past.places, places]), np.concatenate([past.labels, labels]))


def _popularity(model: FactorModel) -> Floats:
    most = float(model.popularity.max(initial=0.0))
    popularity: Floats = model.popularity / most if most > 0 else model.popularity
    return popularity


def _best(scores: Floats, allowed: Mask, limit: int) -> Places:
    """Places, best first; of equal ones the first in the catalogue."""
    among = np.flatnonzero(allowed)
    if len(among) > limit:
        some = np.argpartition(-scores[among], limit - 1)[:limit]
        least = scores[among[some]].min()
        among = among[scores[among] >= least]
    order: Places = among[np.argsort(-scores[among], kind="stable")][:limit]
    return order


def _because(model: FactorModel, query: Query, taste: tuple[Places, Floats], best: Places) -> list[str]:
    """Each score is a sum over the items that the user liked: the one that adds most is the reason."""
    places, parts = taste
    shares = model.factors[best] @ parts
    most = shares.argmax(axis=1)
    return [
        f"because you liked {model.catalogue.title(int(places[j]))}" if share[j] > 0 else _popular(query)
        for share, j in zip(shares, most.tolist(), strict=True)
    ]


def _similar(model: FactorModel, query: Query, allowed: Mask) -> list[Recommended]:
    place = model.catalogue.place_of[query.item]
    allowed[place] = False
    own = model.factors[place]
    if not own.any():  # nobody has touched it yet
        return _most_popular(model, query, allowed)
    lengths = np.sqrt(np.einsum("ij,ij->i", model.factors, model.factors)) * np.sqrt(own @ own)
    scores = model.factors @ own / np.maximum(lengths, 1e-300)
    best = _best(scores, allowed, query.limit)
    reasons = [f"liked by those who like {model.catalogue.title(place)}"] * len(best)
    return _told(model, best, scores, reasons, model.labels_for(None, None, best))


def _popular(query: Query) -> str:
    values = [_either(values_of(value)) for value in query.context.values()]
    told = ", ".join(values[:_TOLD_VALUES]) + (", …" if len(values) > _TOLD_VALUES else "")
    return f"popular in {told}" if values else "popular"


def _either(values: list[str]) -> str:
    several = list(dict.fromkeys(values))
    return " or ".join(several[:_TOLD_VALUES]) + (" or …" if len(several) > _TOLD_VALUES else "")


def _told(model: FactorModel, best: Places, scores: Floats, reasons: list[str], expected: Floats) -> list[Recommended]:
    ids = model.catalogue.ids
    return [
        Recommended(ids[place], round(min(max(score, 0.0), 1.0), 4), reason, round(label, 4))
        for place, score, reason, label in zip(
            best.tolist(), scores[best].tolist(), reasons, expected.tolist(), strict=True
        )
    ]


def _wrong(error: msgspec.ValidationError) -> InvalidInput:
    message, _, path = str(error).partition(" - at ")
    field = path[path.find("$") + 1 :].rstrip("`").lstrip(".") or "query"
    return InvalidInput(f"{field}: {message[:1].lower()}{message[1:]}", field=field)


def _unknown(field: str, given: str, known: list[str], otherwise: str) -> InvalidInput:
    near = near_names(given, known, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    else:
        hint = f"known are {', '.join(known[:8])}{', …' if len(known) > 8 else ''}" if known else "there are none"
    return InvalidInput(f"{field}: {otherwise}; {hint}", field=field)
