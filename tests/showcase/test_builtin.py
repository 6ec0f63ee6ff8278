"""The models that come with everloop are found by name, wherever a model is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everloop
from everloop.app.build import build_engine
from everloop.app.cli import serve
from everloop.app.cli.group import UsageError
from everloop.app.scoring.models import FittedModel, find_model
from everloop.app.settings import EngineSettings, load_settings
from everloop.core.errors import InvalidInput, MissingExtra
from everloop.runtime.artifact import Trust, read_payload
from everloop.runtime.packaged import read_artifact
from everloop.showcase.builtin import BUILTIN, builtin_path, located
from everloop.showcase.config import ShowcaseConfig


@pytest.mark.parametrize("name", BUILTIN)
def test_each_is_there_small_and_holds_no_code(name: str) -> None:
    path = builtin_path(name)
    assert path.stat().st_size < {"sentiment": 5, "digits": 1, "shop": 1}[name] << 20
    manifest, _ = read_artifact(read_payload(path))
    assert manifest.runtime in ("text", "image", "factors")


def test_another_name_is_told_the_ones_there_are() -> None:
    with pytest.raises(InvalidInput, match="sentiment, digits, shop"):
        located("builtin:sentimet")
    with pytest.raises(UsageError, match="m: there is no built-in model"):
        serve.usable("m", "builtin:sentimet")
    assert located("models/builtin.onnx") == "models/builtin.onnx"


def test_one_that_is_missing_from_the_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILTIN, "shop", tmp_path / "shop.artifact")
    with pytest.raises(InvalidInput, match="install everloop again"):
        builtin_path("shop")


def test_a_program_a_file_and_bulk_scoring_take_the_name(tmp_path: Path) -> None:
    with everloop.Continuum() as models:
        models.register_model("moods", "builtin:sentiment")
        assert models.predict("moods", {"text": "I hate this"}).prediction == "negative"
    (tmp_path / "everloop.toml").write_text("[models]\nmoods = 'builtin:sentiment'\n[showcase]\nsentiment = 'moods'\n")
    found = load_settings(environ={}, cwd=tmp_path)
    assert located(found.models["moods"]) == BUILTIN["sentiment"]
    assert found.engine.showcase.sentiment == "moods"
    with find_model("builtin:shop", storage=tmp_path, trust=Trust(), batch=False) as model:
        assert isinstance(model, FittedModel)
        assert model.manifest.runtime == "factors"


def test_the_flag_serves_them_behind_the_names_of_the_routes() -> None:
    assert serve.showcase(load_settings(environ={}, cwd=Path("/"))) == {}
    said = load_settings(
        {"showcase.builtin": True}, environ={"EVERLOOP_SHOWCASE_RECOMMENDER": "shop"}, cwd=Path("/nowhere")
    )
    assert serve.showcase(said) == {
        "sentiment": BUILTIN["sentiment"],
        "image": BUILTIN["digits"],
        "shop": BUILTIN["shop"],
    }


def test_what_is_not_installed_keeps_one_of_them_away_and_not_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from everloop.runtime import image

    def missing(*_: Any) -> Any:
        raise MissingExtra.of("images", "an image classifier")

    monkeypatch.setattr(image, "load", missing)
    engine = build_engine(EngineSettings())
    engine.start(learning=False)
    try:
        wanted: dict[str, Any] = {"image": BUILTIN["digits"], "shop": BUILTIN["shop"]}
        serve.register_all(engine, wanted, frozenset(wanted))
        assert [record.name for record in engine.services.registry.list()] == ["shop"]
        assert "everloop[images]" in capsys.readouterr().err
        with pytest.raises(MissingExtra, match="image="):
            serve.register_all(engine, wanted)
    finally:
        engine.stop()


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_text", 0), ("max_texts", 0), ("url_timeout_sec", 0.0), ("url_timeout_sec", 1e9), ("url_redirects", -1)],
)
def test_options_that_make_no_sense_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        ShowcaseConfig(**{option: value})
    assert caught.value.field == option
