"""The pictures are drawn from measured numbers only, and small enough to commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everloop.app.bench.figures import draw

SERVER = {"per_second": 40_000.0, "p50_us": 70.0, "p99_busy_us": 2000.0, "cpu_us": 22.0, "resident_mb": 150.0}
DATA: dict[str, Any] = {
    "in process": {
        "microseconds": {w: {"everloop": 0.9, "bare": 0.4, "scikit-learn": 180.0} for w in ("1", "8", "30")}
    },
    "http": dict.fromkeys(("everloop", "fastapi", "bare"), SERVER),
    "timeline": {
        "changes": [0.0, 5.0],
        "events": [{"at": 5.5, "kind": "drift", "version": None}, {"at": 5.8, "kind": "swapped", "version": 2}],
        "bins": [
            {
                "at": i / 4,
                "per_second": 1e5,
                "p50_us": 1.0,
                "p99_us": 4.0,
                "error": float(20 < i < 23),
                "version": 1 + (i > 22),
            }
            for i in range(40)
        ],
    },
    "rollout_simulation": {
        "null_errors": {"z-test": 300, "simulations": 1000},
        "errors": {way: [*range(10, 990, 10), None] for way in ("gate", "mSPRT", "z-test")},
        "quality": {way: [*range(30, 2970, 30), None] for way in ("gate", "mSPRT", "z-test")},
        **{f"{what}, {tolerance}": list(range(99)) for what in "ab" for tolerance in ("no tolerance", "tolerated")},
    },
    "parallel": {
        "workloads": [
            {
                "name": name,
                "best": [0.5, 0.51],
                "cold": [0.6, 0.62],
                "warm": [0.5, 0.5],
                "peers": {"joblib": [0.52, 0.53], "mpire": [0.7, 0.71], "ProcessPoolExecutor": [8.0, 8.1]},
            }
            for name in ("10 µs", "5 ms sleeps")
        ]
    },
}


def test_all_pictures_are_drawn_and_small(tmp_path: Path) -> None:
    written = draw(DATA, tmp_path)
    assert {path.name for path in written} == {
        "latency.png",
        "throughput.png",
        "resources.png",
        "versions.png",
        "parallel.png",
        "rollouts.png",
        "dashboard.png",
    }
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 150_000


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    assert [path.name for path in draw({"timeline": DATA["timeline"], "http": {}}, tmp_path)] == ["versions.png"]


def test_a_peer_that_is_missing_leaves_its_bar_out(tmp_path: Path) -> None:
    data = {"http": dict.fromkeys(("everloop", "bare"), SERVER)}
    assert {path.name for path in draw(data, tmp_path)} == {"throughput.png", "resources.png"}
