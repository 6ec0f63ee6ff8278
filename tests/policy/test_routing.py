"""Who is answered by which version: shares as asked for, and no more moves than a change needs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy.routing import BUCKETS, Allocation, allocate, bucket_of, whole_buckets

IDS = 1_000_000
SHARES = (0.01, 0.05, 0.25, 0.5)


@pytest.fixture(scope="module")
def buckets() -> list[int]:
    return [bucket_of("fraud", f"user-{i}") for i in range(IDS)]


def owners(share: float, before: Allocation | None = None) -> Allocation:
    return allocate({1: 1 - share, 2: share}, salt="fraud", before=before)


@pytest.mark.parametrize("share", SHARES)
def test_a_million_units_are_split_as_asked_for(buckets: list[int], share: float) -> None:
    owner = owners(share).owners()
    found = sum(1 for bucket in buckets if owner[bucket] == 2)
    assert abs(found - IDS * share) <= 3 * math.sqrt(IDS * share * (1 - share))


def test_growing_moves_nobody_out_and_shrinking_leaves_those_who_were_first(buckets: list[int]) -> None:
    allocation, inside = None, set[int]()
    first: set[int] = set()
    for share in SHARES:
        allocation = owners(share, allocation)
        owner = allocation.owners()
        now = {i for i, bucket in enumerate(buckets) if owner[bucket] == 2}
        assert inside <= now, f"growing to {share:.0%} moved somebody out"
        first, inside = first or now, now
    owner = owners(SHARES[0], allocation).owners()
    assert {i for i, bucket in enumerate(buckets) if owner[bucket] == 2} == first


def test_models_do_not_share_their_guinea_pigs() -> None:
    """Of two models at 5 %, the units of both are a twentieth of a twentieth."""
    ids = [f"user-{i}" for i in range(100_000)]
    owner = owners(0.05).owners()
    both = sum(1 for unit in ids if owner[bucket_of("a", unit)] == owner[bucket_of("b", unit)] == 2)
    assert abs(both - 250) <= 3 * math.sqrt(250)


def test_a_bucket_is_the_same_on_every_machine() -> None:
    assert [bucket_of("m", unit) for unit in ("", "a", "é", "\ud800", "x" * 256)] == [5143, 6658, 5291, 9584, 3426]


weights = st.lists(st.integers(0, BUCKETS), min_size=1, max_size=4).map(
    lambda cuts: {
        version: (b - a) / BUCKETS
        for version, (a, b) in enumerate(zip([0, *sorted(cuts)], [*sorted(cuts), BUCKETS], strict=True), 1)
    }
)


@given(st.lists(weights, min_size=1, max_size=5))
def test_no_more_buckets_move_than_must(steps: list[dict[int, float]]) -> None:
    before: Allocation | None = None
    for wanted in steps:
        after = allocate(wanted, salt="m", before=before)
        counts = whole_buckets(wanted)
        assert after.counts() == counts
        assert sum(after.counts().values()) == BUCKETS, "exactly 1, in ten-thousandths"
        assert math.isclose(math.fsum(after.weights().values()), 1.0, abs_tol=1e-15)
        assert all(weight > 0 for weight in after.weights().values())
        assert after.owners() == [after.version_of(bucket) for bucket in range(BUCKETS)]
        assert all(a[1] != b[1] for a, b in zip(after.segments, after.segments[1:], strict=False))
        if before is not None:
            moved = sum(a != b for a, b in zip(before.owners(), after.owners(), strict=True))
            had = before.counts()
            assert moved == sum(max(0, count - had.get(version, 0)) for version, count in counts.items())
        before = after


@given(weights)
def test_the_same_weights_move_nobody(wanted: dict[int, float]) -> None:
    before = allocate(wanted, salt="m")
    assert allocate(wanted, salt="m", before=before) == before


@pytest.mark.parametrize(
    "wanted",
    [{1: 0.5}, {1: 0.6, 2: 0.5}, {1: 1.1, 2: -0.1}, {1: True}, {1: float("nan")}, {1: "1"}, {1: 1 - 1e-6, 2: 1e-6}, {}],
)
def test_weights_that_are_none_are_refused(wanted: dict[int, float]) -> None:
    with pytest.raises(InvalidInput) as caught:
        allocate(wanted, salt="m")
    assert caught.value.field == "weights"
