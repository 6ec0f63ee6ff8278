"""An artifact as a file: what everloop knows of a model and its bytes together, where no plain format of a library could hold both.

    everloop.json    the manifest, and the digest of the payload
    payload          the artifact's bytes

A zip of stored entries with fixed times, so that the same artifact is the same file. Reading believes nothing: exactly these two
entries, as large as they say, the payload with its digest, and a manifest that is sound in itself. Nothing is loaded here; what the
payload holds is its runtime's to check, under what is trusted, as any file's content is.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import msgspec

import everloop
from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, NotSupported
from everloop.core.hashing import artifact_digest
from everloop.core.structs import looked_into
from everloop.runtime.zips import UNREADABLE, Header
from everloop.stores.ports import Manifest

ENDING = ".artifact"
FORMAT = "everloop-artifact"
LAYOUT = 1
CONTENTS, PAYLOAD = "everloop.json", "payload"
MOST_CONTENTS = 64 << 20
"""Bytes of the manifest: far more than a million fields need."""


@looked_into
class _Contents(msgspec.Struct, frozen=True):
    format: str
    layout: int
    everloop: str
    digest: str
    manifest: Manifest


def write_artifact(path: str | Path, manifest: Manifest, payload: bytes) -> Path:
    """The file, whose name ends with `.artifact` unless it has an ending. Raises InvalidInput where it cannot be written."""
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(ENDING)
    try:
        path.write_bytes(dump_artifact(manifest, payload))
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror or error}", field="path") from error
    return path


def dump_artifact(manifest: Manifest, payload: bytes) -> bytes:
    """The file's bytes."""
    contents = _Contents(FORMAT, LAYOUT, everloop.__version__, artifact_digest(payload), manifest)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo(CONTENTS), msgspec.json.encode(contents))
        file.writestr(zipfile.ZipInfo(PAYLOAD), payload)
    return buffer.getvalue()


def read_artifact(data: bytes) -> tuple[Manifest, bytes]:
    """What `dump_artifact` was given. Raises ArtifactCorrupt, NotSupported (a newer format)."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as file:
            contents = _contents(file, len(data))
            payload = file.read(PAYLOAD)
    except EverloopError:
        raise
    except UNREADABLE as error:
        raise ArtifactCorrupt(f"no artifact file, or damaged: {error}") from error
    if artifact_digest(payload) != contents.digest:
        raise ArtifactCorrupt("the artifact is damaged: its bytes do not have the digest that it tells")
    check_manifest(contents.manifest)
    return contents.manifest, payload


def check_manifest(manifest: Manifest) -> None:
    """Raises ArtifactCorrupt for one that contradicts itself."""
    task, schema, classes = manifest.task, manifest.schema, manifest.classes
    if manifest.target.task != task:
        raise ArtifactCorrupt(f"its manifest tells of {task}, and of answers of {manifest.target.task}")
    if (not schema.fields) != (task == "tensors"):
        raise ArtifactCorrupt(f"its manifest tells of {task} with {len(schema.fields)} fields")
    if schema.named and (len(set(schema.names)) != len(schema.names) or not all(schema.names)):
        raise ArtifactCorrupt("its manifest tells of fields that have one name, or none")
    if classes is None:
        return
    if task != "classification" or not classes:
        raise ArtifactCorrupt(f"its manifest tells of {task} with {len(classes)} classes")
    try:
        labels = [manifest.target.check(label) for label in classes]
    except (InvalidInput, TypeError) as error:
        raise ArtifactCorrupt(f"its manifest tells of classes that are none: {error}") from error
    if len(set(labels)) != len(labels):
        raise ArtifactCorrupt("its manifest tells of one class twice")


def _contents(file: zipfile.ZipFile, size: int) -> _Contents:
    entries = file.infolist()
    if sorted(entry.filename for entry in entries) != [CONTENTS, PAYLOAD]:
        raise ArtifactCorrupt("an artifact file holds its manifest and its payload, and nothing else")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise ArtifactCorrupt("an artifact file with entries that are compressed or encrypted; everloop does neither")
    if sum(entry.file_size for entry in entries) > size or file.getinfo(CONTENTS).file_size > MOST_CONTENTS:
        raise ArtifactCorrupt("an artifact file that says to hold more than it can")
    text = file.read(CONTENTS)
    try:
        header = msgspec.json.decode(text, type=Header)
        if header.format != FORMAT:
            raise ArtifactCorrupt(f"no artifact file but {header.format[:60]!r}")
        if header.layout > LAYOUT:
            raise NotSupported(
                f"written by everloop {header.everloop[:60]} (format {header.layout}, this one knows up to {LAYOUT}): upgrade everloop"
            )
        return msgspec.json.decode(text, type=_Contents)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactCorrupt(f"its manifest cannot be read: {error}") from error
