"""SignalForge's samples of registry and router, as they were printed: only their import lines are changed.

What a sample takes for granted (a registered `lstm_model`, `model`, `old_model_id`) is made before it.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from everloop.registry import ModelRegistry

ROUTER = """
from signalforge.ml.serving import ModelRouter
from signalforge.ml.inference import ModelRegistry

registry = ModelRegistry()
router = ModelRouter(registry)

# Configure traffic split (80/20)
await router.set_traffic_split(
    "lstm_model",
    {
        "v1.0": 0.8,
        "v2.0": 0.2
    }
)

# Route request (consistent hashing)
model = await router.route_request("lstm_model", "req_123")

# Record metrics
router.record_request("lstm_model", "v2.0", latency_ms=45.0)

# Check for rollback
if router.should_rollback("lstm_model", "v2.0", error_rate_threshold=5.0):
    # Rollback to v1.0
    await router.set_traffic_split("lstm_model", {"v1.0": 1.0})

# Get performance metrics
stats = router.get_version_stats("lstm_model", "v2.0")
print(f"Error rate: {stats['error_rate_pct']:.2f}%")
print(f"Avg latency: {stats['avg_latency_ms']:.2f}ms")
"""

REGISTRY = """
from signalforge.ml.inference import ModelRegistry

registry = ModelRegistry("models/")

# Register model in staging
model_id = registry.register(
    model,
    metrics={"mse": 0.025, "latency_ms": 45.0},
    tags={"type": "lstm", "dataset": "sp500"},
    status="staging"
)

# Canary deployment (5% traffic)
registry.promote_to_production(model_id, traffic_percentage=0.05)

# Monitor metrics, then increase traffic
registry.set_traffic_percentage(model_id, 0.50)

# Full rollout
registry.set_traffic_percentage(model_id, 1.0)

# List production models
prod_models = registry.get_production_models()

# Archive old version
registry.archive_model(old_model_id)
"""

IMPORTS = {
    "from signalforge.ml.serving import": "from everloop.serving import",
    "from signalforge.ml.inference import": "from everloop.registry import",
}
X = np.random.default_rng(1).normal(size=(30, 2))


def run(sample: str, **taken_for_granted: Any) -> dict[str, Any]:
    """The names that the sample leaves behind. It may use `await`, as a notebook does."""
    for theirs, ours in IMPORTS.items():
        sample = sample.replace(theirs, ours)
    names = dict(taken_for_granted)
    code = compile(sample, "<sample>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def story() -> None:
        outcome = eval(code, names)
        if inspect.isawaitable(outcome):
            await outcome

    asyncio.run(story())
    return names


def line(slope: float) -> LinearRegression:
    return LinearRegression().fit(X, slope * X[:, 0])


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_router(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with ModelRegistry() as registry:
        for slope in (1.0, 2.0):
            registry.register(line(slope), name="lstm_model", version=f"v{slope}")
    names = run(ROUTER)
    assert capsys.readouterr().out == "Error rate: 0.00%\nAvg latency: 45.00ms\n"
    assert names["model"].version in ("v1.0", "v2.0")
    assert {info.version: info.share for info in names["registry"].get_production_models()} == {
        "v1.0": 0.8,
        "v2.0": 0.2,
    }
    names["registry"].close()
    assert (tmp_path / "models/everloop.db").exists()


def test_the_router_rolls_back() -> None:
    with ModelRegistry() as registry:
        for slope in (1.0, 2.0):
            registry.register(line(slope), name="lstm_model", version=f"v{slope}")
    failing = 'for _ in range(100): router.record_request("lstm_model", "v2.0", latency_ms=45.0, error="down")\n'
    names = run(ROUTER.replace("# Check for rollback\n", failing))
    assert [info.version for info in names["registry"].get_production_models()] == ["v1.0"]
    names["registry"].close()


def test_the_registry() -> None:
    with ModelRegistry("models/") as registry:
        old = registry.register(line(1.0), name="LinearRegression")
        registry.promote_to_production(old)
    names = run(REGISTRY, model=line(2.0), old_model_id=old)
    (served,) = names["prod_models"]
    assert served.id == names["model_id"]
    assert (served.status, served.traffic_percentage) == ("production", 1.0)
    assert served.metrics == {"mse": 0.025, "latency_ms": 45.0}
    assert served.tags == {"type": "lstm", "dataset": "sp500"}
    assert names["registry"].get(old).status == "archived"
    del names, served
    gc.collect()
