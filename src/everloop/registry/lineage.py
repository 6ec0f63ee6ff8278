"""How a version came about: what it was trained on, why, by whom, and what it descends from.

Put together from what the manifests of versions say (`parent`, the examples' first and last id, the reason) and from the model's
timeline (who published it; the drift alarm that the learning loop answered). Retention may have taken old events: then that is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from everloop.core.events import Event
from everloop.core.types import VersionStatus
from everloop.stores.ports import Journal, VersionRecord

_PAGE = 1000
_TOLD = {"published", "imported", "drift"}
_NUMBERED_HERE = {"published"}
"""Of events that came along with an import, those whose numbers are those that versions have here."""


class Ancestor(msgspec.Struct, frozen=True):
    version: int
    digest: str
    status: VersionStatus
    created_at: float
    name: str = ""
    note: str = ""
    tags: dict[str, str] = {}
    parent: int | None = None
    """The version that was live when it was made, or that its maker names."""
    by: str = ""
    """Who published it, where that was said."""
    reason: str = ""
    first_example: int | None = None
    """Ids in the journal of the examples that it was trained on: from here …"""
    last_example: int | None = None
    """… to here,"""
    examples: int | None = None
    """so many."""
    alarm: Event | None = None
    """The drift that it was the answer to."""
    imported: dict[str, Any] = {}
    """Where it came from, if it came as a file: the model, version and lineage there."""
    metrics: dict[str, float] = {}


class Lineage(msgspec.Struct, frozen=True):
    model: str
    version: int
    children: list[int]
    """Versions that name it as their parent."""
    chain: list[Ancestor]
    """The version itself, its parent, and so on up to the first one whose parent is not known."""


def lineage_of(versions: Sequence[VersionRecord], number: int, journal: Journal) -> Lineage:
    known = {record.version: record for record in versions}
    events = list(_events(known[number].model, journal))
    published = {event.version: event for event in events if event.kind == "published"}
    imported = {new: event for event in events if event.kind == "imported" for new in event.data.get("numbers", ())}
    alarms = {event.data["cut_id"]: event for event in events if event.kind == "drift" and "cut_id" in event.data}
    chain: list[Ancestor] = []
    at: int | None = number
    while at is not None and at in known:
        record = known[at]
        lineage = record.manifest.lineage
        parent = lineage.get("parent")
        told, cut = published.get(at) or imported.get(at), lineage.get("cut_id")
        ancestor = Ancestor(
            version=at,
            digest=record.digest,
            status=record.status,
            created_at=record.created_at,
            name=record.name,
            note=record.note,
            tags=record.tags,
            parent=parent if isinstance(parent, int) else None,
            by=str(told.data.get("by") or "") if told else "",
            reason=str(lineage.get("reason") or ""),
            first_example=lineage.get("first_id"),
            last_example=lineage.get("last_id"),
            examples=lineage.get("count"),
            alarm=alarms.get(cut) if isinstance(cut, (int, str)) else None,
            imported=lineage.get("imported") or {},
            metrics=record.manifest.metrics,
        )
        chain.append(ancestor)
        # A parent is always older: what says otherwise is no parent, and would lead in a circle.
        at = ancestor.parent if ancestor.parent is not None and ancestor.parent < at else None
    children = [v.version for v in versions if v.version > number and v.manifest.lineage.get("parent") == number]
    return Lineage(known[number].model, number, children, chain)


def _events(model: str, journal: Journal) -> Iterator[Event]:
    after = 0
    while page := journal.events(model=model, after=after, limit=_PAGE):
        yield from (e for e in page if e.kind in _TOLD and (e.kind in _NUMBERED_HERE or "imported" not in e.data))
        after = page[-1].id
