"""Two `everloop serve` processes on one PostgreSQL database: whatever one is told, both do; and one learns on where the other was killed."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from river import linear_model
from tests.app.test_cli_serve import Serving, answer, ask, onnx_model
from tests.postgres import Server

from everloop import Continuum
from everloop.core.errors import Untrusted

QUICK = ["--set", "learning.interval_sec=0", "--set", "learning.min_samples=20"]


@pytest.fixture
def start(tmp_path: Path, postgres: str) -> Iterator[Callable[[], Serving]]:
    running: list[Serving] = []

    def one_more() -> Serving:
        running.append(Serving(tmp_path, "--database", postgres, *QUICK))
        return running[-1]

    yield one_more
    for each in running:
        each.end(signal.SIGKILL)


def soon(what: Callable[[], bool]) -> None:
    """Wait until it holds: processes tell each other through the database, within a moment."""
    pause = threading.Event()
    for _ in range(1200):
        if what():
            return
        pause.wait(0.05)
    raise AssertionError("it did not come about within a minute")


def shown(server: Serving, name: str) -> dict[str, Any]:
    found: dict[str, Any] = answer(server, "models", "show", name)
    return found


def teach(server: Serving, first: int, count: int) -> None:
    lines = (json.dumps({"features": [x / 10], "label": 3 * x / 10 + 1}) for x in range(first, first + count))
    done = ask(server, "feedback", "line", "--features", "-", stdin="\n".join(lines))
    assert (done.exit_code, done.stdout) == (0, f"{count}\n"), done.output


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_two_servers_are_one_deployment(
    start: Callable[[], Serving], tmp_path: Path, postgres: str, postgres_server: Server
) -> None:
    one = start()
    assert f"data      the PostgreSQL database '{postgres.split('/')[3].partition('?')[0]}' at " in one.talk
    assert ask(one, "models", "create", "line", "--kind", "linear", "--param", "with_bias=true").exit_code == 0
    teach(one, 0, 60)
    soon(lambda: shown(one, "line")["live_version"] is not None)  # so it is this one that learns
    two = start()

    # What was trained by one is served by the other, labels sent to the other train it, and both count the same.
    made = answer(two, "predict", "line", "[2]")
    assert made["prediction"] == pytest.approx(7.0, abs=0.01)
    label = ["feedback", "line", "--request-id", made["request_id"], "--label", "7"]
    assert answer(two, *label)["accepted"] == 1
    soon(lambda: bool(answer(one, *label)["duplicate"]))  # the prediction was made by the other
    teach(two, 60, 60)
    soon(lambda: shown(one, "line")["learner"]["examples_learned"] == 121)
    assert [shown(server, "line")["labels"] for server in (one, two)] == [121, 121]
    assert [shown(server, "line")["learner"]["learns_here"] for server in (one, two)] == [True, False]

    # A version registered through one and promoted through the other is served by both; rolled back likewise.
    for version, slope in ((1, 1.0), (2, 2.0)):
        onnx_model(tmp_path / "m.onnx", slope)
        registered = ask(
            one, "models", "register", "m", str(tmp_path / "m.onnx"), *(["--stage"] if version == 2 else [])
        )
        assert (registered.exit_code, registered.stdout) == (0, f"{version}\n"), registered.output
    soon(lambda: ask(two, "predict", "m", "[1, 2]").exit_code == 0)
    assert answer(two, "models", "promote", "m", "2")["version"] == 2
    for server in (one, two):
        soon(lambda server=server: answer(server, "predict", "m", "[1, 2]")["model_version"] == 2)  # type: ignore[misc]
        assert answer(server, "predict", "m", "[1, 2]")["prediction"] == pytest.approx(6.0, abs=1e-4)
    assert answer(one, "models", "rollback", "m")["version"] == 1
    soon(lambda: answer(two, "predict", "m", "[1, 2]")["model_version"] == 1)

    def story(server: Serving) -> Any:
        return answer(server, "models", "timeline", "m", "-n", "100")["events"]

    soon(lambda: story(one) == story(two))
    moves = [event["kind"] for event in story(two) if event["kind"] in ("promoted", "rolled_back")]
    assert moves == ["promoted", "rolled_back"]

    # The one that learns is killed. Nobody can know that it is dead, so its lease has to run out; then the other learns on.
    def owner() -> Any:
        return postgres_server.execute("SELECT owner FROM everloop.leases WHERE name LIKE '%line%'", postgres)[0][0]

    dead = owner()
    assert one.end(signal.SIGKILL) == -signal.SIGKILL
    teach(two, 120, 40)
    assert owner() == dead
    postgres_server.execute("UPDATE everloop.leases SET until = 0", postgres)  # as if its time had passed
    soon(lambda: owner() != dead)
    soon(lambda: shown(two, "line")["learner"]["examples_learned"] == 161)
    assert shown(two, "line")["learner"]["learns_here"]

    # The database goes away: predictions go on, labels are refused, and all is well again when it is back.
    postgres_server.stop()
    try:
        for n in range(20):
            assert answer(two, "predict", "line", f"[{n}]")["prediction"] == pytest.approx(3 * n + 1, abs=0.05)
        refused = ask(two, "feedback", "line", "--features", "[1]", "--label", "4")
        assert refused.exit_code == 1
        assert "PostgreSQL database" in refused.stderr
    finally:
        postgres_server.start()
    teach(two, 160, 5)
    soon(lambda: shown(two, "line")["learner"]["examples_learned"] == 166)
    assert two.end() == 0
    assert "Traceback" not in two.talk


def test_a_python_program_takes_part(postgres: str) -> None:
    with Continuum(database=postgres) as models:
        assert repr(models).startswith("<Continuum idle, 0 live, the PostgreSQL database 'test_")
        models.register_model("line", "linear")
        models.add_training_examples("line", [[float(x)] for x in range(50)], [3.0 * x for x in range(50)])
        models.train_model("line")
        with Continuum(database=postgres) as other:
            assert other.predict("line", [7.0]).prediction == pytest.approx(21.0, abs=0.01)
        with pytest.raises(Untrusted):  # what others may write must not bring code along
            models.register_model("river", linear_model.LinearRegression())
