"""What labels say of a model's versions, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def test_versions_side_by_side(client: TestClient, trained: Callable[..., str], teach: Callable[..., None]) -> None:
    name = trained()
    nothing = client.get(f"/v1/models/{name}/quality").json()
    assert (nothing["versions"], nothing["window"], nothing["overall"]) == ([], {"n": 0}, {"n": 0})
    teach(name, 3.0, 50)  # judges version 1, which knows another slope, and makes version 2
    teach(name, 3.0, 30)
    found = client.get(f"/v1/models/{name}/quality").json()
    assert (found["model"], found["task"], found["learns_here"]) == (name, "regression", True)
    first, second = found["versions"]
    assert (first["version"], second["version"]) == (1, 2)
    assert (first["status"], first["share"]) == ("retired", 0.0)
    assert (first["overall"]["n"], second["overall"]["n"]) == (50, 30)
    assert first["overall"]["mae"] > second["overall"]["mae"]
    assert first["window"]["mae"] == pytest.approx(first["overall"]["mae"])
    assert found["overall"]["n"] == found["window"]["n"] == 80
    assert {"rmse", "r2", "baseline_mae", "baseline_rmse"} <= set(second["overall"])
    for version, expected in ((1, first), (2, second)):
        told = client.get(f"/v1/models/{name}/versions/{version}").json()["quality"]
        assert told == expected["overall"] | {"window": expected["window"]}
    assert client.get(f"/v1/models/{name}").json()["quality"]["n"] == 80
    assert client.get("/v1/models/nobody/quality").status_code == 404
