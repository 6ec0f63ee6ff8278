import io
import json
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import ArtifactCorrupt, EverloopError, NotSupported
from everloop.core.hashing import artifact_digest
from everloop.core.schema import Field, Schema, Target
from everloop.runtime.artifact import Trust, load_session, read_model, read_model_file
from everloop.runtime.linear import LinearModel
from everloop.runtime.packaged import CONTENTS, PAYLOAD, check_manifest, dump_artifact, read_artifact, write_artifact
from everloop.stores.ports import Manifest

PAYLOAD_BYTES = LinearModel(np.array([[2.0, 1.0]]), np.array([0.5]), np.zeros(2)).pack()
MANIFEST = Manifest(
    "linear",
    "regression",
    Schema.of_names(["a", "b"]),
    Target("regression"),
    options={"threads": 2},
    metrics={"r2": 0.5},
)
FILE = dump_artifact(MANIFEST, PAYLOAD_BYTES)


def forged(change=None, *, payload=PAYLOAD_BYTES, names=(CONTENTS, PAYLOAD), compress=zipfile.ZIP_STORED):
    with zipfile.ZipFile(io.BytesIO(FILE)) as file:
        contents = json.loads(file.read(CONTENTS))
    if change:
        change(contents)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as file:
        for name in names:
            file.writestr(zipfile.ZipInfo(name), json.dumps(contents) if name == CONTENTS else payload, compress)
    return out.getvalue()


def test_what_is_written_is_read_and_answers(tmp_path):
    path = write_artifact(tmp_path / "m", MANIFEST, PAYLOAD_BYTES)
    assert path.name == "m.artifact"
    assert path.read_bytes() == FILE == dump_artifact(MANIFEST, PAYLOAD_BYTES)
    manifest, payload = read_model_file(path, trust=Trust())
    assert (manifest, payload) == (MANIFEST, PAYLOAD_BYTES)
    assert load_session(manifest, payload, trust=Trust()).run(np.array([[1.0, 1.0]])).tolist() == [3.5]


def set_in(*path, value):
    def change(contents):
        for step in path[:-1]:
            contents = contents[step]
        contents[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (FILE[:-30], ArtifactCorrupt, "damaged"),
        (forged(payload=b"others"), ArtifactCorrupt, "digest"),
        (forged(names=(CONTENTS, PAYLOAD, "more")), ArtifactCorrupt, "nothing else"),
        (forged(compress=zipfile.ZIP_DEFLATED), ArtifactCorrupt, "compressed"),
        (forged(set_in("format", value="another")), ArtifactCorrupt, "another"),
        (forged(set_in("layout", value=2)), NotSupported, "upgrade everloop"),
        (forged(set_in("manifest", value=[])), ArtifactCorrupt, "manifest cannot be read"),
        (forged(set_in("manifest", "task", value="classification")), ArtifactCorrupt, "tells of classification"),
        (forged(set_in("manifest", "classes", value=[1])), ArtifactCorrupt, "with 1 classes"),
        (forged(set_in("manifest", "schema", "fields", value=[])), ArtifactCorrupt, "0 fields"),
        (forged(set_in("manifest", "schema", "fields", value=[{"name": "a"}] * 2)), ArtifactCorrupt, "one name"),
    ],
)
def test_a_forged_file_is_no_artifact(data, error, told):
    with pytest.raises(error, match=told):
        read_artifact(data)


def test_a_file_that_says_to_hold_more_than_it_weighs():
    entry = FILE.index(PAYLOAD.encode(), FILE.index(b"PK\x01\x02", FILE.index(CONTENTS.encode(), 100)))
    size = FILE.rindex(len(PAYLOAD_BYTES).to_bytes(4, "little"))
    big = FILE[:size] + (1 << 30).to_bytes(4, "little") + FILE[size + 4 :]
    assert entry > 0
    with pytest.raises(ArtifactCorrupt, match="more than it can"):
        read_artifact(big)


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_byte_changed_is_noticed_or_changes_nothing(place, by):
    data = bytearray(FILE)
    data[place] ^= by
    try:
        manifest, payload = read_model(bytes(data), "a test", trust=Trust(), field="model")
    except EverloopError:
        return
    assert artifact_digest(payload) == artifact_digest(PAYLOAD_BYTES)
    load_session(manifest, payload, trust=Trust()) if manifest == MANIFEST else None


@pytest.mark.parametrize(
    ("target", "classes"),
    [(Target("classification", "text"), ["a", 1]), (Target("classification", "integer"), [1, 1.0])],
)
def test_classes_that_are_none(target, classes):
    manifest = msgspec.structs.replace(MANIFEST, task="classification", target=target, classes=classes)
    with pytest.raises(ArtifactCorrupt, match=r"classes that are none|one class twice"):
        check_manifest(manifest)


def test_classes_as_estimators_have_them():
    for kind, classes in (("integer", [0.0, 1.0]), ("text", ["a", "b"]), ("boolean", [False, True])):
        check_manifest(
            Manifest(
                "sklearn", "classification", Schema((Field("x"),)), Target("classification", kind), classes=classes
            )
        )
