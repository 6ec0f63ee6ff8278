"""How a model is registered: what is asked for as a record, and whether that is what is there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from everloop.core.errors import Conflict, InvalidInput
from everloop.core.schema import Schema, Target
from everloop.core.types import Task
from everloop.registry.changes import Change
from everloop.registry.plans import policy_of
from everloop.registry.references import check_model_name
from everloop.stores.ports import Manifest, ModelRecord

NOTE = 10_000
"""Characters of a note."""
TAGS = 100
TAG = 1000
"""Characters of a tag's name, and of its value."""


def wanted_record(
    name: str,
    kind: str,
    now: float,
    *,
    task: Task | None,
    parameters: Mapping[str, Any] | None = None,
    learning: Mapping[str, Any] | None = None,
    rollout: Mapping[str, Any] | None = None,
    serving: Mapping[str, Any] | None = None,
    record: float = 1.0,
    schema: Schema | None = None,
    target: Target | None = None,
) -> ModelRecord:
    """Raises InvalidInput."""
    check_model_name(name)
    if not isinstance(record, (int, float)) or isinstance(record, bool) or not 0 <= record <= 1:
        raise InvalidInput(f"record: expected a share from 0 to 1, got {record!r}", field="record")
    policy_of("auto", rollout or {})
    return ModelRecord(
        name=name,
        kind=kind,
        created_at=now,
        parameters=jsonable(parameters, "parameters"),
        task=task or (target.task if target else None),
        learning=jsonable(learning, "learning"),
        rollout=jsonable(rollout, "rollout"),
        serving=jsonable(serving, "serving"),
        record=float(record),
        schema=schema,
        target=target,
    )


def check_same(there: ModelRecord, wanted: ModelRecord, *, template: bool) -> None:
    """Raises Conflict if the record of that name has another spec. `template`: whether one is wanted. How it is served is no part of what
    a model is: that may change at any time."""
    different = [
        f"{field} ({old!r}, not {new!r})"
        for field, old, new in (
            ("kind", there.kind, wanted.kind),
            ("parameters", there.parameters, wanted.parameters),
            ("learning", there.learning, wanted.learning),
            ("rollout", there.rollout, wanted.rollout),
            ("record", there.record, wanted.record),
        )
        if old != new
    ]
    # What was open at first may have been settled by the first examples since.
    for field in ("task", "schema", "target"):
        old, new = getattr(there, field), getattr(wanted, field)
        if new is not None and old is not None and old != new:
            different.append(field)
    if (there.template is None) == template:
        different.append("template")
    if different:
        raise Conflict(
            f"there is already a model named {wanted.name!r} with another {', '.join(different)}; "
            "unregister it first or choose another name",
            field="name",
        )


def check_fits(model: ModelRecord, manifest: Manifest) -> None:
    """Raises Conflict for an artifact of another model's making."""
    if model.schema is not None and len(manifest.schema.fields) != len(model.schema.fields):
        raise Conflict(
            f"model {model.name!r} takes {len(model.schema.fields)} features, this artifact {len(manifest.schema.fields)}; "
            "register it under another name",
            field="schema",
        )
    if model.task is not None and manifest.task != model.task:
        raise Conflict(
            f"model {model.name!r} does {model.task}, this artifact {manifest.task}; register it under another name",
            field="task",
        )


def jsonable(values: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """As they come back from the catalog, so that what is compared is alike. Raises InvalidInput."""
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(values or {})))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{field}: expected values that JSON can hold: {error}", field=field) from error
    return plain


def configure(change: Change, serving: Mapping[str, Any]) -> ModelRecord:
    """How the model is served from now on. Raises InvalidInput."""
    before, wanted = change.shelf.model, jsonable(serving, "serving")
    if before.serving == wanted:
        return before
    after = msgspec.structs.replace(before, serving=wanted)
    change.shelf.put_model(after)
    told = ", ".join(f"{key} {value!r}" for key, value in sorted(wanted.items()))
    message = f"served with {told}" if wanted else "served as the server's configuration says"
    change.log("configured", message, data={"serving": wanted})
    return after


def tags_of(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Raises InvalidInput unless they are text by text, and few and short enough to be read at a glance."""
    plain = jsonable(tags, "tags")
    for key, value in plain.items():
        if not isinstance(value, str) or not key:
            raise InvalidInput(f"tags: expected text by a name, got {key[:60]!r}: {_shown(value)}", field="tags")
        if len(key) > TAG or len(value) > TAG:
            raise InvalidInput(f"tags: {key[:60]!r} is longer than {TAG:,} characters", field="tags")
    if len(plain) > TAGS:
        raise InvalidInput(f"tags: a version has at most {TAGS}, these are {len(plain):,}", field="tags")
    return plain


def note_of(note: object) -> str:
    """Raises InvalidInput."""
    if not isinstance(note, str) or len(note) > NOTE:
        raise InvalidInput(f"note: expected a text of at most {NOTE:,} characters, got {_shown(note)}", field="note")
    return note


def _shown(value: object) -> str:
    return f"{len(value):,} characters" if isinstance(value, str) and len(value) > TAG else repr(value)[:TAG]
