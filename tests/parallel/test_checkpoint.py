"""Going on where a run was, whatever ended it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.parallel.test_engine import Bench, Counted, collect, fails_at

from everloop.core.errors import CheckpointMismatch, Conflict, ItemFailed, NotPicklable, StoreUnavailable, Untrusted
from everloop.parallel.checkpoint import Checkpoint, finished_items, identity_of
from everloop.parallel.digests import digest_of
from everloop.parallel.plan import Plan
from everloop.parallel.work import ItemFailure
from everloop.testing import ManualClock

# What crashes and what resumes are two functions here, one after the bug and one before.
pytestmark = pytest.mark.filterwarnings("ignore:checkpoint. the code of:RuntimeWarning")
PLAN = Plan("process", 2, 3, buffer_size=12)
PROGRAM = Path(__file__).with_name("interrupted.py")


def ten(item: Any) -> Any:
    return item * 10


def until(limit: int) -> Callable[[Any], Any]:
    limits = [limit]  # a list: what is bound plainly would make it another function

    def ten(item: Any) -> Any:
        if item >= limits[0]:
            raise RuntimeError("crash")
        return item * 10

    ten.__module__, ten.__qualname__ = __name__, "ten"
    return ten


def crashed(path: Path, limit: int = 20, items: Iterable[Any] = range(30), plan: Plan = PLAN) -> Bench:
    bench = Bench(until(limit), items, plan, checkpoint=path)
    with pytest.raises(RuntimeError, match="crash"):
        collect(bench.run, [])
    return bench


def resumed(path: Path, items: Iterable[Any] = range(30), **given: Any) -> Bench:
    return Bench(ten, items, given.pop("plan", PLAN), checkpoint=path, **given)


def test_changed_code_is_warned_of_since_its_old_results_stand(tmp_path: Path) -> None:
    crashed(tmp_path / "c")
    with pytest.warns(RuntimeWarning, match="code of .* has changed"):
        collect(resumed(tmp_path / "c").run, [])


def test_finished_chunks_are_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    crashed(path)
    assert 18 <= finished_items(path) < 30
    bench = resumed(path)
    assert list(bench.run) == [item * 10 for item in range(30)]
    assert bench.report.resumed >= 18
    assert min(bench.executor.ran) >= 18
    assert bench.report.resumed + len(bench.executor.ran) == 30


def test_a_finished_one_gives_everything_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = resumed(path)
    assert first.run.results() == [item * 10 for item in range(30)]
    again = resumed(path, items=iter(range(30)))
    assert again.run.results() == [item * 10 for item in range(30)]
    assert again.executors == []
    assert again.report.resumed == 30


def test_more_data_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run"
    resumed(path).run.results()
    bench = resumed(path, items=range(40))
    assert bench.run.results() == [item * 10 for item in range(40)]
    assert sorted(bench.executor.ran) == list(range(30, 40))


def test_the_buffer_holds_for_what_is_resumed_too(tmp_path: Path) -> None:
    """Chunks of 10 were recorded; now at most 4 items may be read ahead."""
    path = tmp_path / "run"
    resumed(path, plan=Plan("process", 1, 10)).run.results()
    source = Counted(range(30))
    bench = resumed(path, items=source, plan=Plan("process", 1, 1, buffer_size=4))
    for number, value in enumerate(bench.run):
        assert value == number * 10
        assert source.read <= number + 4
    assert bench.report.resumed == 30


def test_unordered_runs_leave_gaps_that_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "run"
    plan = Plan("process", 3, 2, ordered=False, buffer_size=30)
    durations = [0.5 if item < 2 else 0.001 for item in range(30)]
    bench = Bench(until(12), range(30), plan, checkpoint=path, script={"seconds": durations.__getitem__})
    with pytest.raises(RuntimeError, match="crash"):
        collect(bench.run, [])
    bench = resumed(path, plan=plan)
    assert sorted(bench.run) == [item * 10 for item in range(30)]
    assert 0 in bench.executor.ran
    assert 4 not in bench.executor.ran


# -- never for other data, other functions or other people


def test_other_items_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    crashed(path)
    before = path.read_bytes()
    other = [*range(7), 700, *range(8, 30)]
    with pytest.raises(CheckpointMismatch, match="item 7 is another one now"):
        resumed(path, items=other).run.results()
    with pytest.raises(CheckpointMismatch, match="there are only 5"):
        resumed(path, items=range(5)).run.results()
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [0, 1, 3, 5])
@pytest.mark.parametrize("as_list", [False, True])
def test_fewer_items_are_noticed_wherever_they_end(left: int, as_list: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert len(resumed(path, items=range(6)).run.results()) == 6
    items = list(range(left)) if as_list else iter(range(left))
    with pytest.raises(CheckpointMismatch, match=f"results of 6 items, there are only {left}"):
        resumed(path, items=items).run.results()


def test_an_item_that_ends_the_run_does_not_make_the_input_shorter(tmp_path: Path) -> None:
    path = tmp_path / "run"
    plan = Plan("process", 2, 1)
    unordered = Bench(
        fails_at(2), range(12), plan, script={"seconds": lambda item: 9.0 if item == 2 else 0.1}, checkpoint=path
    )
    with pytest.raises(ValueError, match="bad 2"):
        unordered.run.results()
    with pytest.raises(ValueError, match="bad 2"):
        Bench(fails_at(2), range(12), plan, checkpoint=path).run.results()


def test_another_function_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    crashed(path)
    with pytest.raises(CheckpointMismatch, match="another function"):
        Bench(str, range(30), checkpoint=path).run.results()


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("chapter one")
    with pytest.raises(CheckpointMismatch, match="no checkpoint file"):
        resumed(path).run.results()
    assert path.read_text() == "chapter one"


def test_a_file_that_others_could_have_written_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "run"
    crashed(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o622)
    with pytest.raises(Untrusted, match="written by others"):
        resumed(path).run.results()
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable):
        resumed(path).run.results()
    with pytest.raises(StoreUnavailable):
        resumed(tmp_path / "no" / "folder").run.results()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Checkpoint.open(path, ten, ManualClock()), pytest.raises(Conflict, match="another run"):
        resumed(path).run.results()


def test_functions_are_known_by_name_and_bound_arguments() -> None:
    assert identity_of(ten) == f"{__name__}:ten"
    assert identity_of(partial(pow, 2)) != identity_of(partial(pow, 3))
    assert identity_of(partial(pow, 2)) == identity_of(partial(pow, 2))
    assert identity_of(ManualClock()) == "everloop.testing.clocks:ManualClock"  # type: ignore[arg-type]


def scaled(by: Any) -> Any:
    seen: list[Any] = []

    def scale(item: int) -> Any:
        seen.append(item)
        return by * item

    return scale


class Model:
    def __init__(self, weights: Any, name: str = "") -> None:
        self.weights = weights
        self.name = name
        self.began = time.time()
        self.answers: dict[Any, Any] = {}

    def __call__(self, item: Any) -> Any:
        return self.answers.setdefault(item, item)

    predict = __call__


@pytest.mark.parametrize(
    "make",
    [
        scaled,
        Model,
        lambda bound: Model(bound).predict,
        lambda bound: Model(Path(), bound),
        lambda bound: partial(max, bound),
    ],
)
@pytest.mark.parametrize(("one", "other"), [(2, 3), ("a", "b"), (("a", 1.0), ("a", 2.0)), (np.arange(5), np.ones(5))])
def test_what_is_bound_to_a_function_makes_it_another(make: Any, one: Any, other: Any) -> None:
    assert identity_of(make(one)) == identity_of(make(one))
    assert identity_of(make(one)) != identity_of(make(other))


def test_other_arguments_are_told_from_another_function(tmp_path: Path) -> None:
    Bench(partial(pow, 2), range(3), checkpoint=tmp_path / "run").run.results()
    with pytest.raises(CheckpointMismatch, match="what is bound to builtins:pow"):
        Bench(partial(pow, 3), range(3), checkpoint=tmp_path / "run").run.results()


def test_what_fills_on_the_way_does_not() -> None:
    for func in (scaled(3), Model(3)):
        before = identity_of(func)
        func(7)
        assert identity_of(func) == before


def test_what_fills_on_the_way_is_no_other_code_either(tmp_path: Path) -> None:
    seen: list[int] = []

    def keep(item: int) -> int:
        seen.append(item)
        return item

    for func in (keep, lambda item: keep(item) and seen.append(item)):
        path = tmp_path / func.__name__
        for _ in range(2):  # a warning would be an error here
            assert len(Bench(func, range(9), checkpoint=path).run.results()) == 9


def test_lambdas_are_known_by_their_code() -> None:
    assert identity_of(lambda item: item + 1) != identity_of(lambda item: item + 2)


# -- failures and odd results


def test_failures_are_kept_and_treated_as_this_run_wants(tmp_path: Path) -> None:
    path = tmp_path / "run"
    broken = until(27)
    first = Bench(broken, range(30), PLAN, checkpoint=path, on_error="skip")
    assert first.run.results() == [item * 10 for item in range(27)]
    skipped = resumed(path, on_error="skip")
    assert skipped.run.results() == [item * 10 for item in range(27)]
    assert skipped.executors == []
    returned = resumed(path, on_error="return").run.results()
    assert [failure.item for failure in returned[27:]] == [27, 28, 29]
    assert all(isinstance(failure.error, RuntimeError) for failure in returned[27:])
    mended = resumed(path)  # with "raise" they are tried again, and go well now
    assert mended.run.results() == [item * 10 for item in range(30)]
    assert sorted(mended.executor.ran) == [27, 28, 29]


class Unkeepable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


def test_an_error_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with Checkpoint.open(tmp_path / "run", ten, ManualClock()) as checkpoint:
        checkpoint.record(0, [1], [None], {0: ItemFailure(0, Unkeepable("odd"))})
    with Checkpoint.open(tmp_path / "run", ten, ManualClock()) as checkpoint:
        assert checkpoint.kept(0, 5) == (True, 1)
        _, failed = checkpoint.load(0, 1, [1])
        assert isinstance(failed[0].error, ItemFailed)
        assert str(failed[0].error) == "Unkeepable: odd"


def test_a_result_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    bench = Bench(lambda item: lambda: item, range(3), checkpoint=tmp_path / "run")
    with pytest.raises(NotPicklable, match="the result of item 0, a function, cannot be pickled"):
        bench.run.results()


# -- what the same item is


@pytest.mark.parametrize(
    "item",
    [
        1, 1.5, "text", b"bytes", None, True, (1, "a"), [1, [2]], {"a": 1}, {"b", "a"}, [{"x": {"y", "z"}}],
        np.arange(5), {"array": np.ones((2, 2))},
    ],
)  # fmt: skip
def test_a_digest_tells_the_same_from_another(item: Any) -> None:
    assert digest_of(item) == digest_of(pickle.loads(pickle.dumps(item))) != 0
    assert digest_of(item) != digest_of("other")


def test_a_digest_is_the_same_in_another_process() -> None:
    program = (
        "from everloop.parallel.digests import digest_of; print(digest_of([{'q', 'r', 's', 't'}, 'ab', 'ab', 2.5]))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {f"{digest_of([{'q', 'r', 's', 't'}, 'a' + 'b', 'ab', 2.5])}\n"}


def test_what_cannot_be_compared_is_not() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert digest_of(cyclic) == 0
    assert digest_of(lambda: 0) == 0
    assert digest_of(Hidden({"a", "b"})) == 0


class Hidden:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


# -- crashes


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(cut=st.integers(0, 2000), flip=st.booleans())
def test_a_file_torn_or_damaged_anywhere_costs_only_what_was_there(tmp_path: Path, cut: int, flip: bool) -> None:
    path = tmp_path / "run"
    path.unlink(missing_ok=True)
    resumed(path).run.results()
    whole = path.read_bytes()
    header = whole.index(b"}\n") + 2
    cut = min(cut, len(whole) - 1)
    if flip and cut >= header:
        path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 0x55]) + whole[cut + 1 :])
    else:
        path.write_bytes(whole[:cut])
    bench = resumed(path)
    assert bench.run.results() == [item * 10 for item in range(30)]
    assert bench.report.resumed + (len(bench.executor.ran) if bench.executors else 0) == 30
    assert finished_items(path) == 30


def test_every_length_of_the_file_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "run"
    resumed(path, items=range(8)).run.results()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Checkpoint.open(path, ten, ManualClock()) as checkpoint:
            found, count = checkpoint.kept(0, 8)
            assert not found or checkpoint.load(0, count, list(range(count)))[0] == [i * 10 for i in range(count)]
        assert whole.startswith(path.read_bytes())


def test_after_sigkill_no_finished_chunk_is_run_again(tmp_path: Path) -> None:
    checkpoint, log = tmp_path / "run", tmp_path / "log"

    def start(*die_at: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(PROGRAM), str(checkpoint), str(log), "40", *die_at]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert start("17").returncode == -signal.SIGKILL
    assert start("31").returncode == -signal.SIGKILL
    finished = start()
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [str(item * item) for item in range(40)]
    began = list(map(int, log.read_text().split()))
    assert sorted(set(began)) == list(range(40))
    again = sorted(item for item in set(began) if began.count(item) > 1)
    assert set(again) <= {15, 16, 30}, "only items of the chunk that was running"


def test_it_is_synced_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[float] = []
    clock = ManualClock()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(clock.monotonic()), real(handle)))
    with Checkpoint.open(tmp_path / "run", ten, clock, interval=1.0) as checkpoint:
        begun, at_first = clock.monotonic(), len(synced)
        for number in range(30):
            clock.advance(0.1)
            checkpoint.record(number, [number], [number], {})
    assert len(synced) - at_first in (3, 4)
    assert synced[-1] >= begun + 2.9
