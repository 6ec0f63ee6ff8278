"""Artifacts inside an artifact: how `by_size` and `pipeline` keep what they are made of.

Format: the eight bytes `EVMEMBER`, a little-endian uint32 with the length of a JSON header, the header, then the members' bytes one after
another. The header holds a manifest and a length a member, and the `plan`, which is the owner's. Each member is opened by its own runtime
and under the same trust as any artifact, so that nothing is let in here that would be refused alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from everloop.core.errors import ArtifactCorrupt, EverloopError, NotSupported
from everloop.core.structs import looked_into
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.session import Session
from everloop.stores.ports import Manifest

MAGIC = b"EVMEMBER"
MOST_MEMBERS = 1_000
MOST_LEVELS = 8
"""Members may have members, but a forged artifact is not to nest for ever."""

Artifact = tuple[Manifest, bytes]


class _Member(msgspec.Struct, frozen=True):
    manifest: Manifest
    bytes: int


@looked_into
class _Header(msgspec.Struct, frozen=True):
    members: list[_Member]
    plan: dict[str, Any]
    level: int = 1
    """How many of these formats lie inside each other, this one counted."""
    format: int = 1


def pack_members(plan: dict[str, Any], members: Sequence[Artifact]) -> bytes:
    """Raises NotSupported where the members have members have members, many levels deep."""
    level = 1 + max((_level(payload) for _, payload in members), default=0)
    if level > MOST_LEVELS:
        raise NotSupported(f"members inside members {level} levels deep; at most {MOST_LEVELS} are taken")
    header = _Header([_Member(manifest, len(payload)) for manifest, payload in members], plan, level)
    encoded = msgspec.json.encode(header)
    return b"".join([MAGIC, struct.pack("<I", len(encoded)), encoded, *(payload for _, payload in members)])


def unpack_members(payload: bytes) -> tuple[dict[str, Any], list[Artifact]]:
    """The plan, and the members. Raises ArtifactCorrupt."""
    header, start = _header(payload)
    members: list[Artifact] = []
    for member in header.members:
        end = start + member.bytes
        if member.bytes < 0 or end > len(payload):
            raise ArtifactCorrupt("an artifact of several members that ends before they do")
        inside = payload[start:end]
        if _level(inside) >= header.level:
            raise ArtifactCorrupt("an artifact whose members lie deeper than it tells")
        members.append((member.manifest, inside))
        start = end
    if start != len(payload):
        raise ArtifactCorrupt("an artifact of several members with more bytes than they have")
    return header.plan, members


def open_members(members: Sequence[Artifact], trust: Trust, whole: Manifest | None = None) -> list[Session]:
    """All of them, or none, each with as many threads as `whole` says, if it does. Raises as `load_session`, and says which member it was."""
    said = {"threads": whole.options["threads"]} if whole is not None and "threads" in whole.options else {}
    opened: list[Session] = []
    try:
        for place, (manifest, payload) in enumerate(members):
            try:
                member = msgspec.structs.replace(manifest, options=manifest.options | said)
                opened.append(load_session(member, payload, trust=trust))
            except EverloopError as error:
                raise type(error)(f"member {place + 1} ({manifest.runtime}): {error.message}") from error
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(sessions: Sequence[Session]) -> None:
    for session in sessions:
        session.close()


def libraries_of(members: Sequence[Artifact]) -> dict[str, str]:
    found: dict[str, str] = {}
    for manifest, _ in members:
        found |= manifest.libraries
    return found


def _level(payload: bytes) -> int:
    return _header(payload)[0].level if payload.startswith(MAGIC) else 0


def _header(payload: bytes) -> tuple[_Header, int]:
    """The header, and where the members begin."""
    start = len(MAGIC) + 4
    if not payload.startswith(MAGIC) or len(payload) < start:
        raise ArtifactCorrupt("not an artifact of several members: its bytes do not begin as one")
    (length,) = struct.unpack_from("<I", payload, len(MAGIC))
    try:
        header = msgspec.json.decode(payload[start : start + length], type=_Header)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ArtifactCorrupt(f"an artifact of several members with an unreadable header: {error}") from error
    if header.format != 1:
        raise ArtifactCorrupt(f"an artifact of several members in format {header.format}; this everloop reads format 1")
    if not 1 <= len(header.members) <= MOST_MEMBERS or not 1 <= header.level <= MOST_LEVELS:
        raise ArtifactCorrupt(f"an artifact of {len(header.members)} members, {header.level} levels deep")
    return header, start + length
