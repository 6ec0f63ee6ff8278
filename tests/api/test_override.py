"""Who may choose a version: only who has a key, and no key is ever repeated."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from everloop.api.override import OverrideKeys
from everloop.app.settings import ServerSettings, load_settings
from everloop.core.errors import Forbidden, InvalidInput

KEY, OTHER = "0123456789abcdef", "fedcba9876543210-x"


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_who_has_a_key_may(key: str) -> None:
    OverrideKeys([KEY, OTHER]).require(key)


@pytest.mark.parametrize("key", [None, "", "x", KEY[:-1], KEY + " ", KEY.upper(), "\udcff", "é" * 16])
def test_who_has_none_may_not(key: str | None) -> None:
    with pytest.raises(Forbidden) as refused:
        OverrideKeys([KEY, OTHER]).require(key)
    assert refused.value.field == "Everloop-Key"
    assert KEY not in refused.value.message


def test_a_server_without_keys_lets_nobody_and_says_how() -> None:
    for key in (None, "", KEY):
        with pytest.raises(Forbidden, match="EVERLOOP_OVERRIDE_KEYS"):
            OverrideKeys().require(key)


@pytest.mark.parametrize("key", ["", "short", "x" * 15, "é" * 20, "a b\nc" * 5, f" {KEY}"])
def test_a_weak_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ServerSettings(override_keys=(KEY, key))
    assert refused.value.field == "override_keys"
    assert "key 2" in refused.value.message
    assert not key or key not in refused.value.message


def test_keys_come_from_the_environment_and_are_in_no_repr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    found = load_settings(environ={"EVERLOOP_OVERRIDE_KEYS": f"{KEY}, {OTHER}"}, cwd=tmp_path).server
    assert found.override_keys == (KEY, OTHER)
    for text in (repr(found), repr(OverrideKeys(found.override_keys)), caplog.text):
        assert KEY not in text


def test_a_key_of_the_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "everloop.toml").write_text(f'[server]\noverride_keys = "{KEY}"\n')
    with pytest.raises(InvalidInput, match="expected a list of texts") as refused:
        load_settings(environ={}, cwd=tmp_path)
    assert KEY not in refused.value.message
