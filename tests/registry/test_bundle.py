"""A model as one file: it comes back whole, and a file that is not what it says is refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everloop.core.errors import (
    ArtifactCorrupt,
    Conflict,
    EverloopError,
    InvalidInput,
    Malformed,
    NotSupported,
    StoreUnavailable,
    TooLarge,
    VersionNotFound,
)
from everloop.core.schema import Schema, Target
from everloop.registry.bundle import CONTENTS
from everloop.runtime.artifact import Trust
from everloop.stores.ports import Manifest

from .conftest import House

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"), metrics={"mae": 0.5})


@pytest.fixture
def house(house: House) -> House:
    house.registry.register(
        "fraud", "linear", task="regression", parameters={"with_bias": True}, record=0.5, template=b"template"
    )
    house.registry.add_version("fraud", MANIFEST, b"one", live=True, version_name="v1.0", tags={"who": "CI"}, by="cli")
    child = msgspec.structs.replace(MANIFEST, lineage={"parent": 1, "first_id": 5, "last_id": 9, "reason": "drift"})
    house.registry.add_version("fraud", child, b"two", live=True, note="better")
    house.registry.add_version("fraud", MANIFEST, b"three", live=False)
    house.registry.archive("fraud", 3)
    house.registry.set_alias("fraud", "best", 1)
    house.told.clear()
    return house


@pytest.fixture
def file(house: House, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "fraud.everloop"
    path.parent.mkdir()
    house.registry.export_model("fraud", path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """The same file with other contents."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    contents = json.loads(entries.pop(CONTENTS))
    change(contents, entries)
    path.unlink()
    with zipfile.ZipFile(path, "w") as file:
        for name, payload in entries.items():
            file.writestr(name, payload)
        file.writestr(CONTENTS, json.dumps(contents))
    return path


