"""`Continuum`: the engine in one object, for use inside a Python program.

`predict` is the hot path: one attribute, one dictionary look-up, one call of the lane's compiled answer. The dictionary belongs
to an immutable table that a swap replaces whole, so an answer and its version always come from the same lane.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from everloop.api import rollouts
from everloop.api.rollout_wire import RolloutChange, RolloutInfo
from everloop.api.rollouts import Act
from everloop.app.build import Engine, build_engine
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.core.errors import Closed, Conflict, EverloopError, InvalidInput
from everloop.core.events import Event
from everloop.core.types import Features, Prediction, PredictionBatch, Scalar
from everloop.core.wording import near_names
from everloop.learning.config import LearningConfig, ModelParameters
from everloop.learning.intake import Feedback
from everloop.optimization.config import OptimizeConfig
from everloop.registry.rollouts import plan_of
from everloop.registry.traffic import weights_of
from everloop.stores.ports import VersionRecord

_BY = "python"
"""Who acts, in the timeline."""


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
    next `Continuum` on that folder answers with the last versions at once; so with `database`, a `postgresql://` URL, which other
    processes and servers may share at the same time. Safe to use from any thread."""

    def __init__(
        self,
        config: LearningConfig | None = None,
        *,
        data_dir: str | PathLike[str] | None = None,
        database: str | None = None,
        record: float = 1.0,
        optimize: bool | OptimizeConfig = False,
        trust_pickle: bool = False,
        trust_types: Sequence[str] = (),
        trust_code: Sequence[str] = (),
    ) -> None:
        self.config = LearningConfig.default() if config is None else config
        settings = EngineSettings(
            data_dir=None if data_dir is None else Path(data_dir),
            database=database,
            learning=self.config,
            record=record,
            optimize=OptimizeConfig(on_publish=optimize) if isinstance(optimize, bool) else optimize,
            trust_pickle=trust_pickle,
            trust_types=tuple(trust_types),
            trust_code=tuple(trust_code),
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
        rollout: Mapping[str, Any] | None = None,
        serving: Mapping[str, Any] | None = None,
    ) -> None:
        """`model`: a kind (`"linear"`, `"ridge"`, `"logistic"`, `"forest"`, `"boosting"`, `"auto"`), a scikit-learn
        estimator or pipeline, a River model, a `Learner`, or what names a model: the path of a file (ONNX, skops, …) or a folder,
        `"package.module:Model"`, `"models:/name@alias"`; a class or a function of that contract itself (`everloop.runtime.python`).

        An estimator that is already fitted answers at once as version 1. `record`: which share of its predictions is
        recorded; `learning`: fields of `LearningConfig` that only this model overrides; `rollout`: how the versions that it learns
        go out, as `{"strategy": "canary", "steps": "5,50"}`; `serving`: fields of `serving.ServingConfig`, as `{"max_batch_size": 64}`;
        they may be said anew at any time. Raises Conflict if the name is another model's, NotSupported,
        InvalidInput, Untrusted."""
        self._open()
        self.engine.register(
            name, model, parameters, learning=learning, rollout=rollout, serving=serving, record=record
        )

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
            split = self._table.current.splits.get(name)
            if split is not None:
                return split.answer_named(features, unit)
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

    def add_version(
        self, name: str, model: str | PathLike[str], *, live: bool = False, version_name: str = "", note: str = ""
    ) -> int:
        """What names a model (a file, a folder, `package.module:Model`) as the next version, of a model that is made if it is not there;
        returns its number. It waits for `promote` or `start_rollout` unless it is `live`. Raises Conflict (it does not fit the model), NotSupported, Untrusted."""
        self._open()
        made = self.engine.register_file(name, model, live=live, version_name=version_name, note=note, by=_BY)
        return made.version

    def promote(self, name: str, version: int | str) -> None:
        """Make `version` (a number, a name, an alias) the one that answers everybody; returns once it does. Raises
        VersionNotFound, Conflict (a rollout of another version is under way)."""
        self._open()
        made = self.engine.services.registry.promote(name, version, by=_BY)
        self.engine.settle(name, made.version)

    def rollback(self, name: str) -> int:
        """Undo what came last: a rollout that is under way, else a split of the traffic, else the last promotion; returns the version
        that answers now. Raises Conflict where there is nothing to go back to."""
        self._open()
        made = self.engine.services.registry.rollback(name, by=_BY)
        self.engine.settle(name, made.version)
        return made.version

    def set_alias(self, name: str, alias: str, version: int | str) -> None:
        """Let `alias` stand for a version, as in `fraud@stable`. Raises VersionNotFound, InvalidInput, Conflict."""
        self._open()
        self.engine.services.registry.set_alias(name, alias, version, by=_BY)

    # --- rollouts

    def start_rollout(
        self, name: str, version: int | str, strategy: str = "canary", *, note: str = "", **plan: Any
    ) -> RolloutInfo:
        """Let a version prove itself: `"canary"`, `"ab"`, `"shadow"`, `"blue_green"`, `"immediate"`.

        `plan`: `steps` (`"1%,5%,25%"`), `share`, `seconds`, `samples`, `labels`, `gates` (`{"level": 0.05, "quality": False}`), `at_end`,
        `max_seconds`, `promote_early`. Raises VersionNotFound, InvalidInput naming the option, Conflict."""
        self._open()
        chosen = plan_of(strategy, **_known(plan))
        return rollouts.begin(self.engine.services, name, version, chosen, note=note, by=_BY)[0]

    def rollout(self, name: str) -> RolloutInfo:
        """The newest: `.state .share .verdict .reason .evidence` and its plan. Raises RolloutNotFound."""
        return rollouts.rollout(self.engine.services, name)

    def rollouts(self, name: str) -> list[RolloutInfo]:
        """All of a model, the newest last; without their evidence."""
        return rollouts.history(self.engine.services, name).rollouts

    def pause_rollout(self, name: str, note: str = "") -> RolloutInfo:
        """Everybody stays where they are; only the hard guards act by themselves. Raises RolloutNotFound, Conflict, as the next four."""
        return self._act(name, "pause", note)

    def resume_rollout(self, name: str, note: str = "") -> RolloutInfo:
        """Go on; the pause does not count as time of the step."""
        return self._act(name, "resume", note)

    def promote_rollout(self, name: str, note: str = "") -> RolloutInfo:
        """The new version answers everybody, now."""
        return self._act(name, "promote", note)

    def roll_back_rollout(self, name: str, note: str = "") -> RolloutInfo:
        """The old version answers everybody again; the new one is rejected."""
        return self._act(name, "roll_back", note)

    def stop_rollout(self, name: str, note: str = "") -> RolloutInfo:
        """End it without a verdict: the old version answers everybody, the new one waits as before."""
        return self._act(name, "finish", note)

    def set_traffic(
        self, name: str, weights: Mapping[int | str, float], shadow: int | str | None = None, *, note: str = ""
    ) -> None:
        """Split the traffic by hand: version -> share; they sum to 1. `shadow` is shown a copy and answers nobody. A version that
        is not open yet is tried in a process of its own first, and the live one answers meanwhile. Raises VersionNotFound, InvalidInput, Conflict (a rollout is under way)."""
        self._open()
        self.engine.services.registry.set_traffic(name, weights, shadow, note=note, by=_BY)
        self.engine.services.reconciler.step()

    def traffic(self, name: str) -> dict[int, float]:
        """Version -> its share of the traffic; they sum to 1. Empty while there is no version. Raises ModelNotFound."""
        return weights_of(self.engine.services.registry.get(name))

    # --- what happened

    def timeline(self, name: str, limit: int = 100) -> list[Event]:
        """The newest events of a model, the oldest of them first. Raises ModelNotFound for a name that never was."""
        return self.engine.services.registry.timeline(name, limit=limit, latest=True)

    # --- over HTTP

    def serve(self, *, host: str = "127.0.0.1", port: int = 3000, insecure: bool = False) -> None:
        """Put these models on HTTP and learn from what comes in. Blocks until SIGTERM or Ctrl-C, drains, then closes.

        Call it on the main thread. Raises InvalidInput (a public address without keys or `insecure`), Conflict (the port is taken)."""
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
        where = "in memory" if self.engine.settings.in_memory else self.engine.place
        return f"<Continuum {state}, {len(self._table.current.lanes)} live, {where}>"

    def _open(self) -> None:
        if not self._finalizer.alive:
            raise Closed("this Continuum has been closed")

    def _act(self, name: str, act: Act, note: str) -> RolloutInfo:
        self._open()
        return rollouts.change(self.engine.services, name, act, RolloutChange(note=note), by=_BY)

    def _accept(self, name: str, items: list[Feedback]) -> None:
        self._open()
        outcomes = self.engine.services.intake.accept_now(name, items).outcomes
        for outcome in outcomes:
            if isinstance(outcome, EverloopError):
                raise outcome
        if not outcomes:
            raise Conflict("no example was given")


def _known(plan: dict[str, Any]) -> dict[str, Any]:
    """Raises InvalidInput naming an option that no plan has."""
    known = list(inspect.signature(plan_of).parameters)[1:]
    for option in plan:
        if option not in known:
            near = near_names(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InvalidInput(f"{option}: unknown; {hint}", field=option)
    return plan
