"""Connections beyond the limit: told why, let go, and in nobody's way."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.api.test_fastlane import Plain, Server, put_lane, request

from everloop.api.http import crowd
from everloop.api.http.limits import Limits
from everloop.core.schema import Schema

MOST = 3


@pytest.fixture
def server(services: Any) -> Any:
    services.reconciler.stop()
    services.limits = Limits(max_connections=MOST)
    put_lane(services, "sum", Plain(Schema.unnamed(2), lambda X: np.sum(X, axis=1)))
    with Server(services) as made:
        yield made


ASK = {"features": [1.0, 2.0]}


def test_one_too_many_is_told_so_before_it_asks_and_closed(server: Any) -> None:
    inside = [server.connect() for _ in range(MOST)]
    for client in inside:
        assert client.ask(ASK)[0] == 200
    with server.connect() as outside:
        status, headers, body = outside.answer()
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert json.loads(body)["code"] == "overloaded"
        assert outside.closed()
    for client in inside:
        assert client.ask(ASK)[0] == 200, "nobody else is concerned"
    inside.pop().close()
    server.on_loop(lambda: None)
    assert _gets_in(server)
    for client in inside:
        client.close()


def test_what_it_has_sent_does_not_cost_it_its_answer(server: Any) -> None:
    inside = [server.connect() for _ in range(MOST)]
    for client in inside:
        assert client.ask(ASK)[0] == 200
    for _ in range(20):
        with server.connect() as outside:
            outside.send(request(ASK))
            assert outside.answer()[0] == 503
    for client in inside:
        client.close()


def test_where_too_many_are_told_the_rest_is_cut_off(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "MOST_TOLD", 0)
    inside = [server.connect() for _ in range(MOST)]
    for client in inside:
        assert client.ask(ASK)[0] == 200
    with server.connect() as outside, pytest.raises(ConnectionResetError):
        outside.answer()
    for client in inside:
        client.close()


def _gets_in(server: Any) -> bool:
    """Once the server has seen that somebody left."""
    while True:
        with server.connect() as client:
            try:
                if client.ask(ASK)[0] == 200:
                    return True
            except (ConnectionResetError, BrokenPipeError):
                continue