class TestThereAndBack:
    def test_what_is_written(self, house: House, file: Path) -> None:
        told = house.registry.export_model("fraud", file, versions=["best", 2])
        assert (told.path, told.versions, told.bytes) == (str(file), [1, 2], file.stat().st_size)
        assert [entry.name for entry in file.parent.iterdir()] == ["fraud.everloop"]
        with zipfile.ZipFile(file) as contents:
            assert contents.testzip() is None
            assert len(contents.namelist()) == 4  # two versions, the template, what they are
        assert house.told == []

    def test_under_another_name(self, house: House, file: Path) -> None:
        made = house.registry.import_model(file, "scam", by="me")
        assert (made.model, [v.version for v in made.versions]) == ("scam", [1, 2, 3])
        there, here = house.registry.get("fraud"), house.registry.get("scam")
        assert (here.kind, here.parameters, here.record, here.schema) == (
            there.kind,
            there.parameters,
            there.record,
            there.schema,
        )
        assert (here.live_version, here.aliases) == (None, {"best": 1})
        assert house.registry.template("scam") == b"template"
        versions = house.registry.versions("scam")
        assert [v.status for v in versions] == ["staging", "staging", "archived"]
        assert [v.name for v in versions] == ["v1.0", "", ""]
        assert (versions[0].tags, versions[1].note, versions[1].manifest.metrics) == (
            {"who": "CI"},
            "better",
            {"mae": 0.5},
        )
        assert [house.registry.payload(v) for v in versions] == [b"one", b"two", b"three"]
        assert house.kinds() == ["registered", "imported"]
        assert house.told[-1].message == "3 versions of fraud from fraud.everloop"
        assert house.told[-1].data["by"] == "me"
        assert house.registry.promote("scam", "best").version == 1

    def test_the_story_comes_along(self, house: House, file: Path) -> None:
        house.registry.import_model(file, "scam")
        story = [(e.kind, e.message) for e in house.registry.timeline("fraud")]
        told = house.registry.timeline("scam")
        assert [(e.kind, e.message) for e in told] == [
            ("registered", "registered as linear"),
            *story,
            ("imported", "3 versions of fraud from fraud.everloop"),
        ]
        assert [e.version for e in told[1:-1]] == [e.version for e in house.registry.timeline("fraud")]
        assert {e.model for e in told} == {"scam"}

    def test_lineage_does_not_mix_up_two_journals(self, house: House, file: Path) -> None:
        made = house.registry.import_model(file, "scam").versions
        assert made[1].manifest.lineage["parent"] == 1
        assert "last_id" not in made[1].manifest.lineage
        chain = house.registry.lineage("scam", 2).chain
        assert [ancestor.version for ancestor in chain] == [2, 1]
        assert chain[0].imported["version"] == 2
        assert chain[0].imported["lineage"]["last_id"] == 9
        house.registry.unregister("scam")
        part = house.registry.export_model("fraud", file, versions=[2])
        assert part.versions == [2]
        assert house.registry.import_model(file, "scam").versions[0].manifest.lineage["parent"] is None

    def test_live_as_it_was(self, house: House, file: Path) -> None:
        house.registry.import_model(file, "scam", live=True)
        live = house.registry.live("scam")
        assert live is not None
        assert (live.version, house.registry.payload(live)) == (2, b"two")

    def test_beside_what_is_there(self, house: House, file: Path) -> None:
        house.registry.register("scam", "linear", task="regression")
        house.registry.add_version("scam", MANIFEST, b"own", live=True)
        house.registry.set_alias("scam", "best", 1)
        before = house.registry.timeline("scam")
        made = house.registry.import_model(file, "scam")
        assert [v.version for v in made.versions] == [2, 3, 4]
        assert made.versions[1].manifest.lineage["parent"] == 2
        model = house.registry.get("scam")
        assert (model.live_version, model.aliases) == (1, {"best": 1})
        assert [e.kind for e in house.registry.timeline("scam")][len(before) :] == ["imported"]
        again = house.registry.import_model(file, "scam")
        assert [v.version for v in again.versions] == [5, 6, 7]
        assert not any(v.name for v in again.versions), "their names are taken by the first ones"

    def test_a_model_without_versions(self, house: House, file: Path) -> None:
        house.registry.register("new", "linear", task=None)
        house.registry.export_model("new", file)
        made = house.registry.import_model(file, "newer")
        assert (made.model, made.versions) == ("newer", [])
        assert house.registry.get("newer").schema is None

    def test_of_another_kind(self, house: House, file: Path) -> None:
        house.registry.register("other", "ridge", task="regression")
        with pytest.raises(Conflict, match="of kind ridge"):
            house.registry.import_model(file, "other")
        house.registry.register("wide", "linear", task="regression", schema=Schema.unnamed(3))
        with pytest.raises(Conflict, match="3 features"):
            house.registry.import_model(file, "wide")
        with pytest.raises(InvalidInput, match="name"):
            house.registry.import_model(file, "../up")
        assert house.registry.versions("wide") == house.registry.versions("other") == []


class TestExportingFails:
    def test_the_file_that_was_there_stays(self, house: House, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = file.read_bytes()
        house.artifacts.delete(house.registry.version("fraud", 2).digest)
        with pytest.raises(ArtifactCorrupt):
            house.registry.export_model("fraud", file)
        with pytest.raises(VersionNotFound):
            house.registry.export_model("fraud", file, versions=[9])

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreUnavailable, match="No space left"):
                house.registry.export_model("fraud", file, versions=[1])
        assert file.read_bytes() == before
        assert [entry.name for entry in file.parent.iterdir()] == ["fraud.everloop"]

    def test_a_folder_that_is_not_there(self, house: House, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="No such file"):
            house.registry.export_model("fraud", tmp_path / "nowhere" / "fraud.everloop")


def digest_of(contents: dict[str, Any]) -> str:
    digest: str = contents["versions"][0]["digest"]
    return digest


