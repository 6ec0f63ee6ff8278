"""The files: atomic, named once, read once, set aside when damaged, and shared by processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.parallel.recorded import history_in, recorded, run

from everloop.parallel import history as history_module
from everloop.parallel.history import History, get_history, load_ml_training_data, set_history_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("ml_training*"))


def test_a_run_is_one_file_named_for_its_function_and_kind(tmp_path: Path) -> None:
    history = history_in(tmp_path)
    history.record(run("abc123", at=1.0))
    history.record(run("abc123", at=2.0, is_streaming=True, buffer_size=4, use_ordered=False))
    batch, streaming = names(tmp_path)
    assert re.fullmatch(r"ml_training_abc123_\d+\.json", batch)
    assert re.fullmatch(r"ml_training_streaming_abc123_\d+\.json", streaming)
    assert [sample.is_streaming for sample in History(tmp_path).load()] == [False, True]


def test_two_runs_in_the_same_instant_are_two_files(tmp_path: Path) -> None:
    history, another = history_in(tmp_path), history_in(tmp_path)
    for _ in range(3):
        history.record(run(at=7.0))
        another.record(run(at=7.0))
    assert len(names(tmp_path)) == 6
    assert len(history.load()) == len(another.load()) == len(History(tmp_path).load()) == 6


def test_no_half_file_is_ever_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_in(tmp_path)

    def full(path: Path, payload: bytes) -> int:
        with path.open("wb") as file:
            file.write(payload[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert history.record(run()) is None
    assert names(tmp_path) == []
    assert list(tmp_path.glob(".*")) == []
    assert len(history.load()) == 1, "this process remembers it all the same"


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    history = history_in(tmp_path)
    history.record(run(at=7.0))
    history_in(tmp_path).record(run(at=7.0))
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("payload", [b"", b"{", b'{"n_jobs": 3}', b"\xff\xfe", b"[" * 100_000], ids=lambda p: p[:8])
def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path: Path, payload: bytes) -> None:
    recorded(history_in(tmp_path), 3)
    (tmp_path / "ml_training_f0_123.json").write_bytes(payload)
    with pytest.warns(RuntimeWarning, match=r"ml_training_f0_123\.json is damaged"):
        assert len(History(tmp_path).load()) == 3
    assert (tmp_path / "ml_training_f0_123.json.corrupt").read_bytes() == payload
    assert len(History(tmp_path).load()) == 3, "and is not looked at again"


def test_many_damaged_files_are_one_warning(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"ml_training_f0_{number}.json").write_bytes(b"")
    with pytest.warns(RuntimeWarning) as caught:
        assert History(tmp_path).load() == []
    assert len(caught) == 1


def test_what_another_process_has_recorded_is_seen(tmp_path: Path) -> None:
    here, there = history_in(tmp_path), history_in(tmp_path)
    assert here.experience("f0") is None
    recorded(there, 2)
    os.utime(tmp_path, ns=(1, 1))  # whatever the file system's clock ticks by
    experience = here.experience("f0")
    assert experience is not None
    assert experience.runs == 2


def test_each_file_is_read_once_and_only_when_its_function_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = history_in(tmp_path)
    recorded(writer, 3, func_hash="aaa")
    recorded(writer, 3, func_hash="bbb")
    read: list[str] = []
    decode = history_module.decode
    monkeypatch.setattr(history_module, "decode", lambda payload, name: (read.append(name), decode(payload, name))[1])
    history = History(tmp_path)
    history.experience("aaa")
    history.experience("aaa")
    assert read == ["aaa"] * 3
    history.load()
    history.load()
    assert sorted(read) == ["aaa"] * 3 + ["bbb"] * 3


def test_the_oldest_files_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_OF_ONE", 20)
    monkeypatch.setattr(history_module, "MOST_FILES", 50)
    history = history_in(tmp_path)
    for function in ("aaa", "bbb", "ccc", "ddd"):
        for number in range(30):
            history.record(run(function, at=1_000_000.0 + number))
    kept = History(tmp_path).load()
    assert 20 < len(kept) <= 50
    for function in {sample.func_hash for sample in kept}:
        stamps = [sample.timestamp for sample in kept if sample.func_hash == function]
        assert max(stamps) == 1_000_029.0, "the newest stay"
        assert len(stamps) <= 20


def test_a_folder_that_cannot_be_written_is_told_once_and_nothing_is_lost_here(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    history = History(tmp_path / "file" / "history")
    with pytest.warns(RuntimeWarning, match="cannot be recorded") as caught:  # noqa: PT031 - once for both
        assert history.record(run()) is None
        assert history.record(run()) is None
    assert len(caught) == 1
    experience = history.experience("f0")
    assert experience is not None
    assert experience.runs == 2


def test_a_run_that_cannot_have_been_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="speedup"):
        history_in(tmp_path).record(run(speedup=-1.0))
    assert names(tmp_path) == []


def test_a_file_that_is_gone_meanwhile_is_no_error(tmp_path: Path) -> None:
    recorded(history_in(tmp_path), 2)
    history = History(tmp_path)
    assert history.experience("other") is None  # has listed
    for name in names(tmp_path):
        (tmp_path / name).unlink()
    assert history.load() == []


def test_processes_record_at_once_and_no_run_is_lost(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.parallel.recorded import history_in, run\n"
        "history = history_in(Path(sys.argv[1]))\nsys.stdin.read(1)\n"
        "for number in range(100): history.record(run(n_jobs=int(sys.argv[2]), at=float(number)))\n"
    )
    recorders = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path, str(who)], stdin=subprocess.PIPE)
        for who in (1, 2, 3)
    ]
    for recorder in recorders:
        assert recorder.stdin is not None
        recorder.stdin.write(b"g")
        recorder.stdin.flush()
    for recorder in recorders:
        recorder.communicate(timeout=60)
        assert recorder.returncode == 0
    found = [sample.n_jobs for sample in History(tmp_path).load()]
    assert [found.count(who) for who in (1, 2, 3)] == [100, 100, 100]


def test_threads_share_one(tmp_path: Path) -> None:
    history = history_in(tmp_path)
    together = threading.Barrier(4)

    def work(who: int) -> None:
        together.wait()
        for _ in range(25):
            history.record(run(f"f{who}"))
            history.all_experience()

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history.load()) == len(History(tmp_path).load()) == 100


def test_the_process_s_own_history_is_where_it_is_told_to_be(tmp_path: Path) -> None:
    try:
        history = set_history_folder(tmp_path)
        assert get_history() is history
        history.record(run())
        assert [sample.func_hash for sample in load_ml_training_data()] == ["f0"]
        assert load_ml_training_data(tmp_path / "empty") == []
    finally:
        set_history_folder(None)
    assert get_history().folder.parts[-2:] == ("everloop", "parallel")


def test_memory_bandwidth_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(history_module.fingerprint, "measure_memory_bandwidth", lambda: (measured.append(1), 12.5)[1])
    assert History(tmp_path).memory_bandwidth() == 12.5
    assert History(tmp_path).memory_bandwidth() == 12.5
    assert len(measured) == 1


def test_available_memory_is_not_read_for_every_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_in(tmp_path)
    read: list[int] = []
    monkeypatch.setattr(history_module.machine, "available_memory", lambda: (read.append(1), 1 << 30)[1])
    for _ in range(3):
        assert history.available_memory() == 1 << 30
    history.clock.advance(10)  # type: ignore[attr-defined]
    history.available_memory()
    assert len(read) == 2
