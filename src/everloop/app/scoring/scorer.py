"""The function that is spread: a block of rows in, the bytes of their output back.

It travels to the workers as a description, and loads the model there when the first block comes: once in a process, whatever the number
of blocks. Threads share one scorer, and so one session.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from everloop.app.scoring.decoding import Rows
from everloop.app.scoring.encoding import Encoder, Unfitting
from everloop.app.scoring.models import FittedModel, FunctionModel
from everloop.app.scoring.predicting import Answers, Predictor
from everloop.app.scoring.rows import Block, Scored
from everloop.app.scoring.source import Decoder

CLOSE_SECONDS = 5.0
OnBadRow = Literal["fail", "skip", "keep"]


@dataclass
class Answered:
    """A block between its answers and its bytes."""

    rows: Rows
    prepared: Any
    answers: Answers
    began: float


@dataclass
class Scorer:
    model: FittedModel | FunctionModel
    columns: tuple[str, ...]
    """Where each field of the model is found."""
    decoder: Decoder
    encoder: Encoder
    on_error: OnBadRow
    dead_letters: bool
    scores: bool

    def __post_init__(self) -> None:
        self._predictor: Predictor | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._running = 0

    def __call__(self, block: Block) -> Scored:
        with self._idle:
            self._running += 1
        try:
            return self.write(self.answer(block))
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def answer(self, block: Block) -> Answered:
        predictor = self._loaded()
        began = time.perf_counter()
        rows = self.decoder.rows(block)
        prepared = self.encoder.prepare(rows)
        return Answered(rows, prepared, predictor.predict(rows, first_only=self.on_error == "fail"), began)

    def write(self, answered: Answered) -> Scored:
        rows, answers = answered.rows, answered.answers
        payload = b""
        while not (self.on_error == "fail" and rows.errors):
            chosen = [i for i in range(len(rows)) if self.on_error == "keep" or i not in rows.errors]
            try:
                payload = self.encoder.encode(rows, answered.prepared, chosen, answers) if chosen else b""
            except Unfitting as found:
                rows.errors[found.i] = found.error
                answers.values[found.i] = None
                continue
            break
        return Scored(
            payload=payload,
            dead_letters=_letters(rows) if self.dead_letters else b"",
            rows=len(rows),
            written=len(rows) if self.on_error == "keep" else len(rows) - len(rows.errors),
            errors=len(rows.errors),
            first_error=rows.errors[min(rows.errors)] if rows.errors else None,
            seconds=time.perf_counter() - answered.began,
        )

    def refuse(self, block: Block, message: str) -> Scored:
        """What becomes of a block whose rows nothing can score. The model is not asked."""
        began = time.perf_counter()
        rows = self.decoder.rows(block)
        prepared = self.encoder.prepare(rows)
        for i in range(len(rows)):
            rows.bad(i, None, message)
        return self.write(Answered(rows, prepared, Answers([None] * len(rows)), began))

    def close(self) -> None:
        """Wait for threads that an interrupted run has left in the model: a process that ends under native code is aborted."""
        with self._idle:
            self._idle.wait_for(lambda: not self._running, CLOSE_SECONDS)
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None

    def _loaded(self) -> Predictor:
        predictor = self._predictor
        if predictor is None:
            with self._lock:
                predictor = self._predictor
                if predictor is None:
                    predictor = self._predictor = self.model.load(self.columns, scores=self.scores)
        return predictor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_predictor": None, "_lock": None, "_idle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()


def _letters(rows: Rows) -> bytes:
    letters = [
        {"line": error.line, "column": error.column, "error": error.message, "row": rows.source(i)}
        for i, error in sorted(rows.errors.items())
    ]
    return b"".join(msgspec.json.encode(letter, enc_hook=str) + b"\n" for letter in letters)
