"""Who may ask for a version by header: whoever has one of the keys that the server was given.

A request that names its own version skips the routing, so it could look at a challenger that nobody is meant to see yet, or keep
to the champion while everybody else is compared. Keys are compared by their digests and all of them each time, so the time it takes
tells neither how long a key is nor how much of it was right (CWE-208). They are in no log, no message and no repr.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from everloop.core.errors import Forbidden, InvalidInput

LEAST_KEY = 16
"""Characters of a key: 16 random ones cannot be guessed over a network."""
VERSION_HEADER = "Everloop-Version"
KEY_HEADER = "Everloop-Key"


def check_keys(keys: Iterable[str], option: str = "override_keys") -> None:
    """Raises InvalidInput, which does not repeat the key."""
    for number, key in enumerate(keys, 1):
        if len(key) < LEAST_KEY:
            raise InvalidInput(
                f"{option}: key {number} has {len(key)} characters, expected at least {LEAST_KEY}; "
                "for instance what `openssl rand -hex 16` prints",
                field=option,
            )
        if not (key.isascii() and key.isprintable()) or key != key.strip():
            raise InvalidInput(
                f"{option}: key {number} has characters that a header cannot carry; use printable ASCII",
                field=option,
            )


class OverrideKeys:
    """The keys of one server; none allows nobody."""

    __slots__ = ("_digests",)

    def __init__(self, keys: Iterable[str] = ()) -> None:
        listed = tuple(keys)
        check_keys(listed)
        self._digests = tuple(_digest(key) for key in listed)

    def __repr__(self) -> str:
        return f"<OverrideKeys {len(self._digests)}>"

    def require(self, key: str | None) -> None:
        """Raises Forbidden, in words, unless `key` is one of them."""
        if not self._digests:
            raise Forbidden(
                f"{VERSION_HEADER}: this server lets nobody choose a version; start it with keys for that "
                "(EVERLOOP_OVERRIDE_KEYS), or leave the header away",
                field=VERSION_HEADER,
            )
        if not key:
            raise Forbidden(
                f"{VERSION_HEADER}: choosing a version needs a key of this server, in the header {KEY_HEADER}",
                field=KEY_HEADER,
            )
        given = _digest(key)
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if not any(matches):
            raise Forbidden(
                f"{KEY_HEADER}: this is none of the keys that this server was started with", field=KEY_HEADER
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
