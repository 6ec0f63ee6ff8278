"""From a model's tensors to the answers that people read: pure functions, for the routes of the server and for programs without one.
What is no such answer (other labels, a probability that is no number) raises ValueError or KeyError.

found     name -> array, one row a question, as a model of `showcase` gives them
classes   the model's labels, in the order of its probabilities
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import msgspec

from everloop.core.tensors import Tensors
from everloop.showcase.answers import LabelConfidence, Recommendation, SentimentAnswer, WordWeight

PREDICTION, PROBABILITIES, EXPLANATION, ITEMS = "prediction", "probabilities", "explanation", "items"

_words = msgspec.json.Decoder(list[tuple[str, float]])
_items = msgspec.json.Decoder(list[Recommendation])


def sentiments(found: Tensors, classes: Sequence[Any], *, detailed: bool = False) -> list[SentimentAnswer]:
    """One a text. `score` is P(positive) - P(negative); `words` are there where the model explains itself (`explanation`)."""
    places = {str(label): place for place, label in enumerate(classes)}
    positive, negative = places["positive"], places["negative"]
    explained = found.get(EXPLANATION) if detailed else None
    answers = []
    for i, (label, row) in enumerate(zip(found[PREDICTION].tolist(), found[PROBABILITIES].tolist(), strict=True)):
        name = text_of(label)
        _check_finite(row)
        answer = SentimentAnswer(name, round(row[places[name]], 6), round(row[positive] - row[negative], 6))
        if detailed:
            answer.scores = {label: round(row[place], 6) for label, place in places.items()}
            if explained is not None:
                answer.words = [WordWeight(*each) for each in _words.decode(explained[i])]
        answers.append(answer)
    return answers


def likeliest(found: Tensors, classes: Sequence[Any], most: int) -> list[list[LabelConfidence]]:
    """For each image its likeliest labels, at most so many, the likeliest first; equal ones in the model's order."""
    names = [str(label) for label in classes]
    answers = []
    for row in found[PROBABILITIES].tolist():
        _check_finite(row)
        best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:most]
        answers.append([LabelConfidence(names[place], round(row[place], 6)) for place in best])
    return answers


def recommendations(found: Tensors) -> list[list[Recommendation]]:
    """For each query its items, the best first."""
    return [_items.decode(each) for each in found[ITEMS].tolist()]


def _check_finite(row: list[float]) -> None:
    if not isfinite(sum(row)):
        raise ValueError("a probability is no finite number")


def text_of(label: Any) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)
