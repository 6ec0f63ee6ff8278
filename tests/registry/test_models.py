"""`ModelRegistry`: what is registered is found, and production is exactly all of the traffic, whatever is asked for."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from everloop.core.clock import SystemClock
from everloop.core.errors import (
    ArtifactCorrupt,
    Conflict,
    InvalidInput,
    ModelNotFound,
    ModelUntrained,
    NotSupported,
    Untrusted,
    VersionNotFound,
)
from everloop.core.events import EventBus
from everloop.policy.rollout import Plan, Step
from everloop.registry import ModelInfo, ModelRegistry
from everloop.registry.catalog import Registry
from everloop.registry.plans import plan_of
from everloop.registry.rollouts import Rollouts
from everloop.runtime.artifact import Trust, save_model
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts

X = np.random.default_rng(1).normal(size=(10, 2))


def line(slope: float) -> LinearRegression:
    return LinearRegression().fit(X, slope * X[:, 0])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ModelRegistry]:
    with ModelRegistry(tmp_path / "models") as made:
        yield made


@pytest.fixture(params=["folder", "postgres"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelRegistry]:
    storage = tmp_path / "models" if request.param == "folder" else request.getfixturevalue("postgres")
    with ModelRegistry(storage) as made:
        yield made


def shares(registry: ModelRegistry, name: str = "m") -> dict[str, float]:
    return {info.version: info.share for info in registry.get_production_models(name)}


def test_what_is_registered_is_found_and_answers(anywhere: ModelRegistry) -> None:
    registry = anywhere
    first = registry.register(
        line(2.0),
        metrics={"mse": 0.025, "latency_ms": np.float32(45)},
        tags={"type": "line", "rows": 10},
        name="m",
        version="v1.0",
    )
    assert first == "m@1"
    info = registry.get(first)
    assert isinstance(info, ModelInfo)
    assert (info.name, info.version, info.number, info.status) == ("m", "v1.0", 1, "staging")
    assert info.metrics == {"mse": 0.025, "latency_ms": 45.0}
    assert info.tags == {"type": "line", "rows": "10"}
    assert (info.traffic_percentage, info.share, info.shadow, info.onnx_path) == (0, 0, False, None)
    assert info.predict(X).tolist() == pytest.approx((2 * X[:, 0]).tolist())
    with info.load() as model:
        assert model.predict([1.0, 0.0]).tolist() == pytest.approx([2.0])
    assert registry.get("m@v1.0") == info
    second = registry.register(line(3.0), name="m")
    assert registry.get(second).version == "2"
    assert [each.id for each in registry.list_versions("m")] == [first, second]
    assert json.loads(json.dumps(registry.models_index))[first]["metrics"]["mse"] == 0.025


def test_the_folder_is_that_of_a_server(registry: ModelRegistry, tmp_path: Path) -> None:
    from everloop.app.continuum import Continuum

    registry.promote_to_production(registry.register(line(2.0), name="m"))
    with Continuum(data_dir=tmp_path / "models") as server:
        assert server.predict("m", [4.0, 0.0]).prediction == pytest.approx(8.0)
    with ModelRegistry(tmp_path / "models") as other:
        assert other.get("m@1").status == "production"
    kinds = [event.kind for event in registry.registry.timeline("m")]
    assert kinds == ["registered", "published", "promoted", "swapped"]


def test_names(registry: ModelRegistry, tmp_path: Path) -> None:
    assert registry.register(line(1.0)) == "LinearRegression@1"
    assert registry.register(line(1.0), tags={"name": "price"}) == "price@1"
    pipeline = make_pipeline(StandardScaler(), LinearRegression()).fit(X, X[:, 0])
    assert registry.register(pipeline) == "LinearRegression@2"
    path = save_model(line(1.0), tmp_path / "my model.skops")
    assert registry.register(path) == "my-model@1"
    assert registry.register(path.read_bytes()) == "model@1"
    registry.register(line(1.0), name="price", version="v1")
    with pytest.raises(Conflict, match="already"):
        registry.register(line(1.0), name="price", version="v1")
    with pytest.raises(InvalidInput, match="name"):
        registry.register(line(1.0), name="no spaces")


@pytest.mark.parametrize(
    ("model", "more", "error", "told"),
    [
        (None, {}, InvalidInput, "onnx_path"),
        (object(), {}, NotSupported, "give a fitted scikit-learn estimator, boosted trees, a PyTorch module"),
        (LinearRegression, {}, NotSupported, "is a class"),
        (LinearRegression(), {}, InvalidInput, "not fitted"),
        ("nowhere.onnx", {}, InvalidInput, "no file"),
        (b"gibberish", {}, NotSupported, "the model is"),
        (line(1.0), {"status": "live"}, InvalidInput, "staging, production, archived"),
        (line(1.0), {"metrics": {"mse": "low"}}, InvalidInput, "metrics.mse"),
        (line(1.0), {"metrics": {"mse": float("nan")}}, InvalidInput, "metrics.mse"),
        (line(1.0), {"metrics": {"mse": 10**400}}, InvalidInput, "metrics.mse"),
        (line(1.0), {"version": "champion"}, InvalidInput, "which part a version plays"),
        (line(1.0), {"tags": {"": "x"}}, InvalidInput, "tags"),
        (line(1.0), {"note": 5}, InvalidInput, "note"),
        (line(1.0), {"name": 5}, InvalidInput, "name"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing(
    registry: ModelRegistry, model: Any, more: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        registry.register(model, **more)
    assert registry.list_models() == []
    assert registry.registry.names() == []


def test_production_while_a_rollout_is_active_leaves_nothing(registry: ModelRegistry) -> None:
    registry.register(line(1.0), name="m", status="production")
    registry.register(line(2.0), name="m")
    Rollouts(registry.registry).start("m", 2, plan_of("canary"), by="me")
    with pytest.raises(Conflict, match="rollout 1 of 'm'"):
        registry.register(line(3.0), name="m", status="production")
    assert [info.number for info in registry.list_versions("m")] == [1, 2]
    assert [e.kind for e in registry.registry.timeline("m")].count("published") == 2


@pytest.mark.parametrize("model_id", [None, 5, b"m@1"])
def test_what_is_no_id(registry: ModelRegistry, model_id: Any) -> None:
    with pytest.raises(InvalidInput, match="NAME@VERSION"):
        registry.get(model_id)


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:secret@h/db", "POSTGRESQL://me:secret@h/db", "sqlite:///x.db"]
)
def test_a_url_of_another_kind_is_no_folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (url, Path(url)):
        with pytest.raises(InvalidInput, match="postgresql://") as refused:
            ModelRegistry(place)
        assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_needs_trust(registry: ModelRegistry, tmp_path: Path) -> None:
    from river import linear_model

    model = linear_model.LinearRegression()
    model.learn_one({"a": 1.0, "b": 2.0}, 3.0)
    with pytest.raises(Untrusted):
        registry.register(model)
    with ModelRegistry(tmp_path / "trusting", trust_pickle=True) as trusting:
        info = trusting.get(trusting.register(model))
        assert info.predict([{"a": 1.0, "b": 2.0}])[0] == pytest.approx(model.predict_one({"a": 1.0, "b": 2.0}))


def test_onnx_stands_for_a_model_that_cannot_be_kept(registry: ModelRegistry, tmp_path: Path) -> None:
    from skl2onnx import to_onnx

    class Lstm:
        """What is no estimator."""

    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(line(2.0), X[:1].astype(np.float32)).SerializeToString())
    info = registry.get(registry.register(Lstm(), onnx_path=path))
    assert info.name == "Lstm"
    assert info.onnx_path is not None
    assert Path(info.onnx_path).read_bytes() == path.read_bytes()
    assert info.predict(X.astype(np.float32)).tolist() == pytest.approx((2 * X[:, 0]).tolist(), abs=1e-4)
    with pytest.raises(InvalidInput, match="no ONNX model"):
        registry.register(None, onnx_path=save_model(line(1.0), tmp_path / "m.skops"))
    Path(info.onnx_path).write_bytes(b"damaged")
    with pytest.raises(ArtifactCorrupt):
        registry.promote_to_production(info.id)
    assert registry.get_production_models() == []


def test_the_seeds_workflow(registry: ModelRegistry) -> None:
    """One version alone: asked for 5, 50, 100 %, it answers everybody, as there is nobody else."""
    model_id = registry.register(line(1.0), name="m")
    assert registry.promote_to_production(model_id, traffic_percentage=0.05).traffic_percentage == 0.05
    assert registry.get(model_id).share == 1.0
    assert registry.set_traffic_percentage(model_id, 0.5).traffic_percentage == 0.5
    assert registry.set_traffic_percentage(model_id, 1.0).traffic_percentage == 1.0
    assert [info.id for info in registry.get_production_models()] == [model_id]
    told = [event.message for event in registry.registry.timeline("m") if event.kind == "traffic"]
    assert told[1:] == [
        "version 1 is to answer 50 %; it answers 100 %, for there is nobody else",
        "version 1 is to answer 100 %",
    ]


def test_growing_one_shrinks_the_others(anywhere: ModelRegistry) -> None:
    registry = anywhere
    ids = [registry.register(line(float(i)), name="m", version=f"v{i}", status="staging") for i in range(1, 4)]
    registry.promote_to_production(ids[0])
    registry.promote_to_production(ids[1], 0.05)
    assert shares(registry) == {"v1": 0.95, "v2": 0.05}
    registry.set_traffic_percentage(ids[1], 0.6)
    assert shares(registry) == {"v1": 0.4, "v2": 0.6}
    registry.promote_to_production(ids[2], 0.5)
    assert shares(registry) == {"v1": 0.2, "v2": 0.3, "v3": 0.5}
    registry.set_traffic_percentage(ids[2], 0.1)
    after = {info.version: info for info in registry.get_production_models()}
    assert (after["v1"].share, after["v1"].traffic_percentage) == (0.6, 0.2), (
        "what nobody asks for, the live one answers"
    )
    assert sum(info.traffic_percentage for info in after.values()) <= 1
    assert registry.archive_model(ids[0]).status == "archived"
    assert sum(shares(registry).values()) == 1
    registry.set_traffic_percentage(ids[1], 1.0)
    assert shares(registry) == {"v2": 1.0}
    assert [info.status for info in registry.list_versions("m")] == ["archived", "production", "staging"]


def test_two_canaries_of_five_percent_stay_so(registry: ModelRegistry) -> None:
    first, second = (registry.register(line(float(i)), name="m") for i in (1, 2))
    registry.promote_to_production(first, 0.05)
    registry.promote_to_production(second, 0.05)
    claimed = [info.traffic_percentage for info in registry.list_versions("m")]
    assert claimed == [0.05, 0.05]
    assert shares(registry) == {"1": 0.95, "2": 0.05}
    registry.registry.promote("m", 1)
    assert registry.get(first).traffic_percentage == 1.0, "a share that was changed otherwise is what it is"


def test_what_production_refuses(registry: ModelRegistry) -> None:
    first = registry.register(line(1.0), name="m")
    with pytest.raises(Conflict, match="not in production"):
        registry.set_traffic_percentage(first, 0.5)
    with pytest.raises(InvalidInput, match="above 0"):
        registry.promote_to_production(first, 0.0)
    with pytest.raises(InvalidInput, match=r"0\.05 is 5 %"):
        registry.promote_to_production(first, 5)
    registry.promote_to_production(first)
    with pytest.raises(Conflict, match="only one"):
        registry.set_traffic_percentage(first, 0)
    with pytest.raises(Conflict, match="live"):
        registry.archive_model(first)
    second = registry.register(line(2.0), name="m")
    Rollouts(registry.registry).start("m", 2, Plan("canary", (Step(0.1),)), by="test")
    with pytest.raises(Conflict, match="rollout"):
        registry.promote_to_production(second, 0.5)
    assert registry.get(second).share == 0.1


def test_the_best(registry: ModelRegistry) -> None:
    assert registry.get_best("mse") is None
    for version, (mse, r2) in enumerate([(3.0, 0.1), (1.0, 0.8), (2.0, 0.9)], 1):
        registry.register(line(1.0), {"mse": mse, "r2": r2, "magic": mse}, name="a" if version < 3 else "b")
    registry.register(line(1.0), name="a")

    def best(*args: Any, **more: Any) -> str | None:
        found = registry.get_best(*args, **more)
        return found and found.id

    assert (best("mse"), best("r2"), best("r2", "a")) == ("a@2", "b@1", "a@2")
    assert best("magic", higher_is_better=True) == "a@1"
    assert best("mse", status="production") is None
    registry.archive_model("a@2")
    assert best("mse") == "b@1"
    assert best("mse", status="archived") == "a@2"
    with pytest.raises(InvalidInput, match="higher_is_better"):
        best("magic")
    with pytest.raises(ModelNotFound):
        best("mse", "nobody")


def test_the_default(registry: ModelRegistry) -> None:
    assert registry.get_default() is None
    registry.register(line(1.0), name="a")
    with pytest.raises(ModelUntrained):
        registry.get("a")
    registry.promote_to_production("a@1")
    registry.register(line(2.0), name="a")
    assert registry.get_default() == registry.get("a") == registry.get("a@1")
    registry.register(line(3.0), name="b")
    assert registry.get_default() is None
    registry.set_default("b@1")
    registry.set_default("a@2")
    for found in (registry.get_default(), registry.get("a")):
        assert found is not None
        assert (found.id, found.share) == ("a@2", 0.0)
    assert registry.get_default("b") is None
    registry.registry.set_alias("b", "default", 1)  # as if another process had died half-way
    late = registry.get_default()
    assert late is not None
    assert late.id == "b@1"


def test_deleting(anywhere: ModelRegistry) -> None:
    registry = anywhere
    ids = [registry.register(line(float(i)), name="m", version=f"v{i}") for i in range(1, 4)]
    registry.promote_to_production(ids[0])
    registry.set_default(ids[1])
    with pytest.raises(Conflict):
        registry.delete(ids[0])
    digest = registry.get(ids[1]).digest
    registry.delete(ids[1])
    with pytest.raises(VersionNotFound):
        registry.get(ids[1])
    assert registry.get("m").id == ids[0], "the alias went with it"
    with pytest.raises(ArtifactCorrupt):
        registry._stores.artifacts.get(digest)  # type: ignore[union-attr]
    assert registry.register(line(5.0), name="m") == "m@4", "numbers are never used again"
    assert [e.kind for e in registry.registry.timeline("m") if e.version == 2] == [
        "published",
        "aliased",
        "archived",
        "deleted",
    ]
    registry.delete(ids[2])
    registry.delete("m@4")
    registry.delete(ids[0])
    assert registry.list_models() == []


def test_deleting_the_last_one_while_another_comes(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the deed somebody registers: the model stays, with what is new."""
    first = registry.register(line(1.0), name="m")
    versions = registry.registry.versions

    def look(name: str) -> Any:
        seen = versions(name)
        monkeypatch.undo()
        registry.register(line(2.0), name="m", status="production")
        return seen

    monkeypatch.setattr(registry.registry, "versions", look)
    registry.delete(first)
    assert [info.number for info in registry.list_versions("m")] == [2]


