"""Sentiment, by programs without a server: any text classifier's artifact whose labels are positive and negative among others.

What the routes of the server ask is the same artifact behind `api.questions.Sentiment`; both answer in `answers.SentimentAnswer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from everloop.core.errors import InvalidInput
from everloop.core.tensors import Array
from everloop.runtime.tensors import PREDICTION, PROBABILITIES
from everloop.runtime.text import EXPLANATION, TextSession
from everloop.showcase.answers import SentimentAnswer, SentimentsAnswer
from everloop.showcase.builtin import builtin_path
from everloop.showcase.config import ShowcaseConfig
from everloop.showcase.shaping import sentiments

RUNTIME = "text"
DETAILED = "detailed"
_NEEDED = ("positive", "negative")


class SentimentModel:
    """Safe from any thread."""

    def __init__(self, path: str | Path | None = None, *, config: ShowcaseConfig | None = None) -> None:
        """`path`: of an artifact; the built-in model if not given. `config`: how long a text may be, `max_text`.
        Raises InvalidInput, ArtifactCorrupt."""
        from everloop.runtime.artifact import Trust, load_session, read_payload
        from everloop.runtime.packaged import read_artifact

        self._path = Path(path) if path is not None else builtin_path("sentiment")
        self._manifest, payload = read_artifact(read_payload(self._path))
        if self._manifest.runtime != RUNTIME or not set(_NEEDED) <= set(self._manifest.classes or ()):
            raise InvalidInput(
                f"{self._path} is no sentiment model: expected the runtime {RUNTIME!r} with the labels positive and negative, got "
                f"{self._manifest.runtime!r} with {', '.join(map(repr, self._manifest.classes or ())) or 'none'}",
                field="path",
            )
        session = load_session(self._manifest, payload, trust=Trust())
        assert isinstance(session, TextSession)
        self._session = session
        self._most = (config or ShowcaseConfig()).max_text
        self.name = f"{'sentiment' if path is None else self._path.stem}-v1"

    def analyze(self, text: str, options: Mapping[str, Any] | None = None) -> SentimentAnswer:
        """`options`: `{"detailed": True}` also tells the probability of every label, and the words that mattered.
        Raises InvalidInput naming the field."""
        began = perf_counter()
        (answer,) = self._answers(self._checked(text, "text"), _detailed(options))
        answer.latency_ms, answer.model = _milliseconds(began), self.name
        return answer

    def analyze_batch(self, texts: Iterable[str], options: Mapping[str, Any] | None = None) -> SentimentsAnswer:
        """In the order of the texts, of which there may be any number. Raises InvalidInput naming the text: `texts[3]`."""
        began = perf_counter()
        if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
            raise InvalidInput(f"texts: expected several texts, got {type(texts).__name__}", field="texts")
        texts = list(texts)
        asked = np.empty(len(texts), object)
        for i, text in enumerate(texts):
            asked[i : i + 1] = self._checked(text, f"texts[{i}]")
        results = self._answers(asked, _detailed(options))
        return SentimentsAnswer(results, len(results), _milliseconds(began), self.name)

    def warmup(self) -> None:
        """Make the first answer as fast as all others."""
        self.analyze("This is good.", {DETAILED: True})

    def get_info(self) -> dict[str, Any]:
        tables = self._session.model.tables
        return {
            "model": self.name,
            "path": str(self._path),
            "labels": list(self._session.labels),
            "features": len(tables.features),
            "max_text": self._most,
            "metrics": dict(self._manifest.metrics),
            "trained_on": self._manifest.lineage.get("data"),
        }

    def close(self) -> None:
        self._session.close()

    def _checked(self, text: Any, field: str) -> Array:
        if not isinstance(text, str):
            raise InvalidInput(f"{field}: expected a text, got {type(text).__name__}", field=field)
        if not 1 <= len(text) <= self._most:
            raise InvalidInput(f"{field}: expected 1 to {self._most:,} characters, got {len(text):,}", field=field)
        one = np.empty(1, object)
        one[0] = text
        return one

    def _answers(self, texts: Array, detailed: bool) -> list[SentimentAnswer]:
        wanted = (PREDICTION, PROBABILITIES, EXPLANATION) if detailed else (PREDICTION, PROBABILITIES)
        found = self._session.tensors.infer([texts], wanted)
        return sentiments(found, self._session.labels, detailed=detailed)


def _detailed(options: Mapping[str, Any] | None) -> bool:
    """Raises InvalidInput for an option that there is not."""
    if options is not None and not isinstance(options, Mapping):
        raise InvalidInput(f"options: expected a mapping, got {type(options).__name__}", field="options")
    for name, value in (options or {}).items():
        if name != DETAILED:
            raise InvalidInput(f"options.{name}: unknown; there is {DETAILED}", field=f"options.{name}")
        if not isinstance(value, bool):
            raise InvalidInput(f"options.{name}: expected true or false, got {value!r:.60}", field=f"options.{name}")
    return bool(options and options.get(DETAILED))


def _milliseconds(began: float) -> float:
    return round((perf_counter() - began) * 1000, 3)
