"""A run that ends at any instant goes on from what is durable, and comes to the same bytes; and only if it is the same run."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.app.scoring.conftest import Score

from everloop.app.scoring import output, pace, resume
from everloop.core.errors import CheckpointMismatch, Conflict, InvalidInput, StoreUnavailable
from everloop.stores import folders


class Killed(BaseException):
    """The process ends here: nothing is tidied up."""


@pytest.fixture
def source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """20 rows, in blocks of up to four, each durable at once."""
    path = folder / "t.csv"
    path.write_text("x,note\n" + "".join(f'{i},"n{i}\nn"\n' for i in range(20)))
    monkeypatch.setattr(pace, "MOST_ROWS", 3)
    monkeypatch.setattr(output, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(output, "SYNC_SHARE", 1e9)
    return path


class Crashes:
    """Raises at the nth call of what writes to the disk, and at every later one: a dead process writes no more."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at: float = float("inf")
        self.calls = 0
        for owner, name in [
            (resume, "save"),
            (folders, "flush_folder"),
            (output.FileOutput, "append"),
            (output.FileOutput, "discard"),
            (Path, "replace"),
            (Path, "unlink"),
        ]:
            patch.setattr(owner, name, self._wrapped(getattr(owner, name)))
        patch.setattr(os, "fsync", self._wrapped(lambda handle: None))  # an instant like the others, without its time

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls >= self.at:
                raise Killed
            return function(*args, **options)

        return called


@pytest.mark.parametrize("into", ["out.csv", "out.ndjson.gz", "out.parquet"])
def test_a_crash_at_every_instant(
    run: Score, folder: Path, source: Path, into: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"on_error": "skip", "dead_letter": Path("dead.ndjson")}
    run("fn:pick", "t.csv", f"whole-{into}", on_error="skip", dead_letter=Path("whole-dead.ndjson"))
    crashes = Crashes(monkeypatch)
    resumed = 0
    for at in range(1, 10_000):
        for name in (into, "dead.ndjson"):
            (folder / name).unlink(missing_ok=True)
        crashes.calls, crashes.at = 0, at
        try:
            run("fn:pick", "t.csv", into, **options)
        except Killed:
            pass
        else:
            break  # further on there is nothing to crash at
        crashes.at = float("inf")
        if (folder / into).exists() and not (folder / f"{into}.part.json").exists():
            continue  # complete
        resumed += run("fn:pick", "t.csv", into, **options).resumed
        assert content(folder / into) == content(folder / f"whole-{into}")
        assert (folder / "dead.ndjson").read_bytes() == (folder / "whole-dead.ndjson").read_bytes()
        assert sorted(path.name for path in folder.glob(f"{into}*")) == [into]
    assert at > 50
    assert resumed > 200


def content(path: Path) -> Any:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def stopped(run: Score, monkeypatch: pytest.MonkeyPatch, after: int, into: str = "out.csv", **options: Any) -> None:
    """Leave half a run behind."""
    with monkeypatch.context() as patch:
        crashes = Crashes(patch)
        crashes.at = after
        with pytest.raises(Killed):
            run("fn:double", "t.csv", into, **options)


@pytest.mark.parametrize("cut", range(0, 20, 3))
def test_what_was_not_counted_is_cut_off(
    run: Score, folder: Path, source: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fn:double", "t.csv", "whole.csv")
    stopped(run, monkeypatch, 36)
    part = folder / "out.csv.part"
    counted = json.loads((folder / "out.csv.part.json").read_text())["output_bytes"]
    part.write_bytes(part.read_bytes()[:counted] + b"torn"[: cut % 5] * cut)
    said: list[str] = []
    summary = run("fn:double", "t.csv", "out.csv", said=said)
    assert summary.resumed > 0
    assert summary.rows == 20
    assert "goes on behind" in said[0]
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: (folder / "t.csv").open("a").close() or os.utime(folder / "t.csv", (1, 1)),
            "the input was changed since",
        ),
        (lambda folder: (folder / "t.csv").write_text("x,note\n1,2\n"), "the input had .* bytes and has 11 now"),
        (
            lambda folder: (folder / "fn.py").write_text((folder / "fn.py").read_text() + "\n"),
            "its model was fn:double, source",
        ),
    ],
)
def test_another_input_or_model_is_not_mixed_in(
    run: Score, folder: Path, source: Path, change: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run, monkeypatch, 36)
    change(folder)
    with pytest.raises(CheckpointMismatch, match=f"out.csv.part is half of another run: {said}.*--restart"):
        run("fn:double", "t.csv", "out.csv")
    assert run("fn:double", "t.csv", "out.csv", restart=True).resumed == 0


@pytest.mark.parametrize(
    "options",
    [{"keep": ("x",)}, {"prediction": "p"}, {"types": {"x": "number"}}, {"on_error": "keep"}, {"version": False}],
)
def test_other_options_are_not_mixed_in(
    run: Score, folder: Path, source: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run, monkeypatch, 36)
    name = next(iter(options))
    with pytest.raises(CheckpointMismatch, match={"on_error": "on-error", "types": "type"}.get(name, name)):
        run("fn:double", "t.csv", "out.csv", **options)


def test_a_bad_row_can_be_skipped_by_the_attempt_after(run: Score, folder: Path, source: Path) -> None:
    said: list[str] = []
    with pytest.raises(InvalidInput, match="line 28, ValueError: thirteen"):
        run("fn:pick", "t.csv", "out.csv", said=said)
    assert "rows are kept in out.csv.part; the same command goes on from there" in said[-1]
    summary = run("fn:pick", "t.csv", "out.csv", on_error="skip", dead_letter=Path("dead.ndjson"))
    assert summary.resumed > 0
    assert (summary.written, summary.errors) == (19, 1)
    assert len((folder / "dead.ndjson").read_text().splitlines()) == 1


