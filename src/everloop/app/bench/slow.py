"""Models that take a known time, for what is measured of queues and neighbours.

They answer the sum of a row. `computes`: in C, without the interpreter, as numerical libraries do (SHA-256 over a buffer, so many bytes as
take that long on this machine); `burns`: in Python, with the interpreter held; `waits`: asleep, as for an accelerator.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

Kind = Literal["computes", "burns", "waits"]
WIDTH = 8
_BLOCK = bytes(1 << 20)


class Slow:
    """`call` seconds for each call and `row` seconds for each row."""

    def __init__(self, kind: Kind, call: float, row: float) -> None:
        self.kind = kind
        self.call = call
        self.row = row
        self._bytes_a_second = 0.0

    def predict(self, X: Any) -> Any:
        seconds = self.call + self.row * len(X)
        if self.kind == "waits":
            time.sleep(seconds)
        elif self.kind == "burns":
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                sum(range(200))
        else:
            self._compute(seconds)
        return X.sum(axis=1)

    def _compute(self, seconds: float) -> None:
        if not self._bytes_a_second:
            fastest = min(_hashed(len(_BLOCK)) for _ in range(5))
            self._bytes_a_second = len(_BLOCK) / fastest
        left = int(seconds * self._bytes_a_second)
        while left > 0:
            _hashed(min(left, len(_BLOCK)))
            left -= len(_BLOCK)


def _hashed(size: int) -> float:
    began = time.thread_time()
    hashlib.sha256(memoryview(_BLOCK)[:size]).digest()
    return time.thread_time() - began


def register(data: Path, models: dict[str, Slow | None]) -> None:
    """Each as a model of its own; None: the small one that has learned the sum, our own arithmetic."""
    import cloudpickle
    import numpy as np

    from everloop.app.continuum import Continuum

    rng = np.random.default_rng(3)
    X = rng.normal(size=(500, WIDTH))
    with Continuum(data_dir=data, trust_pickle=True) as engine:
        registry = engine.engine.services.registry
        for name, model in models.items():
            engine.register_model(name, "linear", learning={"auto_swap": False, "interval_sec": 1e6})
            engine.add_training_examples(name, X.tolist(), X.sum(axis=1).tolist())
            engine.train_model(name)
            if model is not None:
                plain = registry.version(name, 1).manifest
                odd = msgspec.structs.replace(plain, runtime="sklearn", lineage={}, metrics={})
                registry.add_version(name, odd, cloudpickle.dumps(model), live=True)
