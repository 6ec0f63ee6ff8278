"""Draining begins once, tells everybody once, from any thread."""

from __future__ import annotations

import threading

from everloop.api.services import Services


def test_draining_is_told_once(services: Services) -> None:
    told: list[str] = []
    services.on_drain(lambda: told.append("a"))
    undo = services.on_drain(lambda: told.append("b"))
    undo()
    undo()
    threads = [threading.Thread(target=services.drain) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert services.draining
    assert told == ["a"]


def test_who_asks_later_is_told_at_once(services: Services) -> None:
    services.drain()
    told: list[int] = []
    services.on_drain(lambda: told.append(1))()
    assert told == [1]
