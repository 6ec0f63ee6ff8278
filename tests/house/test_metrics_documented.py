"""What is watched: every metric is documented, and no dashboard, alert or document asks for one that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everloop.api.exposition import Collector
from everloop.app.build import build_engine
from everloop.app.settings import EngineSettings

DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"\beverloop_[a-z_]+\b")
LABELS = re.compile(r"\{([^{}]*)\}")
KINDS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def families() -> dict[str, Any]:
    """name -> family, of a server with nothing in it: families without samples are there, too."""
    engine = build_engine(EngineSettings())
    found = {family.name: family for family in Collector(engine.services).collect()}
    engine.stop()
    return found


@pytest.fixture(scope="module")
def series(families: dict[str, Any]) -> set[str]:
    return {name + ending for name, family in families.items() for ending in KINDS[family.type]}


def queries(node: Any) -> Iterator[str]:
    """Of the dashboard: what its panels and variables ask Prometheus."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from queries(value)
    elif isinstance(node, list):
        for each in node:
            yield from queries(each)


DASHBOARD = json.loads((DOCS / "grafana.json").read_text())


def test_the_dashboard_asks_for_metrics_that_there_are(series: set[str]) -> None:
    asked = [query for query in queries(DASHBOARD) if "everloop_" in query]
    assert len(asked) > 25
    unknown = {name for query in asked for name in NAME.findall(query)} - series
    assert unknown == set()
    for query in asked:
        assert query.count("(") == query.count(")"), query
        assert query.count("{") == query.count("}"), query


def test_the_panels_of_the_dashboard_have_ids_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_names_metrics_that_there_are(page: Path, series: set[str], families: dict[str, Any]) -> None:
    named = set(NAME.findall(re.sub(r"everloop_[a-z_]*…", "", page.read_text())))
    named = {name for name in named if not name.startswith("everloop_watcher")}
    assert named - series - set(families) == set()


def test_every_metric_is_documented_in_its_own_words(families: dict[str, Any]) -> None:
    page = (DOCS / "operations.md").read_text().replace("\\|", "|")
    rows = re.findall(r"^\| `(everloop_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", page, re.MULTILINE)
    documented = {name: (kind, text) for name, kind, _, text in rows}
    total = {"counter": "_total"}
    real = {f"{name}{total.get(f.type, '')}": (f.type, f.documentation) for name, f in families.items()}
    assert documented == real


def test_every_metric_says_what_it_is(families: dict[str, Any]) -> None:
    for family in families.values():
        assert re.fullmatch(r"everloop_[a-z][a-z0-9_]*", family.name)
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent)$", family.name), "base units"
