"""Shares of the traffic as they are asked for, version by version, and how they become the split of a model (`policy.claims`).

A version's claim is written down (`VersionRecord.claim`) only where it got more than it asked for, as the one that answers whatever
nobody asked for; it holds as long as its share is still the one that it got with that.
"""

from __future__ import annotations

import msgspec

from everloop.core.errors import Conflict
from everloop.core.wording import percent
from everloop.policy.claims import filled, grant
from everloop.registry import traffic
from everloop.registry.changes import Change
from everloop.stores.ports import VersionRecord

_EXACT = 1e-9


def settle(change: Change, number: int, share: float) -> None:
    """Give `number` its share, inside the caller's transaction, and write down what was asked. Raises InvalidInput, Conflict (it is the
    only one in production; a rollout is active)."""
    shelf = change.shelf
    before = shelf.model
    claims = {v: claimed(shelf.version(v), got) for v, got in traffic.weights_of(before).items()}
    wanted = grant(claims, number, share)
    default = before.live_version
    if default is None or wanted.get(default, 0.0) == 0:
        default = max(wanted, key=lambda v: (wanted[v], -v))
    if wanted[default] == 0:
        raise Conflict(
            f"version {number} is the only one of {before.name!r} in production: promote another one first",
            field="model_id",
        )
    weights = filled(wanted, default)
    if share == 1:
        traffic.promote(change, number)
    else:
        traffic.split(change, weights, shadow=None if before.shadow in weights else before.shadow)
    got = traffic.weights_of(shelf.model)
    moved = got != traffic.weights_of(before)
    told = moved
    for record in sorted(shelf.versions(), key=lambda record: record.version != number):
        asked, has = wanted.get(record.version, 0.0), got.get(record.version, 0.0)
        claim = (asked, has) if has - asked > _EXACT else None
        if claim != record.claim:
            shelf.put_version(msgspec.structs.replace(record, claim=claim))
            if not told:
                told = True
                alone = "" if claim is None else f"; it answers {percent(has)}, for there is nobody else"
                change.log(
                    "traffic",
                    f"version {record.version} is to answer {percent(asked)}{alone}",
                    version=record.version,
                    data={"weights": {str(v): s for v, s in got.items()}, "asked": asked},
                )


def claimed(version: VersionRecord, share: float) -> float:
    """What was asked for it; all that it has once its share was changed in another way."""
    if version.claim is not None and abs(version.claim[1] - share) <= _EXACT:
        return version.claim[0]
    return share
