"""Keys are made, listed, withdrawn and replaced here: by the routes `/v1/keys` and by `everloop keys`, which needs no server.

The text of a key is told once, to whoever makes it. Replacing a key makes a second one that may do the same, and lets the first run out
after `overlap` seconds, so that clients can change over one by one.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from everloop.core.errors import Conflict, InvalidInput, KeyNotFound, NotSupported
from everloop.policy import keys
from everloop.policy.keys import ID_BYTES, SECRET_BYTES, KeyRecord, Scope

if TYPE_CHECKING:
    from everloop.api.services import Services
    from everloop.core.clock import Clock
    from everloop.stores.ports import KeyStore

DAY = 86_400.0
LONGEST_SECONDS = 100 * 366 * DAY
MOST_KEYS = 10_000


class KeySpec(msgspec.Struct, forbid_unknown_fields=True):
    """A new key."""

    name: str
    """Who gets it, in words: logs, metrics and the timeline say it."""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["predict"])
    """Some of `predict`, `feedback` and `admin`; `admin` includes the others."""
    models: list[str] | None = None
    """The only models it is for; null: all."""
    rate: float | None = None
    """Requests a second in the long run; null: as many as it likes."""
    burst: int | None = None
    """Requests at once after a pause; null: those of ten seconds."""
    expires_sec: float | None = None
    """Seconds after which it ends; null: never."""


class KeyRotation(msgspec.Struct, forbid_unknown_fields=True):
    overlap_sec: float = DAY
    """Seconds for which the old key still works."""


class KeyInfo(msgspec.Struct):
    """What is known of a key; its text is not."""

    id: str
    name: str
    state: Literal["active", "expired", "revoked"]
    scopes: list[Scope]
    models: list[str] | None
    rate: float | None
    burst: int | None
    created_at: float
    """Seconds since the epoch, as all times."""
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None
    """When it was last used, to about a minute."""
    replaces: str
    """The id of the key that it replaced."""


class KeyMade(KeyInfo):
    key: str
    """Send it as `Authorization: Bearer KEY`. It is told this once."""


class KeyList(msgspec.Struct):
    open: bool
    """Whether nobody needs a key: none was ever made, and the server was not told to ask."""
    keys: list[KeyInfo]
    """All that were ever made, oldest first."""


class Keyring:
    """The keys of one store."""

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def create(self, spec: KeySpec) -> KeyMade:
        """Raises InvalidInput, Conflict."""
        now = self._clock.now()
        keys.check_scopes(spec.scopes)
        wanted = tuple(scope for scope in keys.SCOPES if scope in spec.scopes)
        models = None if spec.models is None else tuple(dict.fromkeys(spec.models))
        expires = None if spec.expires_sec is None else now + _seconds("expires_sec", spec.expires_sec)
        made, text = _mint(
            KeyRecord("", "", spec.name.strip(), now, wanted, models, spec.rate, spec.burst, expires_at=expires)
        )
        keys.check(made)
        if len(self._store.keys()) >= MOST_KEYS:
            raise Conflict(f"there are {MOST_KEYS:,} keys already, withdrawn ones included", field="keys")
        self._store.put_keys([made])
        return _made(made, text, now)

    def listed(self) -> list[KeyInfo]:
        now, uses, records = self._clock.now(), self._store.key_uses(), self._store.keys()
        return [_info(record, now, uses.get(record.id)) for record in records]

    def revoke(self, reference: str) -> KeyInfo:
        """By id or name; again is no error. Raises KeyNotFound, Conflict (several have the name)."""
        now, record = self._clock.now(), self.find(reference)
        if record.revoked_at is None:
            record = msgspec.structs.replace(record, revoked_at=now)
            self._store.put_keys([record])
        return _info(record, now, self._store.key_uses().get(record.id))

    def rotate(self, reference: str, overlap: float = DAY) -> KeyMade:
        """Raises KeyNotFound, Conflict (it has ended, or several have the name), InvalidInput."""
        now, old = self._clock.now(), self.find(reference)
        if old.state(now) != "active":
            raise Conflict(f"the key {old.name!r} ({old.id}) is {old.state(now)}; make a new one", field="id")
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        made, text = _mint(
            msgspec.structs.replace(
                old, created_at=now, expires_at=None if lifetime is None else now + lifetime, replaces=old.id
            )
        )
        ends = now + _seconds("overlap_sec", overlap, least=0.0)
        ended = msgspec.structs.replace(old, expires_at=ends if old.expires_at is None else min(ends, old.expires_at))
        self._store.put_keys([ended, made])
        return _made(made, text, now)

    def find(self, reference: str) -> KeyRecord:
        """By its id, or by a name that only one active key has. Raises KeyNotFound, Conflict."""
        now, records = self._clock.now(), self._store.keys()
        for record in records:
            if record.id == reference:
                return record
        named = [record for record in records if record.name == reference and record.state(now) == "active"]
        if len(named) == 1:
            return named[0]
        if named:
            ids = ", ".join(record.id for record in named)
            raise Conflict(f"{len(named)} keys are named {reference!r}; say which: {ids}", field="id")
        raise KeyNotFound(f"there is no key {reference[:100]!r}; `everloop keys list` shows them", field="id")


def list_keys(services: Services) -> KeyList:
    return KeyList(not services.door.closed, keyring_of(services).listed())


def create_key(services: Services, spec: KeySpec) -> KeyMade:
    """In force when this returns. Raises InvalidInput also where the first key could not make others: it closes the door."""
    if not services.door.closed and ("admin" not in spec.scopes or spec.models is not None):
        raise InvalidInput(
            "scopes: from its first key on, this server asks for one; so let the first be for admin and for all models, "
            "or nobody could make another here",
            field="scopes",
        )
    made = keyring_of(services).create(spec)
    services.door.refresh()
    return made


def revoke_key(services: Services, reference: str) -> KeyInfo:
    """Out of force when this returns, here; on other servers of the same store within a second."""
    found = keyring_of(services).revoke(reference)
    services.door.refresh()
    return found


def rotate_key(services: Services, reference: str, overlap: float) -> KeyMade:
    made = keyring_of(services).rotate(reference, overlap)
    services.door.refresh()
    return made


def keyring_of(services: Services) -> Keyring:
    if services.door.store is None:
        raise NotSupported("this server keeps no keys")
    return Keyring(services.door.store, services.clock)


def _mint(record: KeyRecord) -> tuple[KeyRecord, str]:
    key_id = secrets.token_bytes(ID_BYTES)
    text = keys.text_of(key_id, secrets.token_bytes(SECRET_BYTES))
    return msgspec.structs.replace(record, id=key_id.hex(), digest=keys.digest_of(text)), text


def _info(record: KeyRecord, now: float, used_at: float | None) -> KeyInfo:
    return KeyInfo(**_fields(record, now), used_at=used_at)


def _made(record: KeyRecord, text: str, now: float) -> KeyMade:
    return KeyMade(**_fields(record, now), used_at=None, key=text)


def _fields(record: KeyRecord, now: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state(now),
        "scopes": list(record.scopes),
        "models": None if record.models is None else list(record.models),
        "rate": record.rate,
        "burst": None if record.rate is None else record.capacity,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "replaces": record.replaces,
    }


def _seconds(field: str, value: float, *, least: float = 1.0) -> float:
    if not least <= value <= LONGEST_SECONDS:
        raise InvalidInput(
            f"{field}: expected seconds from {least:g} to {LONGEST_SECONDS:.0f}, got {value!r}", field=field
        )
    return value
