"""Garbage collection: artifacts that nothing names any more, and, asked, those of archived versions.

    put bytes ─► name them in the catalog          a crash in between leaves an orphan
    mark the version collected ─► delete bytes     a crash in between leaves an orphan

So a version that is not marked always has its bytes, and whatever is left over is an orphan that the next collection takes. Bytes that
were put within the grace period stay: somebody may be about to name them. The store compares and deletes in one step, so putting
the same bytes again at the same time is safe, whichever process does it.

Bytes of versions that were archived or removed go at once, if nobody has put them since that began. Whoever names bytes therefore holds
them inside the transaction that does it (`hold`): transactions take turns, so this one comes before that of the collection, which then
sees the name, or after the collection began, and then the bytes are young.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec

from everloop.core.errors import InvalidInput, ModelNotFound
from everloop.core.hashing import artifact_digest
from everloop.core.wording import counted
from everloop.registry.changes import Change, Changes
from everloop.stores.ports import ArtifactStore, Catalog

GRACE = 3600.0
"""Seconds between putting bytes and naming them that are certainly enough."""


class Collected(msgspec.Struct, frozen=True):
    """What a collection took."""

    artifacts: int
    bytes: int
    """Of the artifacts, and of what interrupted writes had left."""
    versions: list[tuple[str, int]]
    """Model and number of archived versions whose record alone is left."""
    spared: int
    """Orphans younger than the grace period."""


def collect(
    catalog: Catalog,
    artifacts: ArtifactStore,
    changes: Changes,
    *,
    archived: bool,
    keep: int,
    grace: float,
    by: str,
) -> Collected:
    """As `Registry.collect_garbage`."""
    for field, value, kinds in (("keep", keep, int), ("grace", grace, (int, float))):
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= 0:
            raise InvalidInput(f"{field}: expected a number of at least 0, got {value!r}", field=field)
    begun = artifacts.now()
    marked: dict[str, list[int]] = {}
    kept = _kept(catalog) if archived else set()
    owned: set[str] = set()
    for model in catalog.list_models() if archived else []:
        with contextlib.suppress(ModelNotFound), changes.on(model.name, by=by) as change:
            digests = _mark(change, keep, kept)
            owned |= set(digests.values())
            marked[model.name] = sorted(digests)
    # First what is there, then what is named: whatever is put in between is young.
    there = artifacts.digests()
    used = in_use(catalog)
    taken = size = spared = 0
    for digest in there:
        if digest in used:
            continue
        # Of an archived version's bytes it is known who named them; they stay only if they were put again since.
        freed = artifacts.delete(digest, before=begun if digest in owned else begun - grace)
        taken += freed is not None
        spared += freed is None
        size += freed or 0
    size += artifacts.sweep(idle=grace)
    return Collected(taken, size, [(name, number) for name in sorted(marked) for number in marked[name]], spared)


def discard(catalog: Catalog, artifacts: ArtifactStore, owned: Iterable[str], *, before: float) -> None:
    """Delete those of `owned` that nothing names any more and nobody has put since `before`."""
    for digest in set(owned) - in_use(catalog):
        artifacts.delete(digest, before=before)


def hold(artifacts: ArtifactStore, payload: bytes) -> str:
    """Have the bytes there when the transaction that names them, which is the caller's, has ended. Their digest."""
    digest = artifact_digest(payload)
    if not artifacts.renew(digest):
        artifacts.put(payload)
    return digest


def in_use(catalog: Catalog) -> set[str]:
    """Digests that a version or a template names."""
    used: set[str] = set()
    for model in catalog.list_models():
        used |= {model.template} if model.template else set()
        with contextlib.suppress(
            ModelNotFound
        ):  # unregistered since the list was read: nothing of it is named any more
            used |= {version.digest for version in catalog.versions(model.name) if not version.collected}
    return used


def _kept(catalog: Catalog) -> set[str]:
    """Digests of what is not archived: an archived version of the same bytes costs nothing, and stays usable."""
    kept: set[str] = set()
    for model in catalog.list_models():
        kept |= {model.template} if model.template else set()
        with contextlib.suppress(ModelNotFound):  # as in `in_use`
            kept |= {version.digest for version in catalog.versions(model.name) if version.status != "archived"}
    return kept


def _mark(change: Change, keep: int, kept: set[str]) -> dict[int, str]:
    """Archived versions whose artifacts may go: number -> digest; told as one event."""
    shelf = change.shelf
    named = set(shelf.model.aliases.values())
    candidates = [
        v
        for v in shelf.versions()
        if v.status == "archived" and not v.collected and v.version not in named and v.digest not in kept
    ]
    doomed = candidates[: len(candidates) - keep] if keep else candidates
    for record in doomed:
        shelf.put_version(msgspec.structs.replace(record, collected=True))
    if doomed:
        numbers = [record.version for record in doomed]
        change.log(
            "collected",
            f"the {'artifact' if len(doomed) == 1 else 'artifacts'} of {counted(len(doomed), 'archived version')} "
            f"({', '.join(map(str, numbers))}) collected",
            data={"versions": numbers},
        )
    return {record.version: record.digest for record in doomed}
