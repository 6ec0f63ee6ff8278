"""What every artifact store must do."""

from __future__ import annotations

import hashlib

import pytest

from everloop.core.errors import ArtifactCorrupt
from everloop.stores.ports import ArtifactStore


@pytest.mark.parametrize("payload", [b"", b"a model", bytes(range(256)) * 4096])
def test_bytes_come_back_by_their_digest(artifacts: ArtifactStore, payload: bytes) -> None:
    digest = artifacts.put(payload)
    assert digest == hashlib.sha256(payload).hexdigest()
    assert artifacts.get(digest) == payload
    assert artifacts.put(payload) == digest
    assert artifacts.digests() == [digest]


def test_what_is_missing_is_told(artifacts: ArtifactStore) -> None:
    with pytest.raises(ArtifactCorrupt, match="missing"):
        artifacts.get("0" * 64)


def test_deleting(artifacts: ArtifactStore) -> None:
    first, second = artifacts.put(b"1"), artifacts.put(b"2")
    assert artifacts.delete(first) == 1
    assert artifacts.delete(first) is None
    assert artifacts.digests() == [second]
    with pytest.raises(ArtifactCorrupt):
        artifacts.get(first)
    assert artifacts.get(second) == b"2"


def test_what_was_put_since_stays(artifacts: ArtifactStore) -> None:
    begun = artifacts.now()
    digest = artifacts.put(b"a model")
    assert artifacts.delete(digest, before=begun) is None
    assert artifacts.get(digest) == b"a model"
    assert artifacts.delete("0" * 64, before=begun) is None
    assert artifacts.delete(digest, before=artifacts.now()) == 7
    assert artifacts.sweep(idle=0.0) == 0
    assert artifacts.digests() == []


def test_renewing_is_putting_without_the_bytes(artifacts: ArtifactStore) -> None:
    digest = artifacts.put(b"a model")
    begun = artifacts.now()
    assert artifacts.renew(digest)
    assert artifacts.delete(digest, before=begun) is None
    assert artifacts.get(digest) == b"a model"
    assert artifacts.delete(digest, before=artifacts.now()) == 7
    assert not artifacts.renew(digest)
    assert not artifacts.renew("0" * 64)
    assert artifacts.digests() == []
