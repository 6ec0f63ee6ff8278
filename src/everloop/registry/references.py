"""How a version is called: by number, by its own name, by an alias, or by the part it plays.

3               its number
v1.0            what its maker calls it; its own for ever
best            an alias: points where it was last set to
champion        whatever is live now
challenger      whatever an active rollout is about
fraud@best      any of these, with the model in front
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from everloop.core.errors import Conflict, InvalidInput, ModelUntrained, VersionNotFound
from everloop.core.wording import near_names
from everloop.registry.changes import Change
from everloop.stores.ports import ModelRecord, Shelf, VersionRecord
from everloop.stores.settling import no_version

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
"""What can be a model's name, a version's or an alias."""
SHOWN = 128
"""Characters of a refused name that are repeated to whoever gave it."""
DIGITS = 20
"""Of a version's number; what is longer is no number."""
PARTS = ("champion", "challenger")
"""Names that say which part a version plays; nobody can set them."""


def check_model_name(name: object) -> str:
    """Raises InvalidInput."""
    return _checked(name, "name", "a model's name")


def split_reference(reference: str) -> tuple[str, str | None]:
    """`fraud@champion` -> (`fraud`, `champion`); `fraud` -> (`fraud`, None). Raises InvalidInput for what is no text."""
    if not isinstance(reference, str):
        raise InvalidInput(f"expected a model's name, or NAME@VERSION, got {reference!r}", field="name")
    model, at, version = reference.partition("@")
    return model, version if at else None


def number_of(shelf: Shelf, version: int | str) -> int:
    """The number of what is called so. Raises VersionNotFound, ModelUntrained (nothing is live yet), InvalidInput."""
    model = shelf.model
    if isinstance(version, str) and "@" in version:
        named, version = version.split("@", 1)
        if named != model.name:
            raise InvalidInput(f"version: {named}@{version} is of another model than {model.name!r}", field="version")
    if isinstance(version, bool) or not isinstance(version, (int, str)):
        raise InvalidInput(f"version: expected a number or a name, got {version!r}", field="version")
    if isinstance(version, int) or (version.isascii() and version.isdecimal() and len(version) < DIGITS):
        return shelf.version(int(version)).version
    if version == "champion":
        if model.live_version is None:
            raise ModelUntrained(f"model {model.name!r} has no live version yet")
        return model.live_version
    if version == "challenger":
        rollout = shelf.rollout()
        if rollout is None or not rollout.active:
            raise VersionNotFound(f"model {model.name!r} has no challenger: no rollout is active", field="version")
        return rollout.challenger
    versions = shelf.versions()
    for record in versions:
        if version and record.name == version:
            return record.version
    if version in model.aliases:
        return shelf.version(model.aliases[version]).version
    known = [*model.aliases, *(record.name for record in versions if record.name), *PARTS]
    near = near_names(version, known, n=3)
    if near:
        raise VersionNotFound(
            f"model {model.name!r} has no version {version[:SHOWN]!r}; did you mean {', '.join(map(repr, near))}?",
            field="version",
        )
    raise no_version(model.name, version[:SHOWN], [record.version for record in versions])


def check_once(number: int, numbers: Mapping[int, float], version: int | str) -> None:
    """Raises InvalidInput where a mapping by version names one of them twice."""
    if number in numbers:
        raise InvalidInput(f"weights: version {number} is given twice, once as {version!r}", field="weights")


def check_alias(alias: object) -> None:
    """Raises InvalidInput."""
    _check_free(_checked(alias, "alias", "an alias"), "alias")


def check_new_name(shelf: Shelf, name: str) -> None:
    """For a version about to be called so. Raises InvalidInput, Conflict with an alias (with another version: the shelf does)."""
    _checked(name, "version_name", "a version's name")
    _check_free(name, "version_name")
    if name in shelf.model.aliases:
        raise Conflict(
            f"{name!r} is an alias of version {shelf.model.aliases[name]} of {shelf.model.name!r}; remove it first",
            field="version_name",
        )


def set_alias(change: Change, alias: str, number: int) -> ModelRecord:
    """Let `alias` point at version `number`. Raises InvalidInput, VersionNotFound, Conflict."""
    shelf, before = change.shelf, change.shelf.model
    check_alias(alias)
    shelf.version(number)
    for record in shelf.versions():
        if record.name == alias:
            raise Conflict(
                f"{alias!r} is the name of version {record.version} of {before.name!r}, and stays so", field="alias"
            )
    previous = before.aliases.get(alias)
    if previous == number:
        return before
    after = msgspec.structs.replace(before, aliases={**before.aliases, alias: number})
    shelf.put_model(after)
    instead = "" if previous is None else f", no longer version {previous}"
    change.log(
        "aliased",
        f"{alias} is version {number}{instead}",
        version=number,
        data={"alias": alias, "previous": previous},
    )
    return after


def remove_alias(change: Change, alias: str) -> ModelRecord:
    """Raises VersionNotFound where there is no such alias."""
    before = change.shelf.model
    if alias not in before.aliases:
        raise VersionNotFound(f"model {before.name!r} has no alias {alias[:SHOWN]!r}", field="alias")
    after = msgspec.structs.replace(before, aliases={k: v for k, v in before.aliases.items() if k != alias})
    change.shelf.put_model(after)
    previous = before.aliases[alias]
    change.log(
        "aliased",
        f"{alias} is no longer version {previous}",
        version=previous,
        data={"alias": alias, "previous": previous, "removed": True},
    )
    return after


def rename(change: Change, number: int, name: str) -> VersionRecord:
    """Call version `number` so; an empty `name` takes its name away. Raises InvalidInput, VersionNotFound, Conflict."""
    before = change.shelf.version(number)
    if before.name == name:
        return before
    if name != "":
        check_new_name(change.shelf, name)
    after = msgspec.structs.replace(before, name=name)
    change.shelf.put_version(after)
    told = f"version {number} is called {name}" if name else f"version {number} is no longer called {before.name}"
    change.log("tagged", told, version=number, data={"name": name, "previous": before.name})
    return after


def _checked(name: object, field: str, what: str) -> str:
    if not isinstance(name, str) or not NAME.match(name):
        raise InvalidInput(
            f"{field}: {what} has 1 to 128 letters, digits, dots, dashes or underscores and starts with a letter or digit, "
            f"got {_shown(name)}",
            field=field,
        )
    return name


def _check_free(name: str, field: str) -> None:
    if name in PARTS or name.isdecimal():
        reason = "says which part a version plays" if name in PARTS else "would be taken for a number"
        raise InvalidInput(f"{field}: {name!r} {reason}; choose another", field=field)


def _shown(name: object) -> str:
    if isinstance(name, str) and len(name) > SHOWN:
        return f"{name[:SHOWN]!r}… ({len(name):,} characters)"
    return repr(name)
