"""Shares of the traffic as people ask for them, one version at a time, and what each then gets.

A claim is what was asked for a version, 0 to 1. Claims sum to at most 1: `grant` gives one version what is asked for it, and the others keep
theirs as long as there is room; beyond, all of them shrink by the same factor, down to whole buckets. What nobody claims is answered by
the default version (`filled`), so that the shares that versions really get always sum to exactly 1.

    claims 1: 100 %            grant 2: 5 %     ─► 1: 95 %, 2: 5 %
    claims 1: 95 %, 2: 5 %     grant 2: 50 %    ─► 1: 50 %, 2: 50 %
    claims 1: 50 %, 2: 50 %    grant 2: 20 %    ─► 1: 50 %, 2: 20 %, and 30 % for the default one
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from everloop.core.errors import InvalidInput
from everloop.policy.routing import BUCKETS

_EXACT = 1e-9
"""A share that is a whole number of buckets but for rounding."""


def check_share(share: float, field: str = "traffic_percentage") -> float:
    """Raises InvalidInput unless it is from 0 to 1, and 0 or at least a bucket."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise InvalidInput(f"{field}: expected a share from 0 to 1 (0.05 is 5 %), got {share!r}", field=field)
    if 0 < share < 1 / BUCKETS:
        raise InvalidInput(f"{field}: the smallest share is {1 / BUCKETS:g}, got {share!r}", field=field)
    return float(share)


def grant(claims: Mapping[int, float], version: int, share: float) -> dict[int, float]:
    """The claims once `version` has `share`. Versions that are left with nothing are left out, but for `version` itself."""
    others = {other: claim for other, claim in claims.items() if other != version and claim > 0}
    room, total = 1 - share, math.fsum(others.values())
    if total > room:
        others = {other: _whole(claim * room / total) for other, claim in others.items()}
    return {other: claim for other, claim in others.items() if claim > 0} | {version: share}


def filled(claims: Mapping[int, float], default: int) -> dict[int, float]:
    """What each version gets: its claim, and `default` also whatever nobody claims. They sum to 1; versions that get nothing are left
    out."""
    rest = max(0.0, 1 - math.fsum(claims.values()))
    weights = dict(claims) | {default: claims.get(default, 0.0) + rest}
    return {version: weight for version, weight in weights.items() if weight > 0}


def _whole(share: float) -> float:
    return math.floor(share * BUCKETS + _EXACT) / BUCKETS
