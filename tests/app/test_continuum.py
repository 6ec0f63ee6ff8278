"""The in-process face: what a program sees of registering, predicting, learning, swapping, keeping."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import everloop
from everloop.core.errors import (
    Closed,
    Conflict,
    InvalidInput,
    ModelNotFound,
    ModelUntrained,
    NotSupported,
    Overloaded,
    PredictionNotFound,
    Untrusted,
)
from everloop.registry import ModelRegistry


def line(models: everloop.Continuum, name: str, slope: float, n: int = 60, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, n)
    y = slope * x + rng.normal(0, 0.1, n)
    models.add_training_examples(name, [[float(v)] for v in x], [float(v) for v in y])


def test_train_then_predict_names_the_version() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        line(models, "m", 3.0)
        info = models.train_model("m")
        assert (info.name, info.version, info.is_training) == ("m", 1, False)
        answer = models.predict("m", [4.0])
        assert answer.model_version == 1
        assert answer.prediction == pytest.approx(12.0, abs=0.2)
        assert answer.request_id


def test_examples_may_be_arrays() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        X = np.random.default_rng(0).normal(size=(60, 2))
        models.add_training_examples("m", X, X @ [2.0, -1.0])
        models.train_model("m")
        assert models.predict("m", [1.0, 1.0]).prediction == pytest.approx(1.0, abs=0.05)


def test_as_many_targets_as_rows() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        with pytest.raises(InvalidInput, match="got 3 rows and 2 targets"):
            models.add_training_examples("m", [[1.0], [2.0], [3.0]], [1.0, 2.0])
        assert models.get_model_info("m").stats["examples"] == 0


def test_an_answer_shows_what_a_user_needs_of_it() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        line(models, "m", 3.0)
        models.train_model("m")
        one, many = models.predict("m", [4.0]), models.predict_batch("m", [[4.0], [5.0]])
    assert repr(one) == f"Prediction(prediction={one.prediction!r}, model_version=1, request_id={one.request_id!r})"
    assert repr(many) == (
        f"PredictionBatch(predictions={many.predictions!r}, model_version=1, request_id={many.request_id!r})"
    )


def test_a_model_without_a_version_says_so() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        assert models.get_model_info("m").version is None
        with pytest.raises(ModelUntrained, match="no version yet"):
            models.predict("m", [1.0])


def test_unknown_names_propose_near_ones_and_are_key_errors() -> None:
    with everloop.Continuum() as models:
        models.register_model("fraud", "linear")
        with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
            models.predict("fruad", [1.0])
        with pytest.raises(KeyError):
            models.get_model_info("nothing")
        with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
            models.timeline("fruad")
        with pytest.raises(NotSupported, match="linear"):
            models.register_model("other", "liner")


def test_the_same_name_for_another_model_is_a_conflict() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        models.register_model("m", "linear")
        with pytest.raises(Conflict):
            models.register_model("m", "ridge")


@pytest.mark.parametrize(
    ("learning", "field"),
    [
        ({"min_sample": 5}, "learning.min_sample"),
        ({"min_samples": "many"}, "learning.min_samples"),
        ({"min_samples": 1}, "learning.min_samples"),
        ({"window": 50}, "learning.window"),
    ],
)
def test_a_wrong_override_is_named_and_nothing_is_registered(learning: dict[str, object], field: str) -> None:
    with everloop.Continuum() as models:
        with pytest.raises(InvalidInput) as refused:
            models.register_model("m", "linear", learning=learning)
        assert refused.value.field == field
        assert models.list_models() == []


def test_features_by_name_in_lists_and_in_arrays_agree() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        rng = np.random.default_rng(0)
        for a, b in rng.uniform(0, 1, (40, 2)):
            models.add_training_example("m", {"a": a, "b": b}, 2 * a - b)
        models.train_model("m")
        wanted = models.predict("m", {"a": 0.5, "b": 0.25}).prediction
        assert models.predict("m", {"b": 0.25, "a": 0.5}).prediction == wanted
        assert models.predict("m", [0.5, 0.25]).prediction == wanted
        assert models.predict("m", np.array([0.5, 0.25])).prediction == wanted
        assert models.predict_batch("m", [{"a": 0.5, "b": 0.25}, [0.5, 0.25]]).predictions == pytest.approx(
            [wanted] * 2
        )


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([1.0], "expected 2 features"),
        ([1.0, 2.0, 3.0], "expected 2 features"),
        ({"a": 1.0}, "b: missing"),
        ({"a": 1.0, "bb": 1.0}, "bb"),
        ([1.0, "two"], r"features.b: expected a finite number"),
        ([1.0, float("nan")], "features.b"),
        ([1.0, float("inf")], "features.b"),
        ([1.0, None], "features.b"),
        ([1.0, [2.0]], "features.b"),
        ("ab", "expected a list"),
        (None, "expected a list"),
        ([[1.0, 2.0]], "expected 2 features"),
        (np.array([[1.0, 2.0]]), "shape"),
        ([1.0, 2j], "features.b"),
    ],
)
def test_bad_features_are_refused_by_name(features: object, said: str) -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        for i in range(20):
            models.add_training_example("m", {"a": float(i), "b": float(i % 3)}, float(i))
        models.train_model("m")
        with pytest.raises(InvalidInput, match=said):
            models.predict("m", features)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="features" if features is None else said):
            models.add_training_example("m", features, 1.0)  # type: ignore[arg-type]


def test_a_fitted_estimator_answers_at_once_and_is_not_touched() -> None:
    from sklearn.linear_model import LinearRegression

    X = np.arange(20.0).reshape(-1, 2)
    estimator = LinearRegression().fit(X, X.sum(axis=1))
    before = estimator.coef_.copy()
    with everloop.Continuum() as models:
        models.register_model("m", estimator)
        answer = models.predict("m", [3.0, 4.0])
        assert (round(answer.prediction, 6), answer.model_version) == (7.0, 1)
        for row in np.random.default_rng(0).uniform(0, 1, (50, 2)):
            models.add_training_example("m", list(row), float(5 * row[0]))
        models.train_model("m")
        assert models.get_model_info("m").version == 2
    assert (estimator.coef_ == before).all()


def test_a_classifier_answers_with_its_labels() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "logistic")
        rng = np.random.default_rng(0)
        for x in rng.normal(0, 1, (200, 2)):
            models.add_training_example("m", list(x), "big" if x.sum() > 0 else "small")
        models.train_model("m")
        assert models.predict("m", [2.0, 2.0]).prediction == "big"
        assert models.predict("m", [-2.0, -2.0]).prediction == "small"


def test_a_label_finds_its_prediction_by_request_id() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        line(models, "m", 2.0)
        models.train_model("m")
        one = models.predict("m", [3.0])
        many = models.predict_batch("m", [[1.0], [2.0]])
        before = models.get_model_info("m").stats["examples"]
        models.feedback("m", one.request_id, 6.1)
        models.feedback("m", many.request_id, 4.1, index=1)
        models.feedback("m", one.request_id, 6.1)
        assert models.get_model_info("m").stats["examples"] == before + 2
        with pytest.raises(Conflict):
            models.feedback("m", one.request_id, 7.0)
        with pytest.raises(PredictionNotFound):
            models.feedback("m", "0123456789a-ffff", 1.0)


def test_the_queue_of_unlearned_examples_is_bounded() -> None:
    with everloop.Continuum(everloop.LearningConfig(min_samples=2, max_queue_size=5)) as models:
        models.register_model("m", "linear")
        line(models, "m", 1.0, n=5)
        with pytest.raises(Overloaded, match="max_queue_size"):
            models.add_training_example("m", [1.0], 1.0)


def test_rollback_and_promote_change_who_answers() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        line(models, "m", 1.0)
        models.train_model("m")
        line(models, "m", 5.0, n=400)
        models.train_model("m")
        assert models.predict("m", [1.0]).model_version == 2
        assert models.rollback("m") == 1
        assert models.predict("m", [1.0]).model_version == 1
        models.promote("m", 2)
        assert models.predict("m", [1.0]).model_version == 2
        assert [v.version for v in models.versions("m")] == [1, 2]
        kinds = [event.kind for event in models.timeline("m")]
        assert kinds.count("swapped") == 4
        assert "rolled_back" in kinds


def test_unregistered_models_are_gone_and_numbers_are_not_reused() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        line(models, "m", 1.0)
        models.train_model("m")
        models.unregister_model("m")
        assert models.list_models() == []
        with pytest.raises(ModelNotFound):
            models.predict("m", [1.0])
        models.register_model("m", "linear")
        line(models, "m", 2.0)
        assert models.train_model("m").version == 2


def test_a_folder_brings_everything_back(tmp_path: Path) -> None:
    with everloop.Continuum(data_dir=tmp_path) as models:
        models.register_model("m", "linear")
        line(models, "m", 2.0)
        models.train_model("m")
        answer = models.predict("m", [2.5])
    with everloop.Continuum(data_dir=tmp_path) as models:
        again = models.predict("m", [2.5])
        assert (again.prediction, again.model_version) == (answer.prediction, answer.model_version)
        models.feedback("m", answer.request_id, 5.0)
        assert models.get_model_info("m").stats["examples"] == 61


def test_save_writes_a_folder_that_loads(tmp_path: Path) -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        line(models, "m", 2.0)
        models.train_model("m")
        models.save(tmp_path / "copy")
        with pytest.raises(Conflict):
            models.save(tmp_path / "copy")
        wanted = models.predict("m", [2.5]).prediction
    with everloop.Continuum(data_dir=tmp_path / "copy") as models:
        assert models.predict("m", [2.5]).prediction == wanted
        assert models.get_model_info("m").stats["examples"] == 60


def test_save_keeps_what_versions_are_called_and_who_answers(tmp_path: Path) -> None:
    with everloop.Continuum() as models:
        registry = ModelRegistry(models.engine.services.registry)
        for slope in (1.0, 2.0, 3.0, 4.0):
            model = LinearRegression().fit([[0.0], [1.0]], [0.0, slope])
            registry.register(model, name="m", version=f"v{slope:g}", tags={"by": "me"}, note="fine")
        registry.promote_to_production("m@v1")
        registry.promote_to_production("m@v3")
        registry.promote_to_production("m@v4", 0.25)
        registry.registry.set_alias("m", "best", 3)
        registry.delete("m@v2")
        registry.archive_model("m@v1")
        registry.registry.collect_garbage(archived=True)
        wanted, record = registry.list_versions("m"), registry.registry.get("m")
        models.save(tmp_path)
    with everloop.Continuum(data_dir=tmp_path) as models:
        registry = ModelRegistry(models.engine.services.registry)
        assert registry.list_versions("m") == wanted
        assert registry.registry.get("m") == record
        assert models.predict("m", [1.0]).prediction == pytest.approx(3.0, abs=1.1)
        assert "saved with 3 versions" in [event.message for event in registry.registry.timeline("m")]
        assert registry.register(LinearRegression().fit([[0.0], [1.0]], [0.0, 5.0]), name="m") == "m@5"


def test_a_version_that_needs_trust_says_so_when_nobody_gave_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from river import linear_model

    from everloop.app.cli.serve import _model_lines

    with everloop.Continuum(data_dir=tmp_path, trust_pickle=True) as models:
        models.register_model("r", linear_model.LinearRegression())
        models.add_training_examples("r", [{"x": float(i)} for i in range(40)], [2.0 * i for i in range(40)])
        models.train_model("r")
    with everloop.Continuum(data_dir=tmp_path) as models:
        with pytest.raises(Untrusted, match=r"version 1 of model 'r' cannot be opened: .*trust_pickle"):
            models.predict("r", {"x": 1.0})
        with models.serving() as url:
            answer = httpx.post(f"{url}/v1/models/r/predict", json={"features": {"x": 1.0}})
            assert (answer.status_code, answer.json()["code"]) == (403, "untrusted")
            assert "trust_pickle" in answer.json()["detail"]
            _model_lines(models.engine, models.engine.services.registry.list())
    told = capsys.readouterr().err
    assert "r: version 1 cannot be opened: " in told
    assert "Failure(" not in told


def test_river_models_need_trust_on_disk_and_none_in_memory(tmp_path: Path) -> None:
    from river import linear_model

    with everloop.Continuum() as models:
        models.register_model("m", linear_model.LinearRegression())
        line(models, "m", 1.0)
        models.train_model("m")
        assert isinstance(models.predict("m", [1.0]).prediction, float)
    with everloop.Continuum(data_dir=tmp_path) as models, pytest.raises(Untrusted, match="trust_pickle"):
        models.register_model("m", linear_model.LinearRegression())


def test_closed_is_closed() -> None:
    models = everloop.Continuum()
    models.register_model("m", "linear")
    models.close()
    models.close()
    with pytest.raises(Closed):
        models.predict("m", [1.0])
    with pytest.raises(Closed):
        models.add_training_example("m", [1.0], 1.0)
    with pytest.raises(Closed):
        models.start_continuous_learning()


def test_starting_twice_is_one_loop_and_outlives_its_starter() -> None:
    with everloop.Continuum(everloop.LearningConfig(min_samples=10, interval_sec=0)) as models:
        models.register_model("m", "linear")
        starter = threading.Thread(target=models.start_continuous_learning)
        starter.start()
        starter.join(10)
        models.start_continuous_learning()
        assert sum("learn" in thread.name for thread in threading.enumerate()) == 1
        swapped = threading.Event()
        models.engine.services.bus.subscribe(lambda event: swapped.set() if event.kind == "swapped" else None)
        line(models, "m", 2.0)
        assert swapped.wait(30)
        assert models.predict("m", [1.0]).model_version >= 1
        models.stop_continuous_learning()
        assert not any("learn" in thread.name for thread in threading.enumerate())


def test_a_configuration_changed_later_takes_effect() -> None:
    config = everloop.LearningConfig(min_samples=1000)
    with everloop.Continuum(config) as models:
        models.register_model("m", "linear")
        models.start_continuous_learning()
        swapped = threading.Event()
        models.engine.services.bus.subscribe(lambda event: swapped.set() if event.kind == "swapped" else None)
        line(models, "m", 2.0, n=50)
        assert models.get_model_info("m").version is None
        config.min_samples = 20
        models.add_training_example("m", [1.0], 2.0)
        assert swapped.wait(30)


def test_eight_threads_see_no_torn_pair_through_swaps() -> None:
    with everloop.Continuum() as models:
        models.register_model("m", "linear")
        models.add_training_examples("m", [[float(i)] for i in range(20)], [float(i) for i in range(20)])
        models.train_model("m")
        truth = {1: models.predict("m", [10.0]).prediction}
        for slope in (2.0, 3.0):
            models.add_training_examples("m", [[float(i)] for i in range(400)], [slope * i for i in range(400)])
            version = models.train_model("m").version
            assert version is not None
            truth[version] = models.predict("m", [10.0]).prediction
        stop = threading.Event()
        wrong: list[object] = []

        def ask() -> None:
            while not stop.is_set():
                answer = models.predict("m", [10.0])
                if truth[answer.model_version] != answer.prediction:
                    wrong.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(60):
            models.promote("m", 1 + turn % 3)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert wrong == []
