"""`Continuum`: the engine in one object, for use inside a Python program.

`predict` is the hot path: one attribute, one dictionary look-up, one call of the lane's compiled answer. The dictionary belongs
to an immutable table that a swap replaces whole, so an answer and its version always come from the same lane.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from everloop.app.build import Engine, build_engine
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.core.errors import Closed, Conflict, EverloopError, InvalidInput
from everloop.core.events import Event
from everloop.core.types import Features, Prediction, PredictionBatch, Scalar
from everloop.learning.config import LearningConfig, ModelParameters
from everloop.learning.intake import Feedback
from everloop.stores.ports import VersionRecord


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model right now."""

    name: str
    kind: str
    version: int | None
    """The version that answers; None while it is untrained."""
    is_training: bool
    stats: dict[str, Any]
    """`examples` (acknowledged), `learned`, `backlog`, `predictions`, `quality`, `drift`, `input_drift`, `failures`,
    `last_error`, `last_fit`."""


class Continuum:
    """Models that answer, learn and are swapped, in this process.

    With `data_dir=None` everything is kept in memory; with a folder, whatever a call has returned from is on disk, and the
    next `Continuum` on that folder answers with the last versions at once. Safe to use from any thread."""

    def __init__(
        self,
        config: LearningConfig | None = None,
        *,
        data_dir: str | PathLike[str] | None = None,
        record: float = 1.0,
        trust_pickle: bool = False,
        trust_types: Sequence[str] = (),
    ) -> None:
        self.config = LearningConfig.default() if config is None else config
        settings = EngineSettings(
            data_dir=None if data_dir is None else Path(data_dir),
            learning=self.config,
            record=record,
            trust_pickle=trust_pickle,
            trust_types=tuple(trust_types),
        )
        self.engine: Engine = build_engine(settings)
        self._table = self.engine.services.table
        self.engine.start(learning=False)
        # A script that forgets `close` still leaves its data folder complete.
        self._finalizer = weakref.finalize(self, self.engine.stop)

    # --- models

    def register_model(
        self,
        name: str,
        model: Any,
        parameters: ModelParameters | Mapping[str, Any] | None = None,
        *,
        record: float | None = None,
        learning: Mapping[str, Any] | None = None,
    ) -> None:
        """`model`: a kind (`"linear"`, `"ridge"`, `"logistic"`, `"forest"`, `"boosting"`, `"auto"`), a scikit-learn
        estimator or pipeline, a River model, a `Learner`, or the path of an artifact (ONNX, skops).

        An estimator that is already fitted answers at once as version 1. `record`: which share of its predictions is
        recorded; `learning`: fields of `LearningConfig` that only this model overrides. Raises Conflict if the name is
        another model's, NotSupported, InvalidInput, Untrusted."""
        self._open()
        self.engine.register(name, model, parameters, learning=learning, record=record)

    def unregister_model(self, name: str) -> None:
        """Forget a model with its versions and examples; its timeline stays. Raises ModelNotFound."""
        self._open()
        self.engine.unregister(name)

    def list_models(self) -> list[str]:
        """The names, sorted."""
        return sorted(self.engine.services.registry.names())

    def get_model_info(self, name: str) -> ModelInfo:
        """Raises ModelNotFound."""
        services = self.engine.services
        record = services.registry.get(name)
        lane = services.table.current.lanes.get(name)
        status = services.loop.status(name)
        return ModelInfo(
            name=name,
            kind=record.kind,
            version=None if lane is None else lane.version,
            is_training=status.is_training,
            stats={
                "examples": services.journal.examples_total(name),
                "learned": status.examples_learned,
                "backlog": status.backlog,
                "predictions": 0 if lane is None else lane.predictions,
                "quality": status.quality,
                "drift": status.drift,
                "input_drift": status.input_drift,
                "failures": status.failures,
                "last_error": status.last_error,
                "last_fit": status.last_fit,
            },
        )

    # --- answering

    def predict(self, name: str, features: Features, unit: str | None = None) -> Prediction:
        """One row -> `.prediction .model_version .request_id`. Raises ModelNotFound, ModelUntrained, InvalidInput.

        `unit`: a user or a session, of 1 to 256 characters, who is to meet the same version each time while several are live.
        Without one, each request is drawn for itself."""
        if unit is not None:
            self._open()
            return self.engine.services.predictor.predict(name, features, unit)
        try:
            answer = self._table.current.answers[name]
        except KeyError:
            self._open()
            return self.engine.services.predictor.predict(name, features)
        return answer(features)

    def predict_batch(self, name: str, rows: Sequence[Features], unit: str | None = None) -> PredictionBatch:
        """Many rows, one version -> `.predictions .model_version .request_id`. A bad row raises, naming it. `unit` as in `predict`."""
        return self.engine.services.predictor.predict_batch(name, rows, unit)

    # --- learning

    def add_training_example(self, name: str, features: Features, target: Scalar, is_validation: bool = False) -> None:
        """Hand over one labelled example; on return it is kept (with a data folder: on disk). With `is_validation` it only
        judges candidates. Raises ModelNotFound, InvalidInput, Overloaded (more than `max_queue_size` wait)."""
        self._accept(name, [Feedback(label=target, features=features, validation=is_validation)])

    def add_training_examples(
        self, name: str, rows: Sequence[Features], targets: Sequence[Scalar], is_validation: bool = False
    ) -> None:
        """Many at once, in one commit: all are kept, or it raises and none is. `rows` may be an array of two dimensions,
        `targets` one of one. Raises InvalidInput (not as many targets as rows), and as `add_training_example`."""
        given, labels = list(rows), list(targets)
        if len(given) != len(labels):
            raise InvalidInput(
                f"targets: expected one target a row, got {len(given):,} rows and {len(labels):,} targets",
                field="targets",
            )
        self._accept(
            name,
            [
                Feedback(label=target, features=row, validation=is_validation)
                for row, target in zip(given, labels, strict=True)
            ],
        )

    def feedback(self, name: str, request_id: str, label: Scalar, *, index: int = 0) -> None:
        """The label of an earlier prediction, minutes or days later. `index`: the row, where the request had several.

        Raises PredictionNotFound (never recorded, or past retention), Conflict (labelled differently before)."""
        self._accept(name, [Feedback(label=label, request_id=request_id, index=index)])

    def train_model(self, name: str) -> ModelInfo:
        """Fit now on all examples there are, publish, and return once the new version answers.

        Raises InvalidInput (too few examples), FitFailed, NotSupported (the model cannot learn)."""
        self._open()
        made = self.engine.services.loop.train_now(name)
        if made.status == "live":
            self.engine.settle(name, made.version)
        return self.get_model_info(name)

    def start_continuous_learning(self) -> None:
        """Learn in the background until `stop_continuous_learning`. Starting twice is one loop."""
        self._open()
        self.engine.start(learning=True)

    def stop_continuous_learning(self) -> None:
        """Returns when the loop has ended and saved its place. Examples may still be added; they wait for the next start."""
        self.engine.services.learning = False
        self.engine.services.loop.stop()

    # --- versions

    def versions(self, name: str) -> list[VersionRecord]:
        """All versions, the oldest first. Raises ModelNotFound."""
        return self.engine.services.registry.versions(name)

    def promote(self, name: str, version: int) -> None:
        """Make `version` the one that answers; returns once it does. Raises VersionNotFound."""
        self._open()
        self.engine.services.registry.promote(name, version)
        self.engine.settle(name, version)

    def rollback(self, name: str) -> int:
        """Back to the version that answered before; returns its number. Raises Conflict where there is none."""
        self._open()
        made = self.engine.services.registry.rollback(name)
        self.engine.settle(name, made.version)
        return made.version

    def timeline(self, name: str, limit: int = 100) -> list[Event]:
        """The newest events of a model, the oldest of them first. Raises ModelNotFound for a name that never was."""
        return self.engine.services.registry.timeline(name, limit=limit, latest=True)

    # --- over HTTP

    def serve(self, *, host: str = "127.0.0.1", port: int = 3000, insecure: bool = False) -> None:
        """Put these models on HTTP and learn from what comes in. Blocks until SIGTERM or Ctrl-C, drains, then closes.

        Call it on the main thread. Raises InvalidInput (a public address without `insecure`), Conflict (the port is taken)."""
        from everloop.app.server import run

        self._open()
        settings = ServerSettings(host=host, port=port, insecure=insecure)
        try:
            run(self.engine, settings)
        finally:
            self.close()

    @contextmanager
    def serving(self, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        """The same on a thread, for the time of a `with` block that gets the address; closes this Continuum at its end."""
        from everloop.app.server import serving

        self._open()
        settings = ServerSettings(host=host, port=port, notice=0.0)
        try:
            with serving(self.engine, settings) as address:
                yield address.url
        finally:
            self.close()

    # --- keeping

    def save(self, data_dir: str | PathLike[str]) -> None:
        """Write models, versions and examples into a new data folder, for `Continuum(data_dir=…)` or `everloop serve`.

        Raises Conflict if there is an engine in that folder already."""
        from everloop.app.saving import save_engine

        self._open()
        save_engine(self.engine, Path(data_dir))

    def close(self) -> None:
        """Stop learning, write everything and let go of it. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> Continuum:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if not self._finalizer.alive else "learning" if self.engine.services.loop.running else "idle"
        where = self.engine.settings.data_dir
        return f"<Continuum {state}, {len(self._table.current.lanes)} live, {'in memory' if where is None else where}>"

    def _open(self) -> None:
        if not self._finalizer.alive:
            raise Closed("this Continuum has been closed")

    def _accept(self, name: str, items: list[Feedback]) -> None:
        self._open()
        outcomes = self.engine.services.intake.accept_now(name, items).outcomes
        for outcome in outcomes:
            if isinstance(outcome, EverloopError):
                raise outcome
        if not outcomes:
            raise Conflict("no example was given")
