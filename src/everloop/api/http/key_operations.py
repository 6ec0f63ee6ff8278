"""The operations on the keys of callers: a part of the table in `http.operations`."""

from __future__ import annotations

from everloop.api import keys
from everloop.api.http.operation import Operation

KEYS: tuple[Operation, ...] = (
    Operation(
        "list_keys",
        "GET",
        "/v1/keys",
        "keys",
        "All keys that were ever made, without their texts.",
        answer=keys.KeyList,
        scope="admin",
    ),
    Operation(
        "create_key",
        "POST",
        "/v1/keys",
        "keys",
        "Make a key; its text is in this answer only. From the first one on the server asks every caller for a key.",
        body=keys.KeySpec,
        example={"name": "checkout", "scopes": ["predict", "feedback"], "rate": 100},
        answer=keys.KeyMade,
        status=201,
        refusals=("conflict", "store_unavailable"),
    ),
    Operation(
        "revoke_key",
        "DELETE",
        "/v1/keys/{key}",
        "keys",
        "Withdraw a key, at once and for good.",
        answer=keys.KeyInfo,
        refusals=("key_not_found", "conflict", "store_unavailable"),
    ),
    Operation(
        "rotate_key",
        "POST",
        "/v1/keys/{key}/rotate",
        "keys",
        "Make a key in the place of another, which still works for a while.",
        body=keys.KeyRotation,
        body_required=False,
        example={"overlap_sec": 86400},
        answer=keys.KeyMade,
        status=201,
        refusals=("key_not_found", "conflict", "store_unavailable"),
    ),
)
