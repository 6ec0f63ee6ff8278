"""Digests that name things: artifacts by SHA-256, request bodies and inputs by the faster xxh3."""

from __future__ import annotations

import hashlib


def artifact_digest(payload: bytes) -> str:
    """The name of an artifact: SHA-256 of its bytes, 64 hexadecimal digits."""
    return hashlib.sha256(payload).hexdigest()


def body_digest(body: bytes) -> str:
    """A 128-bit digest that tells whether two request bodies are the same (not a security boundary)."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(body)
