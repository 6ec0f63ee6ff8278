"""Options come from flags, then the environment, then files, then defaults; whatever is wrong is told with its source."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest

from everloop.app.security import is_local
from everloop.app.settings import SECTIONS, EngineSettings, ServerSettings, load_settings, options
from everloop.core.errors import InvalidInput


def load(cwd: Path, text: str = "", environ: dict[str, str] | None = None, **more: Any) -> Any:
    if text:
        (cwd / "everloop.toml").write_text(text)
    return load_settings(more.pop("flags", None), environ=environ or {}, cwd=cwd, **more)


def test_defaults_are_those_of_the_declarations(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert (found.engine, found.server) == (EngineSettings(), ServerSettings())
    assert found.files == ()


def test_the_stronger_source_wins(tmp_path: Path) -> None:
    text = "[server]\nport = 1001\nhost = 'localhost'\ngrace = 1\n[learning]\nmin_samples = 7"
    found = load(
        tmp_path,
        text,
        {"EVERLOOP_PORT": "1002", "EVERLOOP_HOST": "::1"},
        flags={"server.port": 1003, "server.host": None},
    )
    assert (found.server.port, found.server.host, found.server.grace) == (1003, "::1", 1.0)
    assert found.engine.learning.min_samples == 7


def test_the_file_here_is_stronger_than_the_one_of_the_user(tmp_path: Path) -> None:
    home = tmp_path / "config"
    (home / "everloop").mkdir(parents=True)
    (home / "everloop" / "everloop.toml").write_text("[server]\nport = 1\ngrace = 2")
    found = load(tmp_path, "[server]\nport = 9", {"XDG_CONFIG_HOME": str(home)})
    assert (found.server.port, found.server.grace) == (9, 2.0)
    assert [path.parent.name for path in found.files] == [tmp_path.name, "everloop"]


def test_a_file_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[server]\ngrace = 3")
    found = load(tmp_path, "[server]\nport = 9", config=Path("other.toml"))
    assert (found.server.port, found.server.grace) == (3000, 3.0)
    assert load(tmp_path, environ={"EVERLOOP_CONFIG": "other.toml"}).server.grace == 3.0
    with pytest.raises(InvalidInput, match="no configuration file"):
        load(tmp_path, config=Path("nowhere.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", r"no option 'server.prot'; did you mean 'server.port'\?"),
        ("[sever]\nport = 1", r"no section or option 'sever'; did you mean 'server'\?"),
        ("port = 1", r"'port'; write it under \[server\]"),
        ("server = 1", "is a section"),
        ("[server]\nport = 'x'", "server.port: expected a whole number, got 'x'"),
        ("[server]\nport = '3000'", "server.port: expected a whole number"),
        ("[server]\nport = 70000", "port: expected between 0 and 65535"),
        ("[server]\nnotice = -1", "notice: expected between 0 and 3600 seconds"),
        ("[server]\nlog_level = 'loud'", "one of 'debug', 'info'"),
        ("[security]\nadmin_keys = ['short']", "admin_keys: key 1 has 5 characters"),
        ("[security]\ntls_key = 'key.pem'", "tls_key: expected nothing without tls_cert"),
        ("[security]\ncors_origins = ['https://app.example/']", "cors_origins: expected origins like"),
        ("[security]\nallowed_hosts = ['a b']", "allowed_hosts: expected names"),
        ("[security]\nadmin_port = 3000", "admin_port: expected another one than port"),
        ("[engine]\nrecord = 2", "record: expected between 0 and 1"),
        ("[engine]\nretention_bytes = 5", "retention_bytes: expected at least"),
        ("[engine]\ntrust_types = 'a'", "trust_types: expected a list of texts"),
        ("[learning]\nmin_samples = 1", "min_samples: expected at least 2"),
        ("[limits]\nmax_rows = 0", "max_rows"),
        ("[models]\nchurn = 1", "models.churn: expected the path"),
        ("[server\nport = 1", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){said}"):
        load(tmp_path, text)


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    found = load(tmp_path, "[engine]\ndata_dir = 'data'\n[models]\nchurn = 'churn.onnx'")
    assert found.engine.data_dir == tmp_path / "data"
    assert found.models == {"churn": tmp_path / "churn.onnx"}


def test_nothing_said_means_none(tmp_path: Path) -> None:
    environ = {"EVERLOOP_DATA_DIR": "", "EVERLOOP_RETENTION_AGE_SEC": "never"}
    found = load(tmp_path, "[engine]\ndata_dir = 'data'", environ, defaults={"engine.data_dir": Path("d")})
    assert found.engine.data_dir is None
    assert found.engine.retention_age_sec is None


def test_the_default_of_the_command_is_weaker_than_a_file(tmp_path: Path) -> None:
    assert load(tmp_path, defaults={"engine.data_dir": Path("d")}).engine.data_dir == Path("d")
    found = load(tmp_path, "[engine]\ndata_dir = 'x'", defaults={"engine.data_dir": Path("d")})
    assert found.engine.data_dir == tmp_path / "x"


def test_a_misspelt_variable_is_a_warning_and_a_service_link_is_neither(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        environ={
            "EVERLOOP_PROT": "1",
            "EVERLOOP_PORT": "tcp://10.0.0.1:3000",
            "EVERLOOP_PORT_3000_TCP_ADDR": "10.0.0.1",
            "EVERLOOP_SERVICE_HOST": "10.0.0.1",
            "EVERLOOP_URL": "http://x",
        },
    )
    assert found.server.port == 3000
    assert len(found.warnings) == 1
    assert "did you mean 'EVERLOOP_PORT'" in found.warnings[0]


def test_a_wrong_value_of_a_variable_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"EVERLOOP_PORT: server.port: expected a whole number, got 'x'"):
        load(tmp_path, environ={"EVERLOOP_PORT": "x"})


@pytest.mark.parametrize("said", ["yes", "TRUE", "on", "1"])
def test_switches_in_the_environment(tmp_path: Path, said: str) -> None:
    assert load(tmp_path, environ={"EVERLOOP_TRUST_PICKLE": said}).engine.trust_pickle is True


def test_assignments_reach_every_option(tmp_path: Path) -> None:
    found = load(tmp_path, assignments=("learning.rule=fresh", "limits.max_rows=5", "engine.trust_types=a.B, c.D"))
    assert found.engine.learning.rule == "fresh"
    assert found.engine.limits.max_rows == 5
    assert found.engine.trust_types == ("a.B", "c.D")
    with pytest.raises(InvalidInput, match=r"--set: there is no option 'learning.rul'; did you mean"):
        load(tmp_path, assignments=("learning.rul=fresh",))
    with pytest.raises(InvalidInput, match=r"expected section.name=value"):
        load(tmp_path, assignments=("fresh",))


def test_every_option_has_one_name_in_every_source(tmp_path: Path) -> None:
    """Whatever a room declares can be said in the file and in the environment, without a line here."""
    for name, kind, default in options():
        section, _, key = name.partition(".")
        if default is None or isinstance(default, tuple):
            continue
        kinds = typing.get_args(kind)
        text = str(default).lower() if isinstance(default, bool) else str(default)
        quoted = f'"{text}"' if isinstance(default, str) and (kind is str or kinds) else text
        short = key if section in ("server", "engine", "security") else f"{section}_{key}"
        from_file = load(tmp_path, f"[{section}]\n{key} = {quoted}")
        from_variable = load(tmp_path, "", {f"EVERLOOP_{short.upper()}": text})
        assert from_file == load_settings(environ={}, cwd=tmp_path)
        (tmp_path / "everloop.toml").unlink()
        assert from_variable.warnings == ()
        assert (
            (from_file.engine, from_file.server)
            == (from_variable.engine, from_variable.server)
            == (
                EngineSettings(),
                ServerSettings(),
            )
        )
    assert {name.partition(".")[0] for name, _, _ in options()} == set(SECTIONS)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_which_addresses_others_can_reach(host: str, local: bool) -> None:
    assert is_local(host) is local


class TestDatabase:
    URL = "postgresql://loop:hunter2@db.example/loop"

    def test_it_takes_the_place_of_the_default_data_folder(self, tmp_path: Path) -> None:
        defaults = {"engine.data_dir": Path("everloop-data")}
        assert load(tmp_path, defaults=defaults).engine.data_dir == Path("everloop-data")
        for more in (
            {"environ": {"EVERLOOP_DATABASE": self.URL}},
            {"flags": {"engine.database": self.URL}},
            {"assignments": (f"engine.database={self.URL}",)},
            {"text": f"[engine]\ndatabase = '{self.URL}'"},
        ):
            engine = load(tmp_path, **more, defaults=defaults).engine
            assert (engine.database, engine.data_dir, engine.in_memory) == (self.URL, None, False)
            assert "hunter2" not in repr(engine)

    def test_it_and_a_data_folder_exclude_each_other(self, tmp_path: Path) -> None:
        environ = {"EVERLOOP_DATABASE": self.URL}
        with pytest.raises(InvalidInput, match="either in a database or in the data folder shop") as refused:
            load(tmp_path, environ=environ, flags={"engine.data_dir": Path("shop")})
        assert "hunter2" not in str(refused.value)
        for taken_back in ("engine.database=", "engine.data_dir="):
            found = load(tmp_path, "[engine]\ndata_dir = 'shop'", environ, assignments=(taken_back,)).engine
            assert (found.database is None) == (taken_back == "engine.database=")

    def test_what_is_no_url_of_postgresql_is_refused_without_saying_it(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="expected postgresql://") as refused:
            load(tmp_path, environ={"EVERLOOP_DATABASE": "mysql://loop:hunter2@db/loop"})
        assert "hunter2" not in str(refused.value)
