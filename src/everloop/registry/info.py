"""What `ModelRegistry` tells of one version of one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from everloop.runtime.loaded import LoadedModel

if TYPE_CHECKING:
    import numpy.typing as npt

Status = Literal["staging", "production", "archived"]
STATUSES: tuple[Status, ...] = ("staging", "production", "archived")


@dataclass(frozen=True)
class ModelInfo:
    """One version of one model, as it stood when it was asked for."""

    id: str
    name: str
    """The model's."""
    version: str
    """What its maker calls it, `v1.0`; its number where it has no name."""
    number: int
    status: Status
    traffic_percentage: float
    """The share that was asked for it, 0 to 1; never more than `share`."""
    share: float
    """The share of the traffic that it answers, 0 to 1."""
    shadow: bool
    """Whether it is shown a copy of the traffic."""
    metrics: dict[str, float]
    tags: dict[str, str]
    created_at: float
    """Seconds since the epoch."""
    onnx_path: str | None
    """Where its ONNX file is, for an ONNX model in a folder of this registry's own."""
    digest: str
    """SHA-256 of the artifact."""
    note: str
    _open: Callable[[], LoadedModel] = field(repr=False, compare=False)
    _kept: Callable[[], LoadedModel] = field(repr=False, compare=False)

    def load(self) -> LoadedModel:
        """Open it: the caller's own, to close. Raises ArtifactCorrupt, Untrusted, NotSupported, Conflict (collected)."""
        return self._open()

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """As `LoadedModel.predict`, by a session that is kept for the next time."""
        return self._kept().predict(X)

    def plain(self) -> dict[str, Any]:
        """What is known of it, JSON-able."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.name.startswith("_")}


def id_of(name: str, number: int) -> str:
    return f"{name}@{number}"
