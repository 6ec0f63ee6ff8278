"""A text as a linear model sees it: which features it has, and some numbers about the whole of it.

    tokens      words, emoticons, marks, pictographs; addresses and mentions stand as one token each, numbers as another
    features    each word and mark; each pair of neighbours; each word that something negates before it (`¬good`). There or not there: how
                often does not count
    numbers     `NUMBERS`: what a lexicon of valences adds up to under negation, emphasis and contrast; shouting, exclamation, length

The rules for negation (a factor of -0.74 within four words), emphasis (0.293, 0.733 for capitals), contrast and the normalisation
s / sqrt(s² + 15) are those of VADER: Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014. Here they make features, whose weights are learned.

Theory of operation: what a token is does not depend on its place, so it is looked up among the tokens seen before; the walk over a text
then only adds up. One expression splits it, without nested repetition: time is linear in the text.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

NUMBERS = (
    "one",
    "compound",
    "sum",
    "positive",
    "negative",
    "greatest",
    "least",
    "last",
    "first",
    "mean",
    "none",
    "after contrast",
    "how many positive",
    "how many negative",
    "both",
    "exclamation",
    "exclaimed",
    "question",
    "capitals",
    "shouted",
    "length",
)
"""What `numbers` gives, in order."""

_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)\S+
  | @\w+
  | [^\W\d_]+(?:['’][^\W\d_]+)*                          # words, with apostrophes inside
  | \d[\d.,:%]*
  | [<>]?[:;=8][-o*']?[)(\[\]dDpP/\\:}{@|*3]+            # emoticons
  | <3+ | \^_*\^ | -_+- | :'[)(]
  | [!?]+ | \.\.+
  | [^\w\s]                                              # any other mark or pictograph
    """,
    re.VERBOSE,
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NEGATORS = _set(
    "not no never neither nor none nobody nothing nowhere hardly scarcely barely rarely seldom without cannot cant "
    "wont dont doesnt didnt isnt arent wasnt werent havent hasnt hadnt couldnt shouldnt wouldnt aint lacks lacking "
    "lack nope"
)
_CONTRASTS = frozenset(("but", "however", "although", "though", "yet", "except", "despite"))
_MORE = _set(
    "absolutely amazingly awfully completely considerably decidedly deeply enormously entirely especially "
    "exceptionally extremely fabulously fucking fricking friggin fully fuckin greatly highly hugely incredibly "
    "intensely majorly more most particularly purely quite really remarkably so substantially thoroughly totally "
    "tremendously unbelievably unusually utterly very super such freaking truly damn hella"
)
_LESS = _set(
    "almost kinda kindof less little marginally occasionally partly slightly somewhat sorta sortof fairly hardly "
    "barely scarcely"
)
_EMPHASIS, _CAPITALS, _NEGATED, _NORM = 0.293, 0.733, -0.74, 15.0
_SCOPE = 4
"""Words that a negation reaches."""
_PLAIN, _NEGATOR, _CONTRAST, _MARK, _STOP = range(5)
_MOST_KNOWN = 100_000
_LONGEST_KNOWN = 40
"""Tokens that are remembered: so many, of at most so many characters."""


class Token(NamedTuple):
    """What is known of a token wherever it stands."""

    text: str
    role: int
    valence: float
    lift: float
    """How much it strengthens the word after it, or weakens."""
    capitals: bool


class Text(NamedTuple):
    """A text that was read."""

    tokens: list[str]
    negated: list[int]
    """Places of words that something negates."""
    valences: list[float]
    valued: list[int]
    """Places of what has a valence."""
    after: int
    """How many of them come before a contrast; -1 where there is none."""
    exclamations: int
    questions: int
    capitals: int
    words: int

    def features(self) -> list[str]:
        """In order, with repetitions."""
        return self.tokens + self.others()

    def others(self) -> list[str]:
        """Those that are no single tokens: neighbours, and negated words."""
        tokens = self.tokens
        pairs = [f"{a} {b}" for a, b in zip(["<s>", *tokens], [*tokens, "</s>"], strict=True)]
        return pairs + [f"¬{tokens[i]}" for i in self.negated] if self.negated else pairs

    def numbers(self, without: Collection[int] = ()) -> list[float]:
        """`NUMBERS`; `without` some of its valences, by their places among them."""
        values, after = self.valences, self.after
        if without:
            values = [value for place, value in enumerate(values) if place not in without]
            after -= sum(place < after for place in without)
        ups = [v for v in values if v > 0.0]
        downs = [v for v in values if v < 0.0]
        up, down = sum(ups), sum(downs)
        total = up + down
        compound = total / math.sqrt(total * total + _NORM)
        later = sum(values[after:]) if after >= 0 else 0.0
        exclaimed, capitals = min(self.exclamations, 4) / 3, min(self.capitals, 4) / 3
        return [
            1.0,
            compound,
            max(-1.5, min(1.5, total / 5)),
            min(2.0, up / 4),
            min(2.0, -down / 4),
            max(ups) / 3 if ups else 0.0,
            -min(downs) / 3 if downs else 0.0,
            values[-1] / 3 if values else 0.0,
            values[0] / 3 if values else 0.0,
            total / len(values) / 2 if values else 0.0,
            0.0 if values else 1.0,
            later / math.sqrt(later * later + _NORM),
            min(4, len(ups)) / 3,
            min(4, len(downs)) / 3,
            1.0 if ups and downs else 0.0,
            exclaimed,
            exclaimed * compound,
            min(self.questions, 4) / 3,
            capitals,
            capitals * compound,
            math.log1p(self.words) / 3,
        ]


