"""What a key is: its text, what is kept of it, and what its holder may do.

    evl_3f9a1c7b2d04_pJ0…        the text: a mark that secret scanners know, the id, 256 random bits in base64url

Of the text only its SHA-256 is kept. That is enough for what nobody could have chosen: a slow hash makes guessing dear, and 256 random
bits cannot be guessed at any price (OWASP Password Storage speaks of passwords, NIST SP 800-63B 5.1.2.2 of look-up secrets with less
than 112 bits). The id finds the record, so that one digest is compared and not all; it is no secret and is what lists and logs show.

No key is ever deleted: whoever reads the log of a year ago finds the name. That also decides when a server is open to everybody: as
long as no key was ever made, and not when the last one is withdrawn.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from everloop.core.errors import InvalidInput

Scope = Literal["predict", "feedback", "admin"]
"""What a key may be used for. `admin` includes the others: its holder could make a key for them."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "evl"
ID_BYTES = 6
SECRET_BYTES = 32
LONGEST_NAME = 100
MOST_MODELS = 100
MOST_RATE = 1e6

_TEXT = re.compile(r"evl_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class KeyRecord(msgspec.Struct, frozen=True):
    """What is kept of a key. Times are seconds since the epoch."""

    id: str
    digest: str
    """SHA-256 of the key's whole text, in hex."""
    name: str
    """Who has it, in words."""
    created_at: float
    scopes: tuple[Scope, ...] = ("predict",)
    models: tuple[str, ...] | None = None
    """The only models it is for; None: all."""
    rate: float | None = None
    """Requests a second that it may make in the long run, of each server; None: as many as it likes."""
    burst: int | None = None
    """Requests that it may make at once after a pause; None: those of ten seconds, at least one."""
    expires_at: float | None = None
    revoked_at: float | None = None
    replaces: str = ""
    """The id of the key that it was made from by rotation."""

    def __repr__(self) -> str:
        return f"<KeyRecord {self.id} {self.name!r} {','.join(self.scopes)}>"

    @property
    def capacity(self) -> int:
        """Requests at once, where there is a rate."""
        return self.burst if self.burst is not None else max(1, round(10 * (self.rate or 0.0)))

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"


def text_of(key_id: bytes, secret: bytes) -> str:
    """The text of a key, from `ID_BYTES` and `SECRET_BYTES` random bytes."""
    assert len(key_id) == ID_BYTES
    assert len(secret) == SECRET_BYTES
    return f"{PREFIX}_{key_id.hex()}_{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"


def id_of(text: str) -> str | None:
    """The id inside a key's text; None where it is no key of ours."""
    found = _TEXT.fullmatch(text)
    return None if found is None else found[1]


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same(digest: str, other: str) -> bool:
    """In a time that does not tell where they differ (CWE-208)."""
    return hmac.compare_digest(digest.encode(), other.encode())


def check(record: KeyRecord) -> KeyRecord:
    """The record, if its fields make sense. Raises InvalidInput naming the field."""
    name = record.name
    _expect("name", 0 < len(name) <= LONGEST_NAME and name.isprintable(), f"1 to {LONGEST_NAME} characters", name)
    check_scopes(record.scopes)
    models = record.models
    if models is not None:
        _expect("models", 0 < len(models) <= MOST_MODELS, f"1 to {MOST_MODELS} names, or none for all models", models)
    rate, burst = record.rate, record.burst
    _expect(
        "rate", rate is None or 0 < rate <= MOST_RATE, f"requests a second, above 0 and up to {MOST_RATE:,.0f}", rate
    )
    _expect("burst", burst is None or 1 <= burst <= MOST_RATE, f"a whole number from 1 to {MOST_RATE:,.0f}", burst)
    _expect("burst", burst is None or rate is not None, "nothing, where there is no rate", burst)
    expires = record.expires_at
    _expect("expires", expires is None or expires > record.created_at, "a time that is still to come", expires)
    return record


def check_scopes(scopes: Iterable[str]) -> None:
    """Raises InvalidInput."""
    listed = tuple(scopes)
    known = all(scope in SCOPES for scope in listed)
    _expect("scopes", bool(listed) and known, f"some of {', '.join(SCOPES)}", ", ".join(map(str, listed)) or "none")


def _expect(field: str, good: bool, expected: str, got: object) -> None:
    if not good:
        raise InvalidInput(f"{field}: expected {expected}, got {got!r}"[:300], field=field)
