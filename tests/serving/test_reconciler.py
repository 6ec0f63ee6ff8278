"""From what should be live to what is: swaps, failures that leave the old version serving, and the thread."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from everloop.core.errors import ArtifactCorrupt, ModelNotFound, StoreUnavailable
from everloop.serving.reconciler import Reconciler


def kinds(kit: Any) -> list[tuple[str, int | None]]:
    return [(e.kind, e.version) for e in kit.events if e.kind in ("swapped", "open_failed")]


def test_a_live_version_is_opened_and_told_once(kit: Any) -> None:
    kit.publish("m", [1.0])
    assert kit.reconciler.step()
    assert not kit.reconciler.step(), "nothing changed"
    assert kit.predictor.predict("m", [2.0]).prediction == 2.0
    assert kinds(kit) == [("swapped", 1)]
    (event,) = (e for e in kit.events if e.kind == "swapped")
    assert event.data["from"] is None
    assert event.data["seconds"] >= 0
    assert [e.kind for e in kit.journal.events(model="m")].count("swapped") == 1


def test_a_swap_retires_the_old_lane_and_frees_it(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    old = kit.table.current.lanes["m"]
    kit.publish("m", [2.0])
    gc.disable()
    try:
        gone = weakref.ref(old)
        kit.reconciler.step()
        assert old.closed
        del old
        assert gone() is None
    finally:
        gc.enable()
    assert kit.predictor.predict("m", [1.0]).prediction == 2.0
    assert kinds(kit) == [("swapped", 1), ("swapped", 2)]


def test_staging_versions_do_not_serve_and_rollback_goes_back(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.publish("m", [2.0])
    kit.publish("m", [3.0], live=False)
    kit.reconciler.step()
    assert kit.predictor.predict("m", [1.0]).model_version == 2
    kit.registry.rollback("m")
    kit.reconciler.step()
    assert kit.predictor.predict("m", [1.0]).model_version == 1
    kit.registry.promote("m", 3)
    kit.reconciler.step()
    assert kit.predictor.predict("m", [1.0]).prediction == 3.0


def test_models_do_not_touch_each_other(kit: Any) -> None:
    kit.publish("a", [1.0])
    kit.publish("b", [2.0])
    kit.reconciler.step()
    lane = kit.table.current.lanes["a"]
    kit.publish("b", [3.0])
    kit.reconciler.step()
    assert kit.table.current.lanes["a"] is lane
    assert not lane.retired


def test_an_unregistered_model_leaves_the_table(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    lane = kit.table.current.lanes["m"]
    kit.registry.unregister("m")
    assert kit.reconciler.step()
    assert lane.closed
    with pytest.raises(ModelNotFound):
        kit.predictor.predict("m", [1.0])


def test_a_version_that_cannot_be_opened_leaves_the_old_one_serving(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    opened = kit.registry.open_session
    attempts: list[int] = []

    def corrupt(record: Any) -> Any:
        if record.version == 2:
            attempts.append(record.version)
            raise ArtifactCorrupt("the bytes are damaged")
        return opened(record)

    monkeypatch.setattr(kit.registry, "open_session", corrupt)
    kit.publish("m", [2.0])
    for _ in range(5):
        kit.reconciler.step()
    assert attempts == [2], "not again before its pause is over"
    assert kit.predictor.predict("m", [1.0]).model_version == 1
    assert kinds(kit) == [("swapped", 1), ("open_failed", 2)]
    assert "damaged" in str(kit.reconciler.failures["m"].error)
    assert not kit.reconciler.wait_for("m", 2, timeout=60), "known to fail: does not wait"
    kit.clock.advance(400)
    kit.reconciler.step()
    assert attempts == [2, 2]
    assert kinds(kit).count(("open_failed", 2)) == 1
    monkeypatch.undo()
    kit.clock.advance(400)
    kit.reconciler.step()
    assert kit.predictor.predict("m", [1.0]).model_version == 2
    assert kit.reconciler.failures == {}


def test_a_newer_version_does_not_wait_for_the_failed_ones_pause(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def library_bug(record: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(kit.registry, "open_session", library_bug)
    kit.publish("m", [1.0])
    kit.reconciler.step()
    assert "MemoryError: no room" in str(kit.reconciler.failures["m"].error)
    monkeypatch.undo()
    kit.publish("m", [2.0])
    kit.reconciler.step()
    assert kit.predictor.predict("m", [1.0]).model_version == 2


def test_an_unreadable_registry_leaves_everything_as_it_is(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()

    def broken() -> Any:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(kit.registry, "list", broken)
    assert not kit.reconciler.step()
    assert kit.reconciler.broken is not None
    assert kit.predictor.predict("m", [1.0]).prediction == 1.0
    monkeypatch.undo()
    kit.reconciler.step()
    assert kit.reconciler.broken is None


def test_the_thread_follows_the_registry_and_stop_retires_all(kit: Any) -> None:
    kit.reconciler.start()
    kit.reconciler.start()
    assert [t.name for t in threading.enumerate()].count("everloop-reconciler") == 1
    assert kit.reconciler.alive
    for version in (1, 2, 3):
        kit.publish("m", [float(version)])
        assert kit.reconciler.wait_for("m", version, timeout=20)
        assert kit.predictor.predict("m", [1.0]).prediction == float(version)
    lane = kit.table.current.lanes["m"]
    kit.reconciler.stop()
    kit.reconciler.stop()
    assert lane.closed
    assert not kit.reconciler.alive
    assert kit.table.current.lanes == {}


def test_a_change_by_another_process_is_found_by_its_revision(kit: Any) -> None:
    """Without a wake-up in this process, the poll sees it."""
    kit.registry.subscribe_changes = lambda callback: lambda: None
    kit.reconciler.start()
    kit.publish("m", [1.0])
    assert kit.reconciler.wait_for("m", 1, timeout=20)


def test_waiting_for_a_rollback_waits_until_it_serves(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.publish("m", [2.0])
    kit.reconciler.step()
    assert kit.reconciler.wait_for("m", 1, timeout=0.01), "superseded by 2"
    kit.registry.rollback("m")
    assert not kit.reconciler.wait_for("m", 1, timeout=0.01)
    kit.reconciler.step()
    assert kit.reconciler.wait_for("m", 1, timeout=0.01)


def test_wait_for_gives_up(kit: Any) -> None:
    assert not kit.reconciler.wait_for("m", 1, timeout=0.01)


def test_versions_never_go_back_by_themselves(kit: Any) -> None:
    """Two reconcilers' worth of steps from several threads, while versions are published."""
    reconciler: Reconciler = kit.reconciler
    kit.publish("m", [1.0])
    reconciler.step()
    stop = threading.Event()
    went_back: list[tuple[int, int]] = []

    def step() -> None:
        while not stop.is_set():
            reconciler.step()

    def watch() -> None:
        last = 0
        while not stop.is_set():
            version = kit.table.current.lanes["m"].version
            if version < last:
                went_back.append((last, version))
            last = version

    threads = [threading.Thread(target=step), threading.Thread(target=step), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    for version in range(2, 40):
        kit.publish("m", [float(version)])
    assert reconciler.wait_for("m", 39, timeout=30)
    stop.set()
    for thread in threads:
        thread.join()
    assert went_back == []
