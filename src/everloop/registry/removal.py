"""Removing one version for good, inside the transaction of its caller."""

from __future__ import annotations

import msgspec

from everloop.registry import traffic
from everloop.registry.changes import Change
from everloop.stores.ports import VersionRecord


def delete(change: Change, number: int) -> VersionRecord:
    """It and the aliases that point at it are gone, its number is never given again; its bytes are the caller's to discard. Raises
    VersionNotFound, and Conflict for one that may not be archived."""
    shelf = change.shelf
    record = traffic.archive(change, number)
    model = shelf.model
    aliases = {alias: version for alias, version in model.aliases.items() if version != number}
    if aliases != model.aliases:
        shelf.put_model(msgspec.structs.replace(model, aliases=aliases))
    shelf.delete_version(number)
    called = f" ({record.name})" if record.name else ""
    change.log("deleted", f"version {number}{called} is deleted", version=number, data={"digest": record.digest})
    return record
