"""What comes and goes as a file: a version that is handed in, a model that is exported or imported. As in `api.verbs`, on a thread.

Nothing of a file is trusted: it must be what its content says, be readable by its runtime under the server's trust, and be opened once,
before it is a version that anything could serve.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.api.rollout_wire import CollectSpec
from everloop.api.services import Services
from everloop.api.verbs import describe_model
from everloop.api.versions import settled, version
from everloop.api.wire import ModelInfo, VersionInfo
from everloop.core.errors import ArtifactCorrupt, Conflict, Malformed, ModelNotFound
from everloop.core.hashing import artifact_digest
from everloop.registry.collection import Collected
from everloop.stores.ports import Manifest, VersionRecord

if TYPE_CHECKING:
    from everloop.learning.learners.base import Learner
    from everloop.runtime.artifact import Trust


def add_version(
    services: Services,
    name: str,
    payload: bytes,
    *,
    source: str,
    live: bool,
    version_name: str = "",
    note: str = "",
    by: str,
) -> tuple[VersionInfo, bool]:
    """The version of these bytes; the bool tells whether it is new. A live one answers once this process serves it. Raises as
    `hand_in`."""
    made, new = hand_in(services, name, payload, source=source, live=live, version_name=version_name, note=note, by=by)
    if new and live:
        return settled(services, name, made.version), True
    return version(services, name, made.version), new


def hand_in(
    services: Services,
    name: str,
    payload: bytes,
    *,
    source: str,
    live: bool,
    version_name: str = "",
    note: str = "",
    by: str,
) -> tuple[VersionRecord, bool]:
    """A file that came over the network as the next version of a model, which is made if it is not there; or the version there is of
    the very same bytes. `source` says in messages what the bytes are.

    Raises InvalidInput (the names), NotSupported (no file that can be served, what it looks like), Untrusted, Malformed (damaged),
    Conflict (it takes other features than the model; the name is taken)."""
    from everloop.runtime.artifact import Trust, read_model

    trust = services.trust_files or Trust(network=True)
    with _handed_in("body"):
        manifest, payload = read_model(payload, source, trust=trust, field="body")
    return accept(
        services,
        name,
        manifest,
        payload,
        trust=trust,
        live=live,
        version_name=version_name,
        note=note or f"from {Path(source).name}",
        by=by,
    )


def accept(
    services: Services,
    name: str,
    manifest: Manifest,
    payload: bytes,
    *,
    trust: Trust,
    live: bool,
    version_name: str = "",
    note: str = "",
    by: str,
) -> tuple[VersionRecord, bool]:
    """As `hand_in`, of an artifact."""
    from everloop.runtime.artifact import load_session

    registry, digest = services.registry, artifact_digest(payload)
    try:
        versions, there = registry.versions(name), True
    except ModelNotFound:
        versions, there = [], False
    for known in reversed(versions):
        alike = (known.manifest.runtime, known.manifest.options) == (manifest.runtime, manifest.options)
        if known.digest == digest and alike and not known.collected:
            if version_name and version_name != known.name:
                called = f", named {known.name!r}" if known.name else ""
                raise Conflict(
                    f"these bytes are version {known.version} of {name!r} already{called}; to name it {version_name!r}, "
                    "rename that version",
                    field="version_name",
                )
            return known, False
    with _handed_in():
        load_session(manifest, payload, trust=trust).close()
    if not there:
        services.loop.register(
            name,
            learner_of(manifest, payload, trust),
            task=manifest.task,
            learning={},
            record=services.record,
            schema=manifest.schema,
            target=manifest.target,
        )
    return registry.add_version(name, manifest, payload, live=live, note=note, version_name=version_name, by=by), True


@contextlib.contextmanager
def _handed_in(field: str | None = None) -> Iterator[None]:
    """What cannot be read came so from whoever handed it in: nothing of ours is damaged."""
    try:
        yield
    except ArtifactCorrupt as error:
        raise Malformed(error.message, field=field) from error


def learner_of(manifest: Manifest, payload: bytes, trust: Trust) -> Learner | None:
    """What learns on from an artifact, or anew; None for one that only answers (`learning.learners.make.STARTED`)."""
    from everloop.learning.learners.make import learner_of_artifact

    return learner_of_artifact(manifest, payload, trust=trust)


def export_model(services: Services, name: str) -> Path:
    """A new file in the system's temporary folder: whoever asked removes it. Raises ModelNotFound, ArtifactCorrupt."""
    folder = Path(tempfile.mkdtemp(prefix="everloop-export-"))
    path = folder / "model.everloop"
    try:
        services.registry.export_model(name, path)
    except BaseException:
        discard(path)
        raise
    return path


def discard(path: Path) -> None:
    """Remove what `export_model` made."""
    path.unlink(missing_ok=True)
    path.parent.rmdir()


def import_model(services: Services, payload: bytes, name: str | None, *, live: bool, by: str) -> ModelInfo:
    """`live`: what was live where it comes from is live here; otherwise all versions wait. Raises InvalidInput, Malformed (no such file, or damaged), NotSupported (a newer format), Conflict."""
    with tempfile.TemporaryDirectory(prefix="everloop-import-") as folder:
        path = Path(folder) / "model.everloop"
        path.write_bytes(payload)
        made = services.registry.import_model(path, name, live=live, by=by, trust=services.trust_files)
    services.reconciler.step()
    return describe_model(services, made.model)


def collect(services: Services, asked: CollectSpec, *, by: str) -> Collected:
    return services.registry.collect_garbage(archived=asked.archived, keep=asked.keep, by=by)
