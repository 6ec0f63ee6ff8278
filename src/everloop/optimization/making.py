"""The forms that are tried, each with what makes it. A maker raises NotSupported, in words, for a model that has no such form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from everloop.core.errors import NotSupported
from everloop.core.types import Row, Scalar
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from everloop.optimization.graphs import Level
    from everloop.runtime.artifact import Trust

Artifact = tuple[Manifest, bytes]


@dataclass(frozen=True)
class Material:
    """What forms are made from."""

    manifest: Manifest
    payload: bytes = field(repr=False)
    rows: Sequence[Row] = field(repr=False)
    """To convert and calibrate with."""
    labels: Sequence[Scalar] | None = field(repr=False)
    """Of these rows."""
    trust: Trust
    made: dict[str, Artifact] = field(default_factory=dict, repr=False)
    """The forms so far: ONNX graphs are made once, whatever is made of them."""


@dataclass(frozen=True)
class Maker:
    name: str
    make: Callable[[Material], Artifact]
    how: dict[str, Any]
    """What is done, so that it can be done again."""
    exact: bool = True


def makers(*, int8: bool) -> list[Maker]:
    """In the order in which they are tried; those that round on purpose only where that is wished."""
    found = [
        Maker("compiled", _compiled, {"by": "compiling"}),
        Maker("onnx", _onnx, {"by": "conversion"}),
        *(Maker(f"onnx-{level}", _at_level(level), {"by": "graph", "level": level}) for level in LEVELS),
    ]
    if int8:
        found += [
            Maker(name, _quantized(options), {"by": "quantization", **options}, exact=False)
            for name, options in ROUNDED.items()
        ]
    return found


LEVELS: tuple[Level, ...] = ("basic", "extended", "all")
"""Of ONNX Runtime's graph optimisation, done ahead; `onnx` leaves it to whoever loads it."""
ROUNDED: dict[str, dict[str, Any]] = {
    "int8-dynamic": {"method": "dynamic"},
    "int8-static": {"method": "static", "calibration": "minmax"},
    "int8-entropy": {"method": "static", "calibration": "entropy"},
    "fp16": {"method": "fp16"},
}


def _compiled(material: Material) -> Artifact:
    from everloop.optimization.compiling import compile_artifact

    return compile_artifact(material.manifest, material.payload, trust=material.trust)


def _onnx(material: Material) -> Artifact:
    from everloop.optimization.onnx import convert_artifact

    if material.manifest.runtime == "onnx":
        raise NotSupported("the original is an ONNX graph already")
    return convert_artifact(material.manifest, material.payload, trust=material.trust, rows=material.rows)


def _graph(material: Material) -> Artifact:
    """The model in ONNX; its maker is asked once."""
    if material.manifest.runtime == "onnx":
        return material.manifest, material.payload
    if "onnx" not in material.made:
        material.made["onnx"] = _onnx(material)
    return material.made["onnx"]


def _at_level(level: Level) -> Callable[[Material], Artifact]:
    def make(material: Material) -> Artifact:
        from everloop.optimization.graphs import at_level

        return at_level(*_graph(material), level)

    return make


def _quantized(options: dict[str, Any]) -> Callable[[Material], Artifact]:
    def make(material: Material) -> Artifact:
        from everloop.optimization.quantization import QuantizationConfig, quantize_artifact

        return quantize_artifact(*_graph(material), material.rows, QuantizationConfig(**options), material.labels)

    return make