def other_bytes(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries[f"artifacts/{digest_of(contents)}"] = b"eno"


def other_size(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["artifacts"][digest_of(contents)] = 4


def one_more(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries["../../evil"] = b"evil"


def one_less(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    del entries[f"artifacts/{digest_of(contents)}"]


def unnamed_bytes(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["artifacts"]["f" * 64] = 4
    entries[f"artifacts/{'f' * 64}"] = b"evil"


def path_for_a_digest(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["versions"][0]["digest"] = "../../../evil"
    contents["artifacts"]["../../../evil"] = 4
    entries["artifacts/../../../evil"] = b"evil"


def newer(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents |= {"layout": 2, "everloop": "9.0"}


def another_format(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["format"] = "somebody's"


def another_shape(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["versions"][0]["status"] = "wonderful"


def twice(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["versions"].append(contents["versions"][0])


def bad_name(contents: dict[str, Any], entries: dict[str, bytes]) -> None:
    contents["versions"][0]["name"] = "champion"


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "error", "match"),
        [
            (other_bytes, Malformed, "is damaged"),
            (other_size, Malformed, "another size"),
            (one_more, Malformed, "other entries"),
            (one_less, Malformed, "other entries"),
            (unnamed_bytes, Malformed, "not those that its versions name"),
            (path_for_a_digest, Malformed, "not those that its versions name"),
            (newer, NotSupported, r"everloop 9\.0 .*upgrade"),
            (another_format, Malformed, "no exported model but"),
            (another_shape, Malformed, "wonderful"),
            (twice, Malformed, "one version twice"),
        ],
    )
    def test_what_is_not_what_it_says(
        self,
        house: House,
        file: Path,
        change: Callable[[dict[str, Any], dict[str, bytes]], None],
        error: type[EverloopError],
        match: str,
    ) -> None:
        kept, names = house.artifacts.digests(), house.registry.names()
        with pytest.raises(error, match=match):
            house.registry.import_model(rewritten(file, change), "scam")
        assert house.registry.names() == names
        assert set(house.artifacts.digests()) == set(kept)
        assert not (file.parent.parent / "evil").exists()

    def test_a_name_that_no_version_may_have(self, house: House, file: Path) -> None:
        with pytest.raises(InvalidInput, match="champion"):
            house.registry.import_model(rewritten(file, bad_name), "scam")
        assert "scam" not in house.registry.names()

    @pytest.mark.parametrize(
        ("what", "error"),
        [
            ({"aliases": {"champion": 1}}, InvalidInput),
            ({"aliases": {"7": 1}}, InvalidInput),
            ({"aliases": {"../evil": 1}}, InvalidInput),
            ({"rollout": {"strategy": "roulette"}}, InvalidInput),
            ({"record": 7.0}, InvalidInput),
            ({"versions": {"note": "x" * 100_000}}, InvalidInput),
            ({"versions": {"tags": {"": "x"}}}, InvalidInput),
            ({"versions": {"tags": {"x": "y" * 5000}}}, InvalidInput),
            ({"versions": {"created_at": 1e300}}, Malformed),
            ({"timeline": {"at": -1.0}}, Malformed),
            ({"versions": {"created_at": None}}, Malformed),
        ],
    )
    def test_what_nobody_could_have_said_to_a_registry(
        self, house: House, file: Path, what: dict[str, Any], error: type[EverloopError]
    ) -> None:
        def change(contents: dict[str, Any], _: dict[str, bytes]) -> None:
            for key, value in what.items():
                if isinstance(contents.get(key), list):
                    contents[key][0].update(value)
                else:
                    contents["model"][key] = value

        kept, names = house.artifacts.digests(), house.registry.names()
        with pytest.raises(error):
            house.registry.import_model(rewritten(file, change), "scam")
        assert (house.registry.names(), house.artifacts.digests()) == (names, kept)

    def test_a_story_that_lies(self, house: House, file: Path) -> None:
        """What it tells of numbers and alarms elsewhere is no alarm here, nor anybody's origin."""

        def change(contents: dict[str, Any], _: dict[str, bytes]) -> None:
            for kind, data in (("imported", {"numbers": 5}), ("drift", {"cut_id": [1]}), ("drift", {"cut_id": 700})):
                contents["timeline"].append({"model": "fraud", "kind": kind, "at": 1.0, "data": data})

        house.registry.import_model(rewritten(file, change), "copy")
        child = msgspec.structs.replace(MANIFEST, lineage={"parent": 1, "cut_id": 700})
        made = house.registry.add_version("copy", child, b"four", live=False)
        assert house.registry.lineage("copy", made.version).chain[0].alarm is None
        odd = msgspec.structs.replace(MANIFEST, lineage={"cut_id": [1]})
        assert house.registry.lineage("copy", house.registry.add_version("copy", odd, b"5", live=False).version).chain

    def test_whole_or_not_at_all(self, house: House, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A crash while it is imported leaves nothing that would be in the way of importing it again."""

        def crash(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("everloop.registry.bundle._retell", crash)
        with pytest.raises(KeyboardInterrupt):
            house.registry.import_model(file, "copy")
        assert "copy" not in house.registry.names()
        monkeypatch.undo()
        assert len(house.registry.import_model(file, "copy").versions) == 3
        assert house.kinds()[-2:] == ["registered", "imported"]

    def test_artifacts_that_go_while_it_is_imported(
        self, house: House, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.registry.unregister("fraud")
        monkeypatch.setattr(house.artifacts, "put", lambda _: "")
        with pytest.raises(Conflict, match="import it again"):
            house.registry.import_model(file)
        assert house.registry.names() == []

    def test_what_is_compressed(self, house: House, file: Path) -> None:
        with zipfile.ZipFile(file) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name, payload in entries.items():
                new.writestr(name, payload + b" " * 10_000)
        with pytest.raises((Malformed, TooLarge)):
            house.registry.import_model(file, "scam")

    def test_what_says_to_be_larger_than_it_is(self, house: House, file: Path) -> None:
        data = bytearray(file.read_bytes())
        at = data.rindex(b"PK\x01\x02")  # the last entry of the directory, that of the list of contents
        data[at + 20 : at + 28] = (1 << 31).to_bytes(4, "little") * 2
        file.write_bytes(data)
        with pytest.raises(TooLarge, match="more than it weighs"):
            house.registry.import_model(file, "scam")

    @pytest.mark.parametrize("content", [b"", b"PK", b"\x00" * 1000, b"PK\x05\x06" + b"\x00" * 18])
    def test_what_is_no_such_file(self, house: House, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(Malformed):
            house.registry.import_model(tmp_path / "x")

    def test_half_a_file(self, house: House, file: Path) -> None:
        whole = file.read_bytes()
        for size in range(0, len(whole), 97):
            file.write_bytes(whole[:size])
            with pytest.raises(Malformed):
                house.registry.import_model(file, "scam")
        assert house.registry.names() == ["fraud"]

    def test_any_flipped_byte_is_noticed_or_harmless(self, house: House, file: Path) -> None:
        whole = file.read_bytes()
        for at in range(0, len(whole), 23):
            damaged = bytearray(whole)
            damaged[at] ^= 0x55
            file.write_bytes(damaged)
            try:
                made = house.registry.import_model(file, "scam")
            except EverloopError:
                continue
            assert [house.registry.payload(v) for v in made.versions] == [b"one", b"two", b"three"]
            house.registry.unregister("scam")

    def test_no_file(self, house: House, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="no file"):
            house.registry.import_model(tmp_path / "nothing")
        with pytest.raises(StoreUnavailable):
            house.registry.import_model(tmp_path)


def test_a_template_of_boosted_trees_needs_no_trust(house: House, tmp_path: Path) -> None:
    template = b'{"type":"boosted","estimator":"lightgbm.LGBMClassifier","parameters":"{}"}'
    house.registry.register("trees", "estimator", task="regression", template=template)
    house.registry.export_model("trees", tmp_path / "trees.everloop")
    made = house.registry.import_model(tmp_path / "trees.everloop", "others", trust=Trust())
    assert house.registry.template(made.model) == template


def test_nothing_in_it_is_run(house: House, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (witness,))

    pickled = msgspec.structs.replace(MANIFEST, runtime="sklearn")
    house.registry.register("evil", "linear", task="regression", template=pickle.dumps(Evil()))
    house.registry.add_version("evil", pickled, pickle.dumps(Evil()), live=True)
    house.registry.export_model("evil", tmp_path / "evil.everloop")
    house.registry.unregister("evil")
    house.registry.import_model(tmp_path / "evil.everloop", live=True)
    assert not witness.exists()
