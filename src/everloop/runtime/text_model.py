"""Linear text classifiers as data: a compact, safe artifact format, and what is computed with it.

    logits[class] = Σ weights of the text's features + Σ weights of its words' pieces + numbers · their weights

Features and numbers are those of `text_reading`. Pieces are the character n-grams of a word, its ends marked: what is known of words that
nobody has seen. They depend on the word only, so a word's row is its own and its pieces' added up, and is remembered. A text is added up
in the order of its features, alone: it has the same logits to the last bit beside whatever it is asked.

Format: the eight bytes `EVERTEXT`, then one msgpack map of lists of strings and little-endian numbers. There is nothing in it that could
run, and reading believes nothing.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from operator import mul
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt
from everloop.core.structs import looked_into
from everloop.runtime.text_reading import NUMBERS, Reader, Text

Floats = npt.NDArray[np.float64]
Weights: TypeAlias = tuple[float, ...]
"""One a class."""

MAGIC = b"EVERTEXT"
FORMAT = 1
_SEPARATOR = "\n"  # no token has one
_PRECISIONS = {"half": "<f2", "single": "<f4"}
_SHORTEST = 4
"""Shorter words have no pieces: they are known, or they say nothing."""
_LONGEST = 40
_MOST_WORDS = 100_000
"""Rows of words that are remembered."""


@looked_into
class _File(msgspec.Struct, frozen=True):
    format: int
    classes: int
    precision: str
    features: str
    """Separated by line feeds."""
    weights: bytes
    """(features, classes)"""
    curvatures: bytes
    """(features,)"""
    pieces: str
    piece_weights: bytes
    piece_sizes: tuple[int, int]
    numbers: list[str]
    number_weights: bytes
    """(numbers, classes)"""
    number_curvatures: bytes
    lexicon: str
    valences: bytes


class Tables(NamedTuple):
    """A model's weights as they are trained, and kept."""

    features: dict[str, Weights]
    curvatures: dict[str, float]
    """Of the loss along each feature's weight: the more, the more it has seen (`learning.learners.text`)."""
    pieces: dict[str, Weights]
    piece_sizes: tuple[int, int]
    numbers: list[Weights]
    """One a number of `text_reading.NUMBERS`."""
    number_curvatures: list[float]
    lexicon: Mapping[str, float]


