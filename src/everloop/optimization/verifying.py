"""Whether an artifact answers as its manifest tells: what is in the file is asked itself, beside the forms that are made again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everloop.core.errors import ArtifactCorrupt, EverloopError, explain
from everloop.core.hashing import artifact_digest
from everloop.core.types import Row, Scalar
from everloop.optimization.evidence import Evidence, gather
from everloop.optimization.figures import Figures
from everloop.optimization.parity import Parity, judge
from everloop.optimization.variants import Wishes
from everloop.runtime.artifact import load_session
from everloop.runtime.compiled import as_trained
from everloop.runtime.members import unpack_members
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from everloop.runtime.artifact import Trust


@dataclass(frozen=True)
class Part:
    """A form inside the artifact: the chosen one, or of one that goes by size each of those that it is put together of."""

    name: str
    """Of the form that it is told to be; empty where the manifest does not tell of it."""
    start: int
    """Rows from which on it answers."""
    digest: str
    found: Parity
    """Of the bytes in the file against the original."""


def ask_parts(
    original: tuple[Manifest, bytes],
    rows: Sequence[Row],
    labels: Sequence[Scalar] | None,
    *,
    artifact: tuple[Manifest, bytes],
    told: Figures,
    wishes: Wishes,
    trust: Trust,
) -> list[Part]:
    """On the examples that the manifest's numbers are of. Raises what opening and asking the original raises, and ArtifactCorrupt for an
    artifact that does not answer."""
    manifest, payload = original
    with closing(load_session(as_trained(manifest), payload, trust=trust)) as session:
        evidence = gather(
            session,
            rows,
            labels,
            total=wishes.rows,
            drawn=told.data.drawn,
            seconds=0.0,
            calibrate=wishes.int8,
            loss=wishes.loss,
            seed=wishes.seed,
        )
    exact = {form.name: form.exact for form in told.forms}
    if artifact[0].runtime != "by_size":
        return [_asked(told.chosen, 1, artifact, evidence, exact=exact[told.chosen], trust=trust)]
    load_session(*artifact, trust=trust).close()  # checks its plan, too
    plan, members = unpack_members(artifact[1])
    names = [str(name) for _, name in told.stretches]
    names += [""] * (len(members) - len(names))
    return [
        _asked(name, start, member, evidence, exact=exact.get(name, True), trust=trust)
        for name, start, member in zip(names, plan["from"], members, strict=False)
    ]


def _asked(
    name: str, start: int, artifact: tuple[Manifest, bytes], evidence: Evidence, *, exact: bool, trust: Trust
) -> Part:
    manifest, payload = artifact
    made = as_trained(manifest) if name == "original" else manifest
    try:
        with closing(load_session(made, payload, trust=trust)) as session:
            return Part(name, start, artifact_digest(payload), judge(evidence, session, exact=exact))
    except EverloopError:
        raise
    except Exception as error:  # whatever bytes that are none of ours raise where the original answers
        raise ArtifactCorrupt(f"{name} does not answer as a form of this model: {explain(error)}") from error
