"""A recommender as bytes: the eight bytes `EVFACTOR`, then one msgpack map whose arrays are little-endian numbers.

There is nothing in it that could run. Reading believes nothing: every length, place and number is looked at before it is used.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, InvalidInput
from everloop.core.structs import looked_into
from everloop.runtime.factors_model import Catalogue, FactorModel, FactorParameters, Floats, Labels, PackedUsers, Places

MAGIC = b"EVFACTOR"
FORMAT = 1
MOST = 1e60
"""No number is as large: products of them stay finite."""


@looked_into
class _File(msgspec.Struct, frozen=True):
    format: int
    parameters: FactorParameters
    labels: Labels
    items: list[str]
    titles: dict[str, str]
    attributes: dict[str, dict[str, bytes]]
    factors: bytes
    popularity: bytes
    counts: bytes
    offsets: bytes
    people: bytes
    crowd: int
    users: list[str]
    starts: bytes
    places: bytes
    given: bytes
    """Labels, one a place."""


def pack_factors(model: FactorModel, users: PackedUsers) -> bytes:
    """`users`: the model's, packed."""
    catalogue = model.catalogue
    found = _File(
        FORMAT,
        model.parameters,
        model.labels,
        catalogue.ids,
        catalogue.titles,
        {
            name: {value: _whole(places) for value, places in values.items()}
            for name, values in catalogue.attributes.items()
        },
        _numbers(model.factors),
        _numbers(model.popularity),
        _numbers(model.counts),
        _numbers(model.offsets),
        _numbers(model.people),
        model.crowd,
        users.ids,
        _whole(users.starts),
        _whole(users.places),
        _numbers(users.labels),
    )
    return MAGIC + msgspec.msgpack.encode(found)


def unpack_factors(payload: bytes) -> FactorModel:
    """Its `users` are `PackedUsers`. Raises ArtifactCorrupt."""
    if not payload.startswith(MAGIC):
        raise ArtifactCorrupt("not a recommender: the bytes do not begin as everloop's factors do")
    try:
        found = msgspec.msgpack.decode(memoryview(payload)[len(MAGIC) :], type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidInput, RecursionError) as error:
        raise ArtifactCorrupt(f"a recommender that cannot be read: {error}") from error
    if found.format != FORMAT:
        raise ArtifactCorrupt(f"a recommender of format {found.format}; this everloop reads format {FORMAT}")
    told = msgspec.structs.astuple(found.labels)
    if not all(abs(value) < MOST for value in told) or found.labels.least > found.labels.most:
        raise ArtifactCorrupt(f"a recommender of labels that cannot be: {told}")
    n, k, people = len(found.items), found.parameters.factors, len(found.users)
    if len(set(found.items)) != n or len(set(found.users)) != people:
        raise ArtifactCorrupt("a recommender that has one item or user twice")
    catalogue = Catalogue(
        found.items,
        found.titles,
        {
            name: {value: _places(data, n, f"{name} {value}") for value, data in values.items()}
            for name, values in found.attributes.items()
        },
    )
    places = _places(found.places, n, "places")
    starts = _places(found.starts, len(places) + 1, "starts")
    if len(starts) != people + 1 or starts[0] != 0 or starts[-1] != len(places) or (np.diff(starts) < 0).any():
        raise ArtifactCorrupt(f"a recommender of {people} users whose interactions do not add up")
    users = PackedUsers(found.users, starts, places, _floats(found.given, len(places)))
    return FactorModel(
        found.parameters,
        catalogue,
        _floats(found.factors, n * k).reshape(n, k),
        _floats(found.popularity, n),
        _floats(found.counts, n),
        _floats(found.offsets, n),
        found.labels,
        users,
        _floats(found.people, k * k).reshape(k, k),
        found.crowd,
    )


def _numbers(array: Floats) -> bytes:
    return array.astype("<f8", copy=False).tobytes()


def _whole(array: Places) -> bytes:
    return array.astype("<u4").tobytes()


def _array(data: bytes, kind: str, into: Any) -> npt.NDArray[Any]:
    try:
        return np.frombuffer(data, kind).astype(into)
    except ValueError as error:
        raise ArtifactCorrupt(f"a recommender with numbers cut short: {error}") from error


def _places(data: bytes, below: int, what: str) -> Places:
    found: Places = _array(data, "<u4", np.int64)
    if len(found) and found.max() >= below:
        raise ArtifactCorrupt(f"a recommender whose {what:.60} name an item that it does not have")
    return found


def _floats(data: bytes, count: int) -> Floats:
    found: Floats = _array(data, "<f8", np.float64)
    if len(found) != count or not (np.abs(found) < MOST).all():
        raise ArtifactCorrupt(f"a recommender with {len(found)} numbers where {count} of ordinary size belong")
    return found