class Reader:
    """Reads texts with one lexicon (token -> valence, about -4 to 4). Callable from several threads at once."""

    def __init__(self, lexicon: Mapping[str, float]) -> None:
        self.lexicon = lexicon
        self._known: dict[str, Token] = {}

    def splits(self, text: str) -> list[str]:
        """As they stand in the text."""
        return _TOKEN.findall(text)

    def written(self, text: str) -> list[str]:
        """One a token of `read`, as people see it, in small letters: what stands for all numbers, addresses or mentions is told as it is in
        the text, and letters and digits that stand together (`gr8`) are one word."""
        text = _plainer(text)
        spans = [found.span() for found in _TOKEN.finditer(text)]
        starts: list[int] = []
        """Of the word that each token is in."""
        end = -1
        for first, last in spans:
            together = first == end and text[first - 1].isalnum() and text[first].isalnum()
            starts.append(starts[-1] if together else first)
            end = last
        ends = dict(zip(starts, (last for _, last in spans), strict=True))
        words = {start: text[start:last].lower() for start, last in ends.items()}
        return [word.rstrip(".,:") if word[:1].isalnum() else word for word in (words[start] for start in starts)]

    def read(self, text: str) -> Text:
        text = _plainer(text)
        known, look = self._known.get, self._look_at
        tokens: list[str] = []
        negated: list[int] = []
        valences: list[float] = []
        valued: list[int] = []
        after, capitals, words, scope, lifted = -1, 0, 0, 0, 0.0
        for raw in _TOKEN.findall(text):
            token, role, valence, lift, shouted = known(raw) or look(raw)
            if role < _MARK:
                words += 1
                capitals += shouted
                if valence:
                    if lifted:
                        valence += lifted if valence > 0.0 else -lifted
                    if scope:
                        valence *= _NEGATED
                if scope:
                    negated.append(len(tokens))
                    scope -= 1
                lifted = lift or 0.5 * lifted
                if role == _NEGATOR:
                    scope = _SCOPE
                elif role == _CONTRAST:
                    after, scope = len(valences) if after < 0 else after, 0
            elif role == _STOP:
                scope, lifted = 0, 0.0
            if valence:
                valences.append(valence)
                valued.append(len(tokens))
            tokens.append(token)
        exclamations, questions = text.count("!"), text.count("?")
        return Text(tokens, negated, valences, valued, after, exclamations, questions, capitals, words)

    def _look_at(self, raw: str) -> Token:
        found = self._token(raw)
        if len(raw) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known = {}  # threads that are reading go on with the old one
            self._known[raw] = found
        return found

    def _token(self, raw: str) -> Token:
        first, low = raw[0], raw.lower()
        if low.startswith(("http://", "https://", "www.")):
            return Token("<url>", _MARK, 0.0, 0.0, False)
        if first.isalpha():
            return self._word(raw, low)
        if first == "@" and len(raw) > 1:
            return Token("@", _MARK, 0.0, 0.0, False)
        if first.isdigit() and raw not in self.lexicon:
            return Token("0", _MARK, 0.0, 0.0, False)
        valence = self._valence(raw)
        text = low
        if first in "!?":
            text = "!?" if "!" in raw and "?" in raw else raw[:3]
        elif raw.startswith(".."):
            text = "..."
        stops = first in ".,;:!?" and not valence
        return Token(text, _STOP if stops else _MARK, valence, 0.0, False)

    def _word(self, raw: str, low: str) -> Token:
        capitals = len(raw) > 1 and raw.isupper()
        valence = 0.0 if low == "no" else self.lexicon.get(low, 0.0)
        if valence and capitals:
            valence += math.copysign(_CAPITALS, valence)
        role = _PLAIN
        if low in _NEGATORS or low.endswith("n't"):
            role = _NEGATOR
        elif low in _CONTRASTS:
            role = _CONTRAST
        lift = _EMPHASIS if low in _MORE else -_EMPHASIS if low in _LESS else 0.0
        return Token(low, role, valence, lift, capitals)

    def _valence(self, raw: str) -> float:
        """Of an emoticon or pictograph; one whose last sign is repeated is the short one."""
        short = raw.rstrip(raw[-1]) + raw[-1]
        return self.lexicon.get(raw, self.lexicon.get(short, 0.0))


def _plainer(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "’" in text:
        text = text.replace("’", "'")
    return text.lower() if text.isupper() else text  # who always shouts emphasises nothing