class Columns:
    """What frames of other libraries than pandas have in common with its own."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self.columns = list(frame.columns)

    def __getitem__(self, names: list[str]) -> Columns:
        return Columns(self._frame[names])

    def to_numpy(self) -> Any:
        return self._frame.to_numpy()


def test_frames_arrays_and_rows(registry: ModelRegistry) -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    info = registry.get(registry.register(LinearRegression().fit(frame, 2 * frame["a"])))
    expected = pytest.approx((2 * X[:, 0]).tolist())
    mixed = frame[["b", "a"]].assign(more="text")
    for given in (X, X.tolist(), frame, mixed, Columns(mixed), [{"b": b, "a": a} for a, b in X], X.astype(object)):
        assert info.predict(given).tolist() == expected
    assert info.predict({"a": 3.0, "b": 0.0}).tolist() == pytest.approx([6.0])
    for wrong in (pd.DataFrame({"a": [1.0]}), X[:, :1].tolist(), [[1.0, None]], [["x", 1.0]]):
        with pytest.raises(InvalidInput):
            info.predict(wrong)
    classifier = registry.get(registry.register(LogisticRegression().fit(X, X[:, 0] > 0)))
    with classifier.load() as model:
        assert model.classes == [False, True]
        probabilities = model.predict_proba(X)
        assert probabilities is not None
        assert probabilities.shape == (10, 2)


def test_an_engines_registry_stays_the_engines() -> None:
    journal = MemoryJournal(clock=SystemClock())
    engine = Registry(MemoryCatalog(journal), MemoryArtifacts(), journal, EventBus(), SystemClock(), Trust())
    with ModelRegistry(engine) as registry:
        registry.promote_to_production(registry.register(line(2.0), name="m"))
    assert engine.live("m") is not None
    journal.close()


def test_a_registry_that_is_forgotten_closes_itself(tmp_path: Path) -> None:
    before = threading.active_count()
    ModelRegistry(tmp_path).register(line(1.0))
    gc.collect()
    assert threading.active_count() == before


class Production(RuleBasedStateMachine):
    """Whatever is asked for: shares sum to exactly 1, claims to at most 1, and nobody has less than was asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = MemoryJournal(clock=SystemClock())
        self.registry = ModelRegistry(
            Registry(MemoryCatalog(self.journal), MemoryArtifacts(), self.journal, EventBus(), SystemClock(), Trust())
        )
        self.model = line(1.0)
        self.payload: Any = None

    def teardown(self) -> None:
        self.journal.close()

    def ids(self) -> list[str]:
        return [info.id for info in self.registry.list_models()]

    @precondition(lambda self: len(self.ids()) < 4)
    @rule()
    def register(self) -> None:
        from everloop.runtime.packing import pack

        if self.payload is None:
            self.payload = pack(self.model, trust=Trust())[1]
        self.registry.register(self.payload, name="m")

    @precondition(lambda self: self.ids())
    @rule(data=st.data(), share=st.integers(1, 100))
    def promote(self, data: st.DataObject, share: int) -> None:
        chosen = data.draw(st.sampled_from(self.ids()))
        assert self.registry.promote_to_production(chosen, share / 100).traffic_percentage == pytest.approx(share / 100)

    @precondition(lambda self: self.registry.get_production_models())
    @rule(data=st.data(), share=st.integers(0, 100))
    def set_traffic(self, data: st.DataObject, share: int) -> None:
        production = [info.id for info in self.registry.get_production_models()]
        chosen = data.draw(st.sampled_from(production))
        if share == 0 and len(production) == 1:
            with pytest.raises(Conflict):
                self.registry.set_traffic_percentage(chosen, 0)
        else:
            self.registry.set_traffic_percentage(chosen, share / 100)

    @precondition(lambda self: len(self.ids()) > 1)
    @rule(data=st.data())
    def archive(self, data: st.DataObject) -> None:
        chosen = self.registry.get(data.draw(st.sampled_from(self.ids())))
        if chosen.share == 1:
            with pytest.raises(Conflict):
                self.registry.archive_model(chosen.id)
        else:
            assert self.registry.archive_model(chosen.id).status == "archived"

    @invariant()
    def adds_up(self) -> None:
        production = self.registry.get_production_models()
        if not production:
            return
        assert sum(round(info.share * 10_000) for info in production) == 10_000
        assert sum(info.traffic_percentage for info in production) <= 1 + 1e-9
        assert all(0 <= info.traffic_percentage <= info.share + 1e-4 for info in production)


TestProduction = Production.TestCase
TestProduction.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
