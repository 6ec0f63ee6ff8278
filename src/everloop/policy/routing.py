"""Who is answered by which version: salted consistent hashing of a unit into buckets, and buckets given to versions.

A unit (a user, a session, a request) falls into one of `BUCKETS` buckets by a hash that is salted with the model's name, so that
the same users are not the guinea pigs of every model. An `Allocation` says which version owns which bucket.

When weights change, only as many buckets change hands as must: who shrinks gives up its last buckets, who grows takes them
over (`allocate`). So growing a canary from 5 % to 25 % moves nobody out of it, and going back to 5 % leaves in it those who
were there at first. This is the bucketing that feature-flag servers use (Unleash's and LaunchDarkly's "sticky" gradual rollout),
with the buckets written down, because with three versions no formula of the weights alone moves as few.

Shares are whole buckets: a ten-thousandth is the smallest. They sum to exactly 1 because the buckets do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec
from xxhash import xxh3_64_intdigest

from everloop.core.errors import InvalidInput

BUCKETS = 10_000
_TOLERANCE = 1e-9


class Allocation(msgspec.Struct, frozen=True):
    """Buckets by version: `segments` are (stop, version) by ascending stop; the last stop is `BUCKETS`, neighbours differ."""

    salt: str
    segments: tuple[tuple[int, int], ...]

    def version_of(self, bucket: int) -> int:
        for stop, version in self.segments:
            if bucket < stop:
                return version
        raise IndexError(bucket)

    def owners(self) -> list[int]:
        """Bucket -> version, all `BUCKETS` of them."""
        owners: list[int] = []
        for stop, version in self.segments:
            owners += [version] * (stop - len(owners))
        return owners

    def weights(self) -> dict[int, float]:
        """Version -> its share; they sum to 1."""
        return {version: count / BUCKETS for version, count in self.counts().items()}

    def counts(self) -> dict[int, int]:
        """Version -> its buckets, by ascending version."""
        counts: dict[int, int] = {}
        start = 0
        for stop, version in self.segments:
            counts[version] = counts.get(version, 0) + stop - start
            start = stop
        return dict(sorted(counts.items()))


def bucket_of(salt: str, unit: str) -> int:
    """0 … BUCKETS-1, the same on every machine."""
    return xxh3_64_intdigest(f"{salt}:{unit}".encode("utf-8", "surrogatepass")) % BUCKETS


def buckets_of(salt: str) -> Callable[[str], int]:
    """`bucket_of` for one salt, which is then encoded once: a third of its time."""
    digest, start = xxh3_64_intdigest, f"{salt}:".encode("utf-8", "surrogatepass")

    def bucket(unit: str) -> int:
        return digest(start + unit.encode("utf-8", "surrogatepass")) % BUCKETS

    return bucket


def whole_buckets(weights: Mapping[int, float]) -> dict[int, int]:
    """Version -> buckets: the nearest whole numbers that sum to `BUCKETS` (largest remainders). Versions of weight 0 get none
    and are left out. Raises InvalidInput unless the weights are at least 0 and sum to 1."""
    for version, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
            raise InvalidInput(
                f"weights: expected shares from 0 to 1, got {weight!r} for version {version}", field="weights"
            )
    total = math.fsum(weights.values())
    if abs(total - 1) > _TOLERANCE:
        raise InvalidInput(f"weights: expected shares that sum to 1, got {total:.12g}", field="weights")
    counts = {version: math.floor(weight * BUCKETS + _TOLERANCE) for version, weight in weights.items()}
    rest = sorted(weights, key=lambda version: (counts[version] - weights[version] * BUCKETS, version))
    for version in rest[: BUCKETS - sum(counts.values())]:
        counts[version] += 1
    for version, weight in weights.items():
        if weight > 0 and counts[version] == 0:
            raise InvalidInput(
                f"weights: the smallest share is {1 / BUCKETS:g}, got {weight!r} for version {version}", field="weights"
            )
    return {version: count for version, count in sorted(counts.items()) if count}


def allocate(weights: Mapping[int, float], *, salt: str, before: Allocation | None = None) -> Allocation:
    """Give each version its share, moving as few buckets as possible from `before` (of the same salt). Raises InvalidInput."""
    wanted = whole_buckets(weights)
    if before is None or before.salt != salt:
        owners: list[int] = []
        # The newest version first: as it grows it takes from the front of the older ones.
        for version in sorted(wanted, reverse=True):
            owners += [version] * wanted[version]
        return Allocation(salt, _segments(owners))
    owners = before.owners()
    surplus = {version: count - wanted.get(version, 0) for version, count in before.counts().items()}
    free: list[int] = []
    for bucket in range(BUCKETS - 1, -1, -1):
        if surplus.get(owners[bucket], 0) > 0:
            surplus[owners[bucket]] -= 1
            free.append(bucket)
    free.reverse()
    have = before.counts()
    for version in sorted(wanted, reverse=True):
        missing = wanted[version] - have.get(version, 0)
        if missing > 0:
            for bucket in free[:missing]:
                owners[bucket] = version
            del free[:missing]
    return Allocation(salt, _segments(owners))


def _segments(owners: list[int]) -> tuple[tuple[int, int], ...]:
    segments: list[tuple[int, int]] = []
    for stop, version in enumerate(owners, 1):
        if segments and segments[-1][1] == version:
            segments[-1] = (stop, version)
        else:
            segments.append((stop, version))
    return tuple(segments)
