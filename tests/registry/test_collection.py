"""Garbage collection takes what nothing names, and nothing else."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from everloop.core.errors import Conflict, InvalidInput
from everloop.core.hashing import artifact_digest
from everloop.core.schema import Schema, Target
from everloop.stores.objects import FolderArtifacts
from everloop.stores.ports import Manifest

from .conftest import House

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))


@pytest.fixture
def house(house: House) -> House:
    """Four versions; 1 and 2 are archived, 4 is live. An estimator's template."""
    house.registry.register("m", "linear", task="regression", template=b"template")
    for payload in (b"one", b"two", b"three", b"four"):
        house.registry.add_version("m", MANIFEST, payload, live=True)
    house.registry.archive("m", 1), house.registry.archive("m", 2)
    house.told.clear()
    return house


def payloads(house: House) -> set[bytes]:
    return {house.artifacts.get(digest) for digest in house.artifacts.digests()}


def test_orphans_go_once_they_are_old(house: House) -> None:
    house.artifacts.put(b"orphan")
    kept = house.registry.collect_garbage()
    assert (kept.artifacts, kept.bytes, kept.versions, kept.spared) == (0, 0, [], 1)
    taken = house.registry.collect_garbage(grace=0.0)
    assert (taken.artifacts, taken.bytes, taken.versions, taken.spared) == (1, 6, [], 0)
    assert payloads(house) == {b"one", b"two", b"three", b"four", b"template"}
    assert house.told == []


def test_archived_versions_keep_their_record_alone(house: House) -> None:
    taken = house.registry.collect_garbage(archived=True, by="me")
    assert (taken.artifacts, taken.bytes, taken.versions) == (2, 6, [("m", 1), ("m", 2)])
    assert payloads(house) == {b"three", b"four", b"template"}
    assert [(v.version, v.status, v.collected) for v in house.registry.versions("m")][:2] == [
        (1, "archived", True),
        (2, "archived", True),
    ]
    assert [(e.kind, e.data) for e in house.told] == [("collected", {"versions": [1, 2], "by": "me"})]
    assert house.told[0].message == "the artifacts of 2 archived versions (1, 2) collected"
    for act in (
        lambda: house.registry.promote("m", 1),
        lambda: house.registry.set_traffic("m", {4: 0.5, 1: 0.5}),
        lambda: house.registry.open_session(house.registry.version("m", 1)),
        lambda: house.registry.export_model("m", "/nowhere/m.everloop", versions=[1]),
    ):
        with pytest.raises(Conflict, match="only its record is left; publish it anew"):
            act()
    assert house.registry.rollback("m").version == 3
    again = house.registry.collect_garbage(archived=True)
    assert (again.artifacts, again.versions, house.kinds()) == (0, [], ["collected", "rolled_back"])


def test_what_is_wanted_stays(house: House) -> None:
    house.registry.archive("m", 3)
    house.registry.set_alias("m", "old", 1)
    taken = house.registry.collect_garbage(archived=True, keep=1)
    assert taken.versions == [("m", 2)]
    assert payloads(house) == {b"one", b"three", b"four", b"template"}
    assert house.registry.promote("m", "old").version == 1


def test_bytes_that_another_version_names_stay(house: House) -> None:
    house.registry.add_version("m", MANIFEST, b"one", live=False)
    taken = house.registry.collect_garbage(archived=True)
    assert (taken.artifacts, taken.versions) == (1, [("m", 2)])
    assert house.registry.promote("m", 5).version == 5
    assert not house.registry.version("m", 1).collected, "its bytes are there, so it stays usable"


def test_published_anew(house: House) -> None:
    house.registry.collect_garbage(archived=True)
    made = house.registry.add_version("m", MANIFEST, b"one", live=False)
    assert house.registry.promote("m", made.version).version == 5
    assert house.registry.version("m", 1).collected


@pytest.mark.parametrize("collect", ["collect", "unregister"])
def test_bytes_are_safe_between_being_put_and_being_named(
    house: House, monkeypatch: pytest.MonkeyPatch, collect: str
) -> None:
    """Somebody puts the bytes of an archived version, and is not quick to name them: the archived one goes in between."""
    put = house.artifacts.put

    def put_slowly(payload: bytes) -> str:
        digest = put(payload)
        monkeypatch.undo()
        if collect == "collect":
            assert house.registry.collect_garbage(archived=True).artifacts == 2
        else:
            house.registry.unregister("m")
        return digest

    house.registry.register("n", "linear", task="regression")
    monkeypatch.setattr(house.artifacts, "put", put_slowly)
    made = house.registry.add_version("n", MANIFEST, b"one", live=True)
    assert house.registry.payload(made) == b"one"


@pytest.mark.parametrize("asked", [{"keep": -1}, {"keep": 1.5}, {"keep": True}, {"grace": -1.0}, {"grace": math.nan}])
def test_what_cannot_be_asked(house: House, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="at least 0"):
        house.registry.collect_garbage(archived=True, **asked)
    assert not any(version.collected for version in house.registry.versions("m"))


def test_what_a_crash_between_marking_and_deleting_leaves_is_taken_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(house.artifacts, "delete", crash)
        with pytest.raises(KeyboardInterrupt):
            house.registry.collect_garbage(archived=True)
    assert b"one" in payloads(house)
    assert house.registry.version("m", 1).collected
    assert house.registry.collect_garbage(grace=0.0).artifacts == 2
    assert payloads(house) == {b"three", b"four", b"template"}


def test_unfinished_writes_go(tmp_path: Path) -> None:
    store = FolderArtifacts(tmp_path)
    digest = store.put(b"whole")
    draft = tmp_path / digest[:2] / f".{digest[:12]}-x.tmp"
    draft.write_bytes(b"half a mod")
    assert store.sweep(idle=3600.0) == 0
    os.utime(draft, (time.time() - 7200, time.time() - 7200))
    assert store.sweep(idle=3600.0) == 10
    assert (draft.exists(), store.get(digest)) == (False, b"whole")


def test_putting_again_is_safe_against_deleting(tmp_path: Path) -> None:
    """Two stores on one folder, as two processes have: whatever was put last is there, whoever deletes meanwhile."""
    ours, theirs = FolderArtifacts(tmp_path), FolderArtifacts(tmp_path)
    digest = artifact_digest(b"bytes")
    lost: list[int] = []

    def put() -> None:
        for n in range(200):
            ours.put(b"bytes")
            if digest not in ours.digests():
                lost.append(n)
            os.utime(ours.path_of(digest), (0, 0))

    writer = threading.Thread(target=put)
    writer.start()
    while writer.is_alive():
        theirs.delete(digest, before=theirs.now() - 60.0)
    writer.join(60)
    assert lost == []
