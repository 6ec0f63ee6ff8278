"""everloop: the model server that keeps learning.

Everything named here is loaded when it is first used, so that `import everloop` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from everloop.app.continuum import Continuum, ModelInfo
    from everloop.core.errors import EverloopError
    from everloop.core.types import Prediction, PredictionBatch
    from everloop.learning.config import LearningConfig, ModelParameters
    from everloop.runtime.artifact import save_model
    from everloop.runtime.image_saving import save_image_model

_HOMES = {
    "Continuum": "everloop.app.continuum",
    "EverloopError": "everloop.core.errors",
    "LearningConfig": "everloop.learning.config",
    "ModelInfo": "everloop.app.continuum",
    "ModelParameters": "everloop.learning.config",
    "Prediction": "everloop.core.types",
    "PredictionBatch": "everloop.core.types",
    "save_image_model": "everloop.runtime.image_saving",
    "save_model": "everloop.runtime.artifact",
}

__all__ = [
    "Continuum",
    "EverloopError",
    "LearningConfig",
    "ModelInfo",
    "ModelParameters",
    "Prediction",
    "PredictionBatch",
    "save_image_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
