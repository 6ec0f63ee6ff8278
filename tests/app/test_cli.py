"""The command line without a server: help that is there at once, sentences and exit codes for what is wrong, `doctor`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import skops.io
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner

from everloop.app.cli import checks
from everloop.app.cli.calls import Rows, parse_label, read_features
from everloop.app.cli.commands import app
from everloop.app.cli.group import UsageError
from everloop.app.cli.output import number
from everloop.app.cli.serve import parse_models
from everloop.app.client import Client
from everloop.core.errors import InvalidInput

runner = CliRunner()
EVERLOOP = [sys.executable, "-c", "from everloop.app.cli import main; main()"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("EVERLOOP_")]:
        monkeypatch.delenv(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_help_is_there() -> None:
    done = subprocess.run([*EVERLOOP, "--help"], capture_output=True, text=True, check=True)
    assert "everloop demo" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom everloop.app.cli.commands import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'sklearn', 'river', 'onnxruntime', 'sqlalchemy', 'uvicorn', 'starlette', 'rich', 'msgspec', 'http.client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["demo"],
        ["predict"],
        ["feedback"],
        ["score"],
        ["tune"],
        ["doctor"],
        ["models"],
        *(
            ["models", verb]
            for verb in [
                "list",
                "show",
                "create",
                "set",
                "register",
                "versions",
                "promote",
                "rollback",
                "archive",
                "alias",
                "name",
                "tag",
                "note",
                "lineage",
                "traffic",
                "export",
                "import",
                "collect",
                "train",
                "remove",
                "timeline",
            ]
        ),
        ["rollout"],
        *(
            ["rollout", verb]
            for verb in ["start", "show", "watch", "pause", "resume", "promote", "rollback", "stop", "history"]
        ),
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    done = runner.invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


def test_version() -> None:
    done = runner.invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"everloop {version('everloop')}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 2, "No such command"),
        (["predict", "m"], 2, "Missing argument"),
        (["predict", "m", "[1,"], 2, "not JSON"),
        (["predict", "m", "{}"], 2, "expected a JSON list or object"),
        (["predict", "m", '"x"'], 2, "expected a JSON list or object"),
        (["predict", "m", "@nowhere.json"], 2, "there is no file nowhere.json"),
        (["predict", "m", "[1]", "--url", "ftp://x"], 2, "expected something like http"),
        (["predict", "m", "[1]", "--url", "http://x y"], 2, "expected something like http"),
        (["predict", "m", "[1]", "--url", "http://127.0.0.1:99999"], 2, "expected something like http"),
        (["feedback", "m", "--label", "1"], 2, "either --request-id"),
        (["feedback", "m", "--request-id", "a-1"], 2, "--label is missing"),
        (["feedback", "m", "--request-id", "a-1", "--features", "[1]", "--label", "1"], 2, "either --request-id"),
        (["feedback", "m", "--features", "[[1],[2]]", "--label", "1"], 2, "--label is for one row"),
        (["feedback", "m", "--features", "[[1],[2]]"], 2, "row 0: without --label"),
        (["models", "create", "m", "--param", "x"], 2, "expected KEY=VALUE"),
        (["models", "alias", "m", "best"], 2, "ALIAS and VERSION"),
        (["models", "alias", "m", "best", "3", "--remove"], 2, "--remove takes an ALIAS and no VERSION"),
        (["models", "tag", "m", "3", "reviewed"], 2, "expected KEY=VALUE"),
        (["models", "traffic", "m", "champion"], 2, "expected VERSION=SHARE"),
        (["models", "traffic", "m", "champion=95"], 2, "expected VERSION=SHARE"),
        (["models", "traffic", "m", "--shadow", "3"], 2, "--shadow goes with the shares"),
        (["models", "import", "nowhere.everloop"], 2, "there is no file nowhere.everloop"),
        (["rollout", "start"], 2, "Missing argument"),
        (["rollout", "pause", "m", "--revision", "0"], 2, "--revision"),
        (["models", "register", "m", "nowhere.onnx"], 2, "there is no file nowhere.onnx"),
        (["serve", "churn.onnx"], 2, "expected NAME=MODEL, e.g. churn=churn.onnx"),
        (["serve", "churn="], 2, "what to serve is missing"),
        (["serve", "a=x", "a=y"], 2, "named twice"),
        (["serve", "churn=nowhere.onnx"], 2, "there is no file nowhere.onnx"),
        (["serve", "no good=."], 2, "cannot be a model's name"),
        (["serve", "folder=."], 2, "is a folder"),
        (["serve", "--memory", "--data-dir", "d"], 2, "contradict"),
        (["serve", "--data-dir", __file__], 2, "is a file, not a folder"),
        (["serve", "--host", "0.0.0.0"], 2, "--insecure"),
        (["serve", "--port", "70000"], 2, "between 0 and 65535"),
        (
            ["serve", "--set", "learning.min_sample=5"],
            2,
            "--set: there is no option 'learning.min_sample'; did you mean 'learning.min_samples'",
        ),
        (["serve", "--config", "nowhere.toml"], 2, "no configuration file"),
        (["demo", "--stream", "x.csv"], 2, "go together"),
        (["demo", "--target", "y"], 2, "go together"),
        (["demo", "--json"], 2, "needs --once or --seconds"),
        (["demo", "--stream", "nowhere.csv", "--target", "y"], 1, "there is no file nowhere.csv"),
    ],
)
def test_what_is_asked_for_wrongly_is_said_in_a_sentence(arguments: list[str], code: int, said: str) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == code, done.output
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert not Path("everloop-data").exists()


def test_a_server_that_is_not_there() -> None:
    done = runner.invoke(app, ["models", "list", "--url", f"http://127.0.0.1:{free_port()}"])
    assert done.exit_code == 1
    assert "everloop serve" in done.stderr


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLOOP_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in runner.invoke(app, ["models", "list"]).stderr


@pytest.mark.parametrize(
    ("text", "row"),
    [("[1, 2]", [1, 2]), ("1,2.5", [1.0, 2.5]), ("-3", [-3]), ('{"a": 1}', {"a": 1}), ("[1, NaN]", [1, None])],
)
def test_one_row(text: str, row: object) -> None:
    assert read_features(text) == row


@pytest.mark.parametrize("text", ["[[1], [2]]", "[1]\n\n[2]\n"])
def test_many_rows_of_a_file(text: str) -> None:
    Path("rows").write_text(text)
    found = read_features("@rows")
    assert isinstance(found, Rows)
    assert found.rows == [[1], [2]]


def test_a_bad_line_of_a_file_is_named() -> None:
    Path("rows").write_text("[1]\n[2]\nthree\n")
    with pytest.raises(UsageError, match="@rows, line 3: not JSON"):
        read_features("@rows")


@pytest.mark.parametrize(
    ("text", "label"),
    [("1", 1), ("1.5", 1.5), ("true", True), ("spam", "spam"), ('"3"', "3"), ("null", "null"), ("[1]", "[1]")],
)
def test_labels(text: str, label: object) -> None:
    assert parse_label(text) == label


def test_files_by_name() -> None:
    assert parse_models(["a=x/y=z.onnx", "b=p.q:M"]) == {"a": "x/y=z.onnx", "b": "p.q:M"}


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (0.123456, "0.1235"), (1234567.8, "1,234,568"), (3.9e-10, "3.9e-10")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_doctor_finds_a_healthy_machine_healthy() -> None:
    done = runner.invoke(app, ["doctor", "--port", str(free_port()), "--json"])
    report = json.loads(done.stdout)
    assert {finding["what"]: finding for finding in report["findings"] if finding["status"] == "broken"} == {}
    assert done.exit_code == 0
    assert report["healthy"] is True
    assert {"Python", "libraries", "fast lane", "event loop", "processors", "journal", "fsync", "port"} <= {
        finding["what"] for finding in report["findings"]
    }
    assert list(Path().iterdir()) == []


def test_doctor_names_what_is_broken() -> None:
    Path("file").write_text("")
    Path("everloop.toml").write_text("[server]\nprot = 1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = runner.invoke(app, ["doctor", "--port", str(taken.getsockname()[1]), "--data-dir", "file/data"])
    assert done.exit_code == 1
    for said in ("is not a folder", "choose another with --port", "did you mean 'server.port'"):
        assert said in done.stdout
    assert "3 broken: configuration, data folder, port" in done.stderr


def test_doctor_looks_at_a_database(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    monkeypatch.setenv("EVERLOOP_DATABASE", postgres)
    for options in ([], ["--database", postgres]):
        done = runner.invoke(app, ["doctor", "--port", port, "--json", *options])
        found = {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}
        assert (found["database"]["status"], done.exit_code) == ("ok", 0)
        assert "PostgreSQL" in found["database"]["value"]
        assert re.search(r"layout (\d+) of \1$|empty", found["database"]["value"])
        assert found["commit"]["value"].endswith(" ms")
        assert "data folder" not in found
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:secret@127.0.0.1:1/shop", "cannot use the PostgreSQL database 'shop' at 127.0.0.1:1"),
        ("mysql://me:secret@h/db", "expected postgresql://"),
    ],
)
def test_doctor_says_why_a_database_cannot_be_used(url: str, said: str) -> None:
    done = runner.invoke(app, ["doctor", "--port", str(free_port()), "--database", url])
    assert (done.exit_code, "secret" in done.output) == (1, False)
    assert said in " ".join(done.stdout.split())


def test_a_file_goes_into_a_database_and_answers_from_there(postgres: str) -> None:
    skops.io.dump(LinearRegression().fit([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0.0, 1.0, 1.0]), "m.skops")
    done = runner.invoke(app, ["models", "register", "m", "m.skops", "--stage", "--database", postgres])
    assert (done.exit_code, done.stdout) == (0, "1\n"), done.output
    assert "the PostgreSQL database" in done.stderr
    Path("in.csv").write_text("a,b\n1,2\n")
    options = ["in.csv", "-o", "out.csv", "--quiet", "--executor", "serial"]
    untrained = runner.invoke(app, ["score", "m", *options, "--database", postgres])
    assert (untrained.exit_code, "no version yet" in untrained.stderr) == (1, True)
    done = runner.invoke(app, ["score", "m@1", *options], env={"EVERLOOP_DATABASE": postgres})
    assert done.exit_code == 0, done.output
    assert Path("out.csv").read_text().splitlines()[1].startswith(("1,2,3", "1,2,2.99"))
    both = runner.invoke(app, ["score", "m", *options, "--database", postgres, "--data-dir", "data"])
    assert (both.exit_code, "not in both" in both.stderr) == (2, True)


def test_processors_as_the_container_has_them(tmp_path: Path) -> None:
    assert checks.cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert checks.cpu_quota(tmp_path) is None
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert checks.cpu_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert checks.cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert checks.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("have", "wanted", "good"),
    [
        ("0.54.2", ">=0.54,<0.55", True),
        ("0.55.0", ">=0.54,<0.55", False),
        ("0.9", ">=0.54", False),
        ("2.0rc1", ">=2.0.30", False),
        ("1.5", "", True),
        ("1.5", "!=1.4", True),
    ],
)
def test_whether_a_version_fits(have: str, wanted: str, good: bool) -> None:
    assert checks.fits(have, wanted) is good


def test_which_file_system_holds_a_folder(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    assert checks.file_system(tmp_path / "data", mounts) == "nfs4"
    assert checks.file_system(Path("/etc"), mounts) == "ext4"


@pytest.mark.parametrize("url", ["", "http://", "ws://x", "http://x:y", "http://x\n"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InvalidInput, match="url: expected"):
        Client(url)
