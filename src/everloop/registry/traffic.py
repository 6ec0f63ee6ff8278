"""Who serves: promoting, going back, splitting traffic, putting away; each inside the transaction of its caller.

While a rollout is active it is what decides (`registry.rolling`): promoting its challenger promotes it, going back rolls it back, and
whatever would change the traffic under it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from everloop.core.errors import Conflict, InvalidInput
from everloop.core.wording import percent
from everloop.policy.routing import BUCKETS, Allocation, allocate
from everloop.registry.changes import Change
from everloop.registry.rolling import act, active, because, ends_as, forbid, shares
from everloop.stores.ports import ModelRecord, VersionRecord
from everloop.stores.shelving import make_live, roll_back, set_status


def promote(change: Change, number: int, *, note: str = "") -> VersionRecord:
    """Version `number` answers everybody. Raises VersionNotFound, Conflict."""
    shelf = change.shelf
    before, model = shelf.version(number), shelf.model
    check_there(before)
    if ends_as(change, number) == "promote":
        act(change, "promote", reason=note or "promoted by hand")
        return shelf.version(number)
    if before.status == "live" and model.allocation is None:
        return before
    after = make_live(shelf, number)
    change.log(
        "promoted",
        f"version {number} is live{because(note)}",
        version=number,
        data={"previous": model.live_version, "from": before.status, "note": note},
    )
    return after


def go_back(change: Change, *, note: str = "") -> VersionRecord:
    """Undo what came last: an active rollout, else a split, else the last promotion. The version that answers everybody now. Raises
    Conflict where there is nothing to go back to."""
    shelf, model = change.shelf, change.shelf.model
    if ends_as(change, None) == "roll_back":
        rollout = act(change, "roll_back", reason=note or "rolled back by hand")
        return shelf.version(rollout.challenger if rollout.champion is None else rollout.champion)
    if model.allocation is not None and model.live_version is not None:
        after = make_live(shelf, model.live_version)
        told = f"back from the split ({shares(model.allocation)}) to version {after.version}"
    else:
        after = roll_back(shelf)
        told = f"back from version {model.live_version} to version {after.version}"
    change.log(
        "rolled_back",
        f"{told}{because(note)}",
        version=after.version,
        data={"previous": model.live_version, "note": note},
    )
    return after


def archive(change: Change, number: int) -> VersionRecord:
    """Raises VersionNotFound, Conflict for a version that answers somebody, is shown something or takes part in a rollout."""
    shelf, model = change.shelf, change.shelf.model
    before, rollout = shelf.version(number), active(change)
    if rollout is not None and number in {rollout.challenger, rollout.champion}:
        forbid(change, f"version {number} cannot be archived")
    if model.allocation is not None and before.status != "live" and number in model.allocation.counts():
        raise Conflict(
            f"version {number} of {model.name!r} answers {percent(model.allocation.weights()[number])} of the traffic; "
            "give that to another one before archiving it",
            field="version",
        )
    if model.shadow == number:
        raise Conflict(
            f"version {number} of {model.name!r} is its shadow; end that before archiving it", field="version"
        )
    after = set_status(shelf, number, "archived")
    if before.status != "archived":
        change.log("archived", f"version {number} is archived", version=number, data={"from": before.status})
    return after


def split(change: Change, weights: Mapping[int, float], *, shadow: int | None = None, note: str = "") -> ModelRecord:
    """Give each version its share, moving as few units as possible. Raises InvalidInput, VersionNotFound, Conflict."""
    shelf, before = change.shelf, change.shelf.model
    forbid(change, "the traffic cannot be split by hand")
    allocation = allocate(weights, salt=before.name, before=_present(before))
    counts = allocation.counts()
    if shadow in counts:
        raise InvalidInput(
            f"shadow: version {shadow} answers {percent(allocation.weights()[shadow])} of the traffic; a shadow answers nobody",
            field="shadow",
        )
    for number in (*counts, *([] if shadow is None else [shadow])):
        record = shelf.version(number)
        check_there(record)
        if record.status in {"archived", "rejected"}:
            set_status(shelf, number, "staging")
    live = before.live_version
    if live is None or live not in counts:
        live = max(counts, key=lambda number: (counts[number], -number))
        make_live(shelf, live)
    after = msgspec.structs.replace(shelf.model, allocation=allocation if len(counts) > 1 else None, shadow=shadow)
    if after == before:
        return before
    shelf.put_model(after)
    watched = "" if shadow is None else f"; version {shadow} is its shadow"
    change.log(
        "traffic",
        f"{shares(allocation)}{watched}{because(note)}",
        version=live,
        data={
            "weights": {str(number): share for number, share in allocation.weights().items()},
            "shadow": shadow,
            "live": live,
            "previous": before.live_version,
            "note": note,
        },
    )
    return after


def weights_of(model: ModelRecord) -> dict[int, float]:
    """Version -> its share of the traffic, now; they sum to 1, or nothing serves yet."""
    present = _present(model)
    return {} if present is None else present.weights()


def check_there(record: VersionRecord) -> None:
    """Raises Conflict for a version of which only the record is left."""
    if record.collected:
        raise Conflict(
            f"version {record.version} of {record.model!r} was archived and its artifact collected: only its record is left; "
            "publish it anew",
            field="version",
        )


def _present(model: ModelRecord) -> Allocation | None:
    if model.allocation is None and model.live_version is not None:
        return Allocation(model.name, ((BUCKETS, model.live_version),))
    return model.allocation
