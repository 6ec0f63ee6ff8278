"""A faster form of the live version takes its place: as the next version of its model, with all that the learner keeps books by.

The new version answers as its original does, so whoever asks what a version was trained on, since when the world is another one, or how
good it was, gets the original's answer: its lineage and metrics are taken over, and `variant_of` names it. Bytes, version, rollout and
event are one transaction, which is refused if the original is not the one that serves any more: so there never are two, and nothing
takes the place of a version that nobody has compared it with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from everloop.core.errors import Conflict
from everloop.optimization.config import BY
from everloop.policy.rollout import Plan, Rollout
from everloop.registry.catalog import Registry
from everloop.registry.publishing import publish
from everloop.runtime.artifact import load_session
from everloop.stores.ports import Manifest, ModelRecord, VersionRecord

VARIANT_OF = "variant_of"
"""In the lineage of a version: the one that was trained, and that it answers like."""
_BOOKS = ("first_id", "last_id", "count", "held_out", "held_out_learned", "held_out_seen_by_parent", "cut_id")
"""What the learner reads in the lineage of a version that serves."""


class Way(msgspec.Struct, frozen=True):
    """How a version goes out."""

    live: bool = False
    """At once."""
    plan: Plan | None = None
    """As this says. Neither: it waits as `staging`."""


def origin_of(version: VersionRecord) -> int:
    """The version that was trained: another one where this is a form of it."""
    named = version.manifest.lineage.get(VARIANT_OF)
    return named if isinstance(named, int) else version.version


def heir(original: VersionRecord, manifest: Manifest, source: Mapping[str, Any]) -> Manifest:
    """What is known of a form of `original`, which comes from where anything could have been written: only how it is run is its own."""
    books = {key: value for key, value in original.manifest.lineage.items() if key in _BOOKS}
    lineage = books | {
        "parent": original.version,
        VARIANT_OF: origin_of(original),
        "reason": "optimized",
        "optimization": {**manifest.lineage.get("optimization", {}), "recorded": dict(source)},
    }
    return msgspec.structs.replace(
        original.manifest,
        runtime=manifest.runtime,
        options=manifest.options,
        libraries=manifest.libraries,
        lineage=lineage,
    )


def succeed(
    registry: Registry,
    model: ModelRecord,
    original: VersionRecord,
    manifest: Manifest,
    payload: bytes,
    *,
    source: Mapping[str, Any],
    way: Way,
    note: str,
    told: Mapping[str, Any],
) -> VersionRecord:
    """Publish it as `way` says, and tell. `source`: which recorded examples it was compared on. Raises ModelNotFound, Conflict where `original` does not answer everybody any more, and what
    opening it raises."""
    made_of = heir(original, manifest, source)
    load_session(made_of, payload, trust=registry.trust).close()  # what cannot be opened here must not take over
    registry.artifacts.put(payload)  # before the transaction: others need not wait for it
    with registry.changes.on(model.name, by=BY) as change:
        shelf = change.shelf
        check_current(shelf.model, shelf.rollout(), model, original.version)
        made = publish(
            change,
            registry.artifacts,
            made_of,
            payload,
            live=way.live,
            plan=way.plan,
            note=note,
        )
        fate = "is live" if way.live else "goes out" if way.plan is not None else "waits to be promoted"
        change.log(
            "optimized",
            f"version {made.version}, {note}, {fate}",
            version=made.version,
            data={**told, "of": original.version, "state": "optimized"},
        )
    return made


def check_current(now: ModelRecord, rollout: Rollout | None, then: ModelRecord, version: int) -> None:
    """Raises Conflict unless `version` still answers everybody, of the very model that was looked at."""
    if now.created_at != then.created_at:
        raise Conflict("it is another model of that name now")
    if now.live_version != version:
        raise Conflict(f"version {now.live_version} has taken its place")
    if rollout is not None and rollout.active:
        raise Conflict(f"version {rollout.challenger} is being rolled out")
    if now.allocation is not None:
        raise Conflict("the traffic is split by hand")
