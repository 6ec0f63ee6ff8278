"""The rules of the catalog that do not depend on where it is kept: how a schema settles, what may follow a status.

Pure functions from records to records; both catalogs call them inside their transactions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from everloop.core.errors import Conflict, InvalidInput, VersionNotFound
from everloop.core.schema import Schema, Target
from everloop.core.types import VersionStatus
from everloop.policy.keys import KeyRecord
from everloop.policy.rollout import Rollout
from everloop.stores.ports import ModelRecord, VersionRecord

HISTORY = 100
"""How many versions that were live a model remembers for `rollback`."""
_CALLED = {"ModelRecord": "model", "VersionRecord": "version", "Rollout": "rollout"}


def with_schema(record: ModelRecord, schema: Schema, target: Target | None) -> ModelRecord:
    """The first schema wins, and the first target; the target also tells the task where it was open."""
    if target is not None and record.task is not None and target.task != record.task:
        raise InvalidInput(
            f"model {record.name!r} is for {record.task}, so its labels cannot be those of {target.task}", field="label"
        )
    settled = record.target or target
    return msgspec.structs.replace(
        record,
        schema=record.schema or schema,
        target=settled,
        task=record.task or (settled.task if settled else None),
    )


def check_key(known: KeyRecord | None, record: KeyRecord) -> None:
    """Whoever changes a key has read it before; meanwhile it may have been withdrawn, and that is for good. Raises Conflict."""
    if known is not None and known.revoked_at is not None and record.revoked_at is None:
        raise Conflict(f"the key {known.name!r} ({known.id}) has been revoked", field="id")


def check_status(record: VersionRecord, status: VersionStatus) -> None:
    if status == "live":
        raise Conflict(f"version {record.version} of {record.model!r} goes live by promoting it", field="status")
    if record.status == "live":
        raise Conflict(
            f"version {record.version} of {record.model!r} is live; promote another one before making it {status}",
            field="version",
        )


def check_name(record: VersionRecord, known: Iterable[VersionRecord]) -> None:
    """Raises Conflict where another version is called the same."""
    if not record.name:
        return
    for other in known:
        if other.name == record.name and other.version != record.version:
            raise Conflict(
                f"version {other.version} of {record.model!r} is already named {record.name!r}", field="version_name"
            )


def as_text(record: msgspec.Struct) -> str:
    """A record as JSON that can be read again: one that cannot would take the whole model with it. Raises InvalidInput."""
    try:
        text = msgspec.json.encode(record)
        msgspec.json.decode(text, type=type(record))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the {_CALLED[type(record).__name__]} cannot be stored: {error}") from error
    return text.decode()


def check_rollout(rollout: Rollout, last: int) -> None:
    """Raises Conflict unless its id was taken with `next_rollout`."""
    if not 1 <= rollout.id <= last:
        raise Conflict(f"rollout {rollout.id} of {rollout.model!r}: ids are taken one by one, the last was {last}")


def pushed(history: Sequence[int], version: int) -> list[int]:
    """The versions that were live, oldest first, after `version` went live."""
    return [*history, version][-HISTORY:]


def popped(name: str, history: Sequence[int], usable: set[int]) -> list[int]:
    """The history after going back to the newest version before the live one that is still `usable`. Raises Conflict."""
    live = history[-1] if history else None
    for i in range(len(history) - 2, -1, -1):
        if history[i] in usable and history[i] != live:
            return list(history[: i + 1])
    raise Conflict(f"model {name!r} has no earlier live version to go back to", field="name")


def no_version(model: str, version: int | str, known: Sequence[int]) -> VersionNotFound:
    has = (
        f"it has {known[0]} to {known[-1]}" if len(known) > 1 else f"it has {known[0]}" if known else "it has none yet"
    )
    return VersionNotFound(f"model {model!r} has no version {version!r}; {has}", field="version")


def check_versions(model: str, there: Iterable[int], expected: Sequence[int] | None) -> None:
    """Raises Conflict unless `model` has these versions; None: whichever it has."""
    if expected is not None and list(there) != sorted(expected):
        raise Conflict(f"model {model!r} has got other versions meanwhile", field="name")


def name_taken(name: str) -> Conflict:
    return Conflict(f"there is already a model named {name!r}", field="name")
