"""What every store of keys must do."""

from __future__ import annotations

import msgspec
import pytest

from everloop.core.errors import Conflict
from everloop.policy.keys import KeyRecord
from everloop.stores.ports import Catalog

FULL = KeyRecord(
    "0a" * 6,
    "d" * 64,
    "ci é",
    5.0,
    scopes=("predict", "admin"),
    models=("a", "b"),
    rate=1.5,
    burst=3,
    expires_at=9.0,
    replaces="0b" * 6,
)
PLAIN = KeyRecord("0c" * 6, "e" * 64, "plain", 4.0)


def test_keys_come_back_oldest_first_and_change(catalog: Catalog) -> None:
    before = catalog.revision()
    assert catalog.keys() == []
    catalog.put_keys([FULL, PLAIN])
    assert catalog.keys() == [PLAIN, FULL]
    assert catalog.revision() != before
    ended = msgspec.structs.replace(FULL, expires_at=6.0)
    catalog.put_keys([ended])
    assert catalog.keys() == [PLAIN, ended]


def test_what_was_withdrawn_stays_so_and_nothing_else_of_that_change_is_kept(catalog: Catalog) -> None:
    catalog.put_keys([FULL, PLAIN])
    catalog.put_keys([msgspec.structs.replace(FULL, revoked_at=7.0)])
    with pytest.raises(Conflict, match="revoked"):
        catalog.put_keys([msgspec.structs.replace(PLAIN, expires_at=8.0), FULL])
    kept = catalog.keys()
    assert [(key.expires_at, key.revoked_at) for key in kept] == [(None, None), (9.0, 7.0)]


def test_uses_are_told_without_a_revision(catalog: Catalog) -> None:
    catalog.put_keys([FULL, PLAIN])
    before = catalog.revision()
    assert catalog.key_uses() == {}
    catalog.touch_keys([FULL.id, "not there"], 100.0)
    catalog.touch_keys([FULL.id], 160.5)
    assert (catalog.key_uses(), catalog.revision()) == ({FULL.id: 160.5}, before)
    catalog.put_keys([msgspec.structs.replace(FULL, name="renamed")])
    assert catalog.key_uses() == {FULL.id: 160.5}
