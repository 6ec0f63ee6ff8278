"""Shares as they are asked for: never more than everything, never less to who may keep what it has."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy.claims import check_share, filled, grant
from everloop.policy.routing import BUCKETS, allocate, bucket_of

SHARES = st.integers(1, BUCKETS).map(lambda buckets: buckets / BUCKETS)
ASKED = st.lists(st.tuples(st.integers(1, 5), SHARES), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("claims", "version", "share", "after"),
    [
        ({}, 1, 0.05, {1: 0.05}),
        ({1: 1.0}, 2, 0.05, {1: 0.95, 2: 0.05}),
        ({1: 0.95, 2: 0.05}, 2, 0.5, {1: 0.5, 2: 0.5}),
        ({1: 0.5, 2: 0.5}, 2, 0.2, {1: 0.5, 2: 0.2}),
        ({1: 0.6, 2: 0.3, 3: 0.1}, 3, 0.55, {1: 0.3, 2: 0.15, 3: 0.55}),
        ({1: 0.4}, 2, 1.0, {2: 1.0}),
        ({1: 0.4, 2: 0.6}, 2, 0.0, {1: 0.4, 2: 0.0}),
    ],
)
def test_one_by_one(claims: dict[int, float], version: int, share: float, after: dict[int, float]) -> None:
    assert grant(claims, version, share) == pytest.approx(after)


@given(ASKED)
def test_claims_never_exceed_everything_and_shares_are_exactly_that(asked: list[tuple[int, float]]) -> None:
    claims: dict[int, float] = {}
    allocation = None
    for version, share in asked:
        before = claims
        claims = grant(claims, version, share)
        assert claims[version] == share
        assert math.fsum(claims.values()) <= 1 + 1e-9
        others = {v for v in before if v != version}
        if math.fsum([share, *(before[v] for v in others)]) <= 1:
            assert all(claims[v] == before[v] for v in others), "there is room: nobody shrinks"
        assert all(claims.get(v, 0.0) <= before[v] for v in others), "nobody grows but who asked"
        default = max(claims, key=lambda v: claims[v])
        weights = filled(claims, default)
        assert math.fsum(weights.values()) == pytest.approx(1, abs=1e-9)
        assert all(weights[v] == claims[v] for v in claims if v != default)
        grown = allocate(weights, salt="m", before=allocation)
        if allocation is not None and default in allocation.counts():
            had = allocation.counts()
            for unit in map(str, range(50)):
                then, now = (a.version_of(bucket_of("m", unit)) for a in (allocation, grown))
                if then != now:
                    assert grown.counts().get(then, 0) < had[then], "only a version that shrinks loses anybody"
        allocation = grown


@pytest.mark.parametrize("share", [-0.1, 1.1, 5, True, "0.5", math.nan, None, 1e-5])
def test_what_is_no_share(share: object) -> None:
    with pytest.raises(InvalidInput, match="traffic_percentage"):
        check_share(share)  # type: ignore[arg-type]
