"""Queues as the server shows them: the same caller on every way in, and a lane that refuses is told of."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.test_fastlane import Plain, Server, put_lane

from everloop.api.health import health
from everloop.core.schema import Schema
from everloop.serving.admission import Admission


@pytest.mark.parametrize("fast", [True, False])
def test_whoever_has_no_key_is_known_by_address(services: Any, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    check = Admission.check

    def noted(self: Admission, caller: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(caller)
        return check(self, caller, *args, **kwargs)

    monkeypatch.setattr(Admission, "check", noted)
    services.reconciler.stop()
    put_lane(services, "sum", Plain(Schema.unnamed(2), lambda X: X.sum(axis=1)))
    with Server(services, fast=fast) as server, server.connect() as client:
        several = {"instances": [[1.0, 2.0], [3.0, 4.0]]}
        for body in (several, {"features": [1.0, 2.0]}):  # with a deadline, somebody is always asked for
            assert client.ask(body, headers={"everloop-timeout": "5"})[0] == 200
    assert seen == ["127.0.0.1", "127.0.0.1"]


def test_health_tells_of_a_lane_that_refuses(services: Any) -> None:
    services.reconciler.stop()
    lane = put_lane(services, "sum", Plain(Schema.unnamed(2), lambda X: X.sum(axis=1)))
    with Server(services) as server, server.connect() as client:
        assert client.ask({"features": [1.0, 2.0]})[0] == 200
        assert health(services).components["queues"].status == "ok"
        (batcher,) = lane.batchers
        batcher.admission.count("deadline")
        assert health(services).components["queues"].status == "ok", "nobody else would have been in time either"
        batcher.admission.count("queue")
        queues = health(services).components["queues"]
        assert queues.status == "degraded"
        assert "'sum'" in queues.detail
        assert lane.grounds == {"deadline": 1, "queue": 1}
        batcher.admission.last -= 10.0
        assert health(services).components["queues"].status == "ok"
