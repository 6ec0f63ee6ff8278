"""The spine: which error for which missing model, and that no swap can tear an answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from everloop.core.errors import InvalidInput, ModelNotFound, ModelUntrained, StoreUnavailable, Untrusted


def test_an_unknown_model_is_told_with_near_names(kit: Any) -> None:
    kit.publish("fraud", [1.0])
    kit.reconciler.step()
    with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
        kit.predictor.predict("frued", [1.0])


@pytest.mark.parametrize("name", [None, 3, ["m"], b"m"])
def test_a_name_is_text(kit: Any, name: Any) -> None:
    with pytest.raises(InvalidInput, match="name of a model"):
        kit.predictor.predict(name, [1.0])


def test_an_untrained_model_says_so(kit: Any) -> None:
    kit.publish("m", [1.0], live=False)
    kit.reconciler.step()
    with pytest.raises(ModelUntrained, match="'m' has no version yet"):
        kit.predictor.predict("m", [1.0])
    with pytest.raises(ModelUntrained):
        asyncio.run(kit.predictor.predict_async("m", [1.0]))


def test_a_version_that_is_not_open_yet_is_a_matter_of_time(kit: Any) -> None:
    kit.publish("m", [1.0])
    with pytest.raises(StoreUnavailable) as caught:
        kit.predictor.predict_batch("m", [[1.0]])
    assert caught.value.retry_after


def test_a_version_that_cannot_be_opened_says_why(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> Any:
        raise Untrusted("it is pickled; say trust_pickle=True", field="trust_pickle")

    monkeypatch.setattr(kit.registry, "open_session", refuse)
    kit.publish("m", [1.0])
    kit.reconciler.step()
    why = r"version 1 of model 'm' cannot be opened: .* trust_pickle=True"
    with pytest.raises(Untrusted, match=why) as one:
        kit.predictor.predict("m", [1.0])
    with pytest.raises(Untrusted, match=why) as other:
        kit.predictor.predict_batch("m", [[1.0]])
    assert one.value is not other.value  # each has a traceback of its own
    assert one.value.field == "trust_pickle"
    monkeypatch.undo()
    kit.publish("m", [1.0])  # the next version is a matter of time again
    with pytest.raises(StoreUnavailable, match="version 2 of model 'm' is being opened"):
        kit.predictor.predict("m", [1.0])


def test_sync_and_async_agree(kit: Any) -> None:
    kit.publish("m", [2.0, 3.0], 0.1)
    kit.reconciler.step()
    rows = [[0.1 * i, 1.0] for i in range(10)]

    async def main() -> tuple[list[float], list[float]]:
        single = await asyncio.gather(*(kit.predictor.predict_async("m", row) for row in rows))
        batch = await kit.predictor.predict_batch_async("m", rows)
        return [p.prediction for p in single], batch.predictions

    single, batch = asyncio.run(main())
    assert single == batch == [kit.predictor.predict("m", row).prediction for row in rows]
    assert kit.predictor.predict_batch("m", rows).predictions == batch


@pytest.mark.parametrize("bad", [[1.0], [1.0, "x"], {"a": 1}])
def test_async_refuses_what_sync_refuses(kit: Any, bad: Any) -> None:
    kit.publish("m", [2.0, 3.0])
    kit.reconciler.step()
    with pytest.raises(InvalidInput) as sync:
        kit.predictor.predict("m", bad)
    with pytest.raises(InvalidInput) as later:
        asyncio.run(kit.predictor.predict_async("m", bad))
    assert str(sync.value) == str(later.value)


def test_no_answer_is_torn_by_swaps(kit: Any) -> None:
    """Version v answers v for input 1: every pair must be one that a version gives, and versions only rise."""
    kit.publish("m", [1.0])
    kit.reconciler.step()
    stop = threading.Event()
    wrong: list[Any] = []
    seen: set[int] = set()

    def predict() -> None:
        last = 0
        while not stop.is_set():
            answer = kit.predictor.predict("m", [1.0])
            if answer.prediction != answer.model_version or answer.model_version < last:
                wrong.append(answer)
            last = answer.model_version
            seen.add(last)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 102):
            kit.publish("m", [float(version)])
            kit.reconciler.step()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert kit.predictor.predict("m", [1.0]).model_version == 101
    assert len(seen) > 1