class _Words(dict[str, Weights | None]):
    """Token -> its row, a word's pieces in it; None where nothing is known of it. Looked up once, then remembered."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self._features, self._pieces = tables.features, tables.pieces
        self._sizes = range(tables.piece_sizes[0], tables.piece_sizes[1] + 1)

    def __missing__(self, token: str) -> Weights | None:
        row = self._look_up(token)
        if len(token) <= _LONGEST:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[token] = row
        return row

    def _look_up(self, token: str) -> Weights | None:
        own = self._features.get(token)
        if not token[0].isalpha():
            return own
        rows = [row for piece in pieces_of(token, self._sizes) if (row := self._pieces.get(piece)) is not None]
        if not rows:
            return own
        if own is not None:
            rows.append(own)
        return tuple(map(sum, zip(*rows, strict=True)))


class TextModel:
    """Whoever owns its tables may change weights of features and numbers, and calls `changed` then."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.classes = len(tables.numbers[0])
        self.reader = Reader(tables.lexicon)
        self._words = _Words(tables)
        self._columns = list(zip(*tables.numbers, strict=True))

    def changed(self, features: Iterable[str]) -> None:
        """The weights of these features, or of numbers, are others now."""
        self._columns = list(zip(*self.tables.numbers, strict=True))
        for feature in features:
            self._words.pop(feature, None)

    def logits(self, text: str) -> list[float]:
        return self.logits_of(self.reader.read(text))

    def logits_of(self, read: Text) -> list[float]:
        numbers = read.numbers()
        rows = list(filter(None, map(self._words.__getitem__, dict.fromkeys(read.tokens))))
        rows += filter(None, map(self.tables.features.get, dict.fromkeys(read.others())))
        if not rows:
            return [sum(map(mul, numbers, column)) for column in self._columns]
        columns = zip(*rows, strict=True)
        return [sum(mine) + sum(map(mul, numbers, column)) for mine, column in zip(columns, self._columns, strict=True)]

    def probabilities(self, text: str) -> list[float]:
        return softmax(self.logits(text))

    def explain(self, text: str, toward: int, against: int | None, most: int) -> list[tuple[str, float]]:
        """The words that matter most, and how far each moves the logit of class `toward` from that of `against`; None: from the mean of
        the others. A pair of neighbours counts half for each, so a negation shares with what it negates, which is shown with it (`not good`).
        A word that comes several times is told once, and what a lexicon makes of it counts as what the numbers would be without all of
        these."""
        read = self.reader.read(text)
        side = [-1.0 / (self.classes - 1)] * self.classes if against is None else [0.0] * self.classes
        side[toward] = 1.0
        if against is not None:
            side[against] = -1.0
        told: dict[str, float] = {}
        seen: set[str] = set()
        tokens, negated = read.tokens, set(read.negated)
        written = self.reader.written(text)
        shown = [f"not {word}" if i in negated else word for i, word in enumerate(written)]

        def add(feature: str, *places: int) -> None:
            """In equal parts to the words at these places; a feature is there once."""
            row = None if feature in seen else self._row_of(feature)
            seen.add(feature)
            if row is not None and places:
                part = sum(map(mul, side, row)) / len(places)
                for i in places:
                    told[shown[i]] = told.get(shown[i], 0.0) + part

        for i, token in enumerate(tokens):
            add(token, i)
            if i in negated:
                add(f"¬{token}", i)
        for i, (before, after) in enumerate(pairwise(["<s>", *tokens, "</s>"])):
            add(f"{before} {after}", *(place for place in (i - 1, i) if 0 <= place < len(tokens)))
        whole = read.numbers()
        most_valued = max(_LEAST_VALUED, _MOST_NUMBERS // (len(read.valued) + 1))
        valued: dict[str, set[int]] = {}
        for place, i in enumerate(read.valued):
            valued.setdefault(shown[i], set()).add(place)
        for word, valences in islice(valued.items(), most_valued):
            moved = [a - b for a, b in zip(whole, read.numbers(without=valences), strict=True)]
            effect = sum(s * sum(map(mul, moved, column)) for s, column in zip(side, self._columns, strict=True))
            told[word] = told.get(word, 0.0) + effect
        best = sorted(told.items(), key=lambda each: (-abs(each[1]), each[0]))
        return [(word, round(weight, 4)) for word, weight in best[:most] if abs(weight) >= _LEAST_WEIGHT]

    def _row_of(self, feature: str) -> Weights | None:
        """Of any feature."""
        several = " " in feature or (feature[0] == "¬" and len(feature) > 1)
        return self.tables.features.get(feature) if several else self._words[feature]


_MOST_NUMBERS = 100_000
"""Values that are summed for one explanation: each word that a lexicon knows is left out once, and all others are summed again. Beyond some
300 of them, only the first ones are tried."""
_LEAST_VALUED = 20
_LEAST_WEIGHT = 0.01


def pieces_of(word: str, sizes: Sequence[int]) -> list[str]:
    """The distinct character n-grams of a word of these sizes."""
    if len(word) < _SHORTEST or len(word) > _LONGEST:
        return []
    marked = f"<{word}>"
    return list(dict.fromkeys(marked[i : i + n] for n in sizes for i in range(len(marked) - n + 1)))


def softmax(logits: Sequence[float]) -> list[float]:
    greatest = max(logits)
    each = [math.exp(logit - greatest) for logit in logits]
    total = sum(each)
    return [value / total for value in each]


def pack_text(tables: Tables, *, precision: str = "single") -> bytes:
    """`precision`: of weights that were trained, `half` is enough; of such as learn on, `single`."""
    form = _PRECISIONS[precision]

    def numbers(values: Any) -> bytes:
        return np.asarray(values, np.float64).astype(form).tobytes()

    features = list(tables.features)
    return MAGIC + msgspec.msgpack.encode(
        _File(
            FORMAT,
            len(tables.numbers[0]),
            precision,
            _SEPARATOR.join(features),
            numbers(list(tables.features.values())),
            numbers([tables.curvatures[feature] for feature in features]),
            _SEPARATOR.join(tables.pieces),
            numbers(list(tables.pieces.values())),
            tables.piece_sizes,
            list(NUMBERS),
            np.asarray(tables.numbers, "<f4").tobytes(),
            np.asarray(tables.number_curvatures, "<f4").tobytes(),
            _SEPARATOR.join(tables.lexicon),
            np.asarray(list(tables.lexicon.values()), "<f4").tobytes(),
        )
    )


def unpack_text(payload: bytes) -> Tables:
    """Raises ArtifactCorrupt."""
    if not payload.startswith(MAGIC):
        raise ArtifactCorrupt("not a text model: the bytes do not begin as everloop's text format does")
    try:
        file = msgspec.msgpack.decode(memoryview(payload)[len(MAGIC) :], type=_File)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ArtifactCorrupt(f"a text model that cannot be read: {error}") from error
    if file.format != FORMAT:
        raise ArtifactCorrupt(f"a text model of format {file.format}; this everloop reads format {FORMAT}")
    if file.precision not in _PRECISIONS or file.classes < 2 or tuple(file.numbers) != NUMBERS:
        raise ArtifactCorrupt("a text model that was made by other rules than these")
    smallest, largest = file.piece_sizes
    if not 1 <= smallest <= largest <= _LONGEST:
        raise ArtifactCorrupt(f"a text model with pieces of {smallest} to {largest} characters")
    with _uncollected():
        return _tables(file, smallest, largest)


def _tables(file: _File, smallest: int, largest: int) -> Tables:
    form = _PRECISIONS[file.precision]
    features, pieces, lexicon = _listed(file.features), _listed(file.pieces), _listed(file.lexicon)
    curvatures = _numbers(file.curvatures, form, len(features), 1)[:, 0].tolist()
    number_curvatures = _numbers(file.number_curvatures, "<f4", len(NUMBERS), 1)[:, 0].tolist()
    if min(curvatures, default=1.0) <= 0.0 or min(number_curvatures) <= 0.0:
        raise ArtifactCorrupt("a text model with curvatures that are not above 0")
    return Tables(
        dict(zip(features, _rows(file.weights, form, len(features), file.classes), strict=True)),
        dict(zip(features, curvatures, strict=True)),
        dict(zip(pieces, _rows(file.piece_weights, form, len(pieces), file.classes), strict=True)),
        (smallest, largest),
        _rows(file.number_weights, "<f4", len(NUMBERS), file.classes),
        number_curvatures,
        dict(zip(lexicon, _numbers(file.valences, "<f4", len(lexicon), 1)[:, 0].tolist(), strict=True)),
    )


def _listed(text: str) -> list[str]:
    """Raises ArtifactCorrupt for one that is there twice, or empty."""
    names = text.split(_SEPARATOR) if text else []
    if not all(names) or len(set(names)) != len(names):
        raise ArtifactCorrupt("a text model that names something twice, or nothing")
    return names


def _rows(data: bytes, form: str, rows: int, columns: int) -> list[Weights]:
    return list(zip(*_numbers(data, form, rows, columns).T.tolist(), strict=True))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Tens of thousands of small tuples would have the collector look at all of them, several times: more than half of the time that
    loading takes. It goes on right after."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _numbers(data: bytes, form: str, rows: int, columns: int) -> Floats:
    """(rows, columns). Raises ArtifactCorrupt."""
    if len(data) != rows * columns * np.dtype(form).itemsize:
        raise ArtifactCorrupt(f"a text model of {rows} × {columns} numbers in {len(data)} bytes")
    numbers = np.frombuffer(data, form).astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ArtifactCorrupt("a text model whose numbers are not finite")
    return numbers.reshape(rows, columns)
