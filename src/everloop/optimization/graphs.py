"""An ONNX graph rewritten ahead: what ONNX Runtime would do each time it opens the file is done once and kept.

    basic      constants folded, what is not needed left out: still plain ONNX
    extended   besides, operators fused into ONNX Runtime's own
    all        besides, laid out for the processor when it is opened, since such a layout does not fit another machine

A graph that was rewritten is opened without rewriting it again (`Manifest.options["graph"]`), so it also loads faster.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from everloop.core.errors import NotSupported
from everloop.runtime.artifact import library_versions
from everloop.runtime.onnx import check_whole, session_options
from everloop.stores.ports import Manifest

Level = Literal["basic", "extended", "all"]
LEVELS: tuple[Level, ...] = ("basic", "extended", "all")


def at_level(manifest: Manifest, payload: bytes, level: Level) -> tuple[Manifest, bytes]:
    """The artifact with its graph rewritten. Raises NotSupported (no ONNX model, or one that cannot be written again)."""
    if manifest.runtime != "onnx":
        raise NotSupported(f"a graph is rewritten of ONNX models, and this one is of runtime {manifest.runtime!r}")
    import onnxruntime

    check_whole(payload)
    with tempfile.TemporaryDirectory(prefix="everloop-graph-") as folder:
        written = Path(folder) / "model.onnx"
        options = session_options("basic" if level == "basic" else "extended")
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
            rewritten = written.read_bytes()
        except Exception as error:  # its own exceptions derive from nothing more special
            raise NotSupported(
                f"ONNX Runtime cannot write its graph at level {level}: {str(error).splitlines()[0]}"
            ) from error
    return (
        msgspec.structs.replace(
            manifest,
            options={**manifest.options, "graph": "all" if level == "all" else "none"},
            libraries={**manifest.libraries, **library_versions("onnxruntime")},
        ),
        rewritten,
    )