def test_bad_rows_are_not_spread_over_two_files(run: Score, folder: Path, source: Path) -> None:
    (folder / "stop.py").write_text(
        "def stop(row):\n    if row['x'] == 18: raise KeyboardInterrupt\n    if row['x'] == 2: raise ValueError\n"
    )
    with pytest.raises(KeyboardInterrupt):
        run("stop:stop", "t.csv", "out.csv", on_error="skip", dead_letter=Path("a.ndjson"))
    with pytest.raises(CheckpointMismatch, match=r"--dead-letter was a\.ndjson and is b\.ndjson"):
        run("stop:stop", "t.csv", "out.csv", on_error="skip", dead_letter=Path("b.ndjson"))


def test_half_a_run_is_not_lost_to_a_stream(
    run: Score, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run, monkeypatch, 36)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"x": 1}\n')))
    with pytest.raises(Conflict, match=r"half of a run from a file"):
        run("fn:double", "-", "out.csv", input_format="ndjson")


def test_nothing_of_others_is_touched(run: Score, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "out.csv.part").write_text("somebody's")
    with pytest.raises(Conflict, match="nothing tells whose it is"):
        run("fn:double", "t.csv", "out.csv")
    assert (folder / "out.csv.part").read_text() == "somebody's"
    (folder / "out.csv.part").unlink()
    (folder / "out.csv.part.json").write_text("{}")
    with pytest.raises(CheckpointMismatch, match="not the state of a run"):
        run("fn:double", "t.csv", "out.csv")
    (folder / "out.csv.part.json").unlink()
    stopped(run, monkeypatch, 36)
    (folder / "out.csv.part").write_text("")
    with pytest.raises(Conflict, match="has 0 bytes, and should have"):
        run("fn:double", "t.csv", "out.csv")


def test_two_at_once_do_not_mix(run: Score, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(run, monkeypatch, 36)
    import fcntl

    with (folder / "out.csv.part").open("rb") as other:
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="is being written by another everloop"):
            run("fn:double", "t.csv", "out.csv")
    assert run("fn:double", "t.csv", "out.csv").rows == 20


def test_what_appears_meanwhile_is_not_replaced(run: Score, folder: Path, source: Path) -> None:
    (folder / "late.py").write_text(
        "from pathlib import Path\ndef late(row):\n    Path('out.csv').write_text('mine')\n    return 1\n"
    )
    with pytest.raises(Conflict, match="has appeared while this was at work"):
        run("late:late", "t.csv", "out.csv")
    assert (folder / "out.csv").read_text() == "mine"
    said: list[str] = []
    run("late:late", "t.csv", "out.csv", force=True, said=said)
    assert said == ["out.csv was complete; only its place was not taken yet"]
    assert len((folder / "out.csv").read_text().splitlines()) == 41


def test_an_interrupt_says_how_to_go_on(run: Score, folder: Path, source: Path) -> None:
    (folder / "stop.py").write_text(
        "from pathlib import Path\ndef stop(row):\n    if row['x'] == 15 and not Path('go').exists(): raise KeyboardInterrupt\n    return 1\n"
    )
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run("stop:stop", "t.csv", "out.csv", said=said)
    assert said[-1].startswith("stopped: ")
    (folder / "go").touch()
    assert run("stop:stop", "t.csv", "out.csv").resumed > 0


@pytest.mark.parametrize("into", ["out.csv", "out.parquet"])
@pytest.mark.parametrize("at", range(2, 9))
def test_an_interrupt_between_writing_and_counting_loses_nothing(
    run: Score, folder: Path, source: Path, at: int, into: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fn:double", "t.csv", f"whole-{into}")
    calls = 0
    append = output.FileOutput.append

    def interrupted(self: output.FileOutput, payload: bytes, dead_letters: bytes) -> None:
        nonlocal calls
        calls += 1
        append(self, payload, dead_letters)
        if calls == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(output.FileOutput, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("fn:double", "t.csv", into)
    run("fn:double", "t.csv", into)
    assert content(folder / into) == content(folder / f"whole-{into}")


def test_syncs_take_a_small_share_of_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.app.scoring.formats import Place

    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    slow = resume.save

    def save(path: Path, state: resume.State) -> None:
        now[0] += 2.0
        slow(path, state)

    monkeypatch.setattr(resume, "save", save)
    state = resume.State(resume.Identity("t", 0, 0, "", "m", {}))
    out = output.FileOutput(Place(folder / "o.csv", "csv"), None, force=False, resumable=True)
    out.open(state)
    begun = now[0]
    for _ in range(1000):
        now[0] += 0.1
        out.sync(state)
    assert (now[0] - begun - 100.0) / 100.0 <= 0.1
    out.close()


def test_a_full_disk_does_not_promise_rows_that_are_not_there(
    run: Score, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, state: resume.State) -> None:
        if state.rows:
            raise OSError(28, "No space left on device")
        save(path, state)

    save = resume.save
    monkeypatch.setattr(resume, "save", full)
    said: list[str] = []
    with pytest.raises(StoreUnavailable, match="No space left"):
        run("fn:double", source.name, "out.csv", said=said)
    assert any("0 rows are kept" in each for each in said), said
