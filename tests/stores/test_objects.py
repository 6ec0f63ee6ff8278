"""The artifact folder: damage is noticed, drafts are cleaned up, nothing leaves the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from everloop.core.errors import ArtifactCorrupt, StoreUnavailable
from everloop.stores.objects import FolderArtifacts


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.fixture
def store(tmp_path: Path) -> FolderArtifacts:
    return FolderArtifacts(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"another model", b"a mode"])
def test_damage_is_noticed_at_every_read_and_healed_by_storing_again(
    store: FolderArtifacts, tmp_path: Path, damage: bytes
) -> None:
    digest = store.put(b"a model")
    assert files(tmp_path) == [tmp_path / digest[:2] / digest]
    (tmp_path / digest[:2] / digest).write_bytes(damage)
    with pytest.raises(ArtifactCorrupt, match="damaged"):
        store.get(digest)
    assert store.put(b"a model") == digest
    assert store.get(digest) == b"a model"


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_forged_digest_goes_nowhere(store: FolderArtifacts, digest: str) -> None:
    with pytest.raises(ArtifactCorrupt, match="not the digest"):
        store.get(digest)
    with pytest.raises(ArtifactCorrupt):
        store.delete(digest)


def test_a_disk_that_fails_leaves_no_half_artifact(
    store: FolderArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.put(b"a model")
    assert files(tmp_path) == []
    assert store.get(store.put(b"a model")) == b"a model"


def test_strangers_in_the_folder_are_not_artifacts(store: FolderArtifacts, tmp_path: Path) -> None:
    digest = store.put(b"a model")
    (tmp_path / digest[:2] / ".abc.tmp").write_bytes(b"left by a crash")
    (tmp_path / "README").write_text("notes")
    assert store.digests() == [digest]


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file")
    with pytest.raises(StoreUnavailable, match="artifacts"):
        FolderArtifacts(tmp_path / "artifacts")
