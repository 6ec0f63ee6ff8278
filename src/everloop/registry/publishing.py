"""A version comes in: its bytes, its record, and how it starts; inside the transaction of its caller."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from everloop.core.schema import Schema, Target
from everloop.policy.rollout import Plan
from everloop.registry import rolling
from everloop.registry.changes import Change
from everloop.registry.collection import hold
from everloop.registry.references import check_new_name
from everloop.registry.registration import check_fits, note_of, tags_of
from everloop.stores import shelving
from everloop.stores.ports import ArtifactStore, Manifest, ModelRecord, VersionRecord


def publish(
    change: Change,
    artifacts: ArtifactStore,
    manifest: Manifest,
    payload: bytes,
    *,
    live: bool,
    plan: Plan | None = None,
    note: str = "",
    name: str = "",
    tags: Mapping[str, str] | None = None,
) -> VersionRecord:
    """As `Registry.add_version`."""
    shelf, model = change.shelf, change.shelf.model
    tagged = tags_of(tags)
    note_of(note)
    check_fits(model, manifest)
    if name:
        check_new_name(shelf, name)
    digest = hold(artifacts, payload)
    fix_schema(change, manifest.schema, manifest.target)
    if live or plan is not None:
        rolling.supersede(change, "a newer version took its place")
    version = shelving.add_version(
        shelf,
        digest,
        manifest,
        now=change.now,
        status="live" if live else "staging",
        note=note,
        name=name,
        tags=tagged,
    )
    fate = "is live" if live else "goes out" if plan is not None else "waits to be promoted"
    told = {"live": live, "digest": digest, "previous": model.live_version, "note": note}
    told |= {"metrics": manifest.metrics, "lineage": manifest.lineage}
    message = f"version {version.version} {fate}{rolling.because(note)}"
    change.log("published", message, version=version.version, data=told)
    if plan is not None:
        rolling.start(change, version.version, plan, by=change.by)
        version = shelf.version(version.version)
    return version


def fix_schema(change: Change, schema: Schema, target: Target | None) -> ModelRecord:
    """Told as an event where it settled anything."""
    before = change.shelf.model
    after = shelving.set_schema(change.shelf, schema, target)
    if after == before:
        return after
    assert after.schema is not None
    width = len(after.schema.fields)
    labels = f", {after.target.task} of {after.target.kind} labels" if after.target else ""
    change.log(
        "schema",
        f"takes {width} feature{'s' if width > 1 else ''}{labels}",
        data={"schema": msgspec.to_builtins(after.schema), "target": msgspec.to_builtins(after.target)},
    )
    return after
