"""The human-rated snippets that the sentiment model is trained and judged on, prepared once and kept beside this file.

    python -m benchmarks.showcase.sentiment_rows path/to/vaderSentiment-3.3.2    # the unpacked source distribution from PyPI

Source: the ground-truth sets of C.J. Hutto & Eric Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014 (MIT licence, in `additional_resources/hutto_ICWSM_2014.tar.gz`): 4,200 tweets, 10,605 snippets of movie reviews, 3,708
of product reviews, 5,190 of New York Times editorials, each with the mean of at least 20 people's ratings from -4 to 4.

Labels: positive from a mean of 0.5, negative up to -0.5, neutral between.

The split is by source text. Snippets of one product review or one editorial are one group; a tweet or a movie snippet is one of its own,
since its source is not told. Groups that share seven words in a row, or a whole text but for case and marks, are one: the sets hold
tweets in several spellings of the same words. A few that differ by a word within fewer than seven are still on both sides: `near_twins` finds
them, and the report tells what is reached without them. A group is held out, and falls into one of five folds for choosing, by a hash of its name.

Kept: `data/sentiment.tsv.xz`, one line a snippet: source, group, fold (`held-out`, or 0 to 4), mean rating, VADER's own compound score,
text; and `data/valences.tsv.xz`, the words, emoticons and emoji of VADER's lexicon (MIT) with their valences.
"""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import math
import re
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent / "data"
SETS = {
    "tweets": "tweets",
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
}
LABELS = ("negative", "neutral", "positive")
HELD_OUT = "held-out"
SHARED_WORDS = 7
TWINS = 0.6
"""The Jaccard similarity of two texts' words from which on they are near twins."""


class Snippet(NamedTuple):
    source: str
    group: str
    fold: str
    mean: float
    compound: float
    """VADER's."""
    text: str

    @property
    def label(self) -> str:
        return label_of(self.mean, 0.5)

    @property
    def by_vader(self) -> str:
        """By its authors' rule."""
        return label_of(self.compound, 0.05)


def label_of(score: float, edge: float) -> str:
    return "positive" if score >= edge else "negative" if score <= -edge else "neutral"


def read_snippets() -> list[Snippet]:
    lines = lzma.decompress((DATA / "sentiment.tsv.xz").read_bytes()).decode().splitlines()
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [Snippet(a, b, c, float(mean), float(compound), text) for a, b, c, mean, compound, text in rows]


def read_valences() -> dict[str, float]:
    lines = lzma.decompress((DATA / "valences.tsv.xz").read_bytes()).decode().split("\n")
    return {token: float(valence) for token, _, valence in (line.partition("\t") for line in lines if line)}


def near_twins(snippets: list[Snippet]) -> list[bool]:
    """One a held-out snippet: whether one that was trained on has nearly the same words. Of a pair that alike, one of the rarest words of the
    one is in the other, so only snippets that share such a word are compared."""
    held = [_words(each.text) for each in snippets if each.fold == HELD_OUT]
    train = [_words(each.text) for each in snippets if each.fold != HELD_OUT]
    having: dict[str, list[int]] = {}
    for i, words in enumerate(train):
        for word in words:
            having.setdefault(word, []).append(i)

    def found(words: frozenset[str]) -> bool:
        rarest = sorted(words, key=lambda word: len(having.get(word, ())))
        rarest = rarest[: len(words) - math.ceil(TWINS * len(words)) + 1]
        near = {i for word in rarest for i in having.get(word, ())}
        return any(len(words & train[i]) >= TWINS * len(words | train[i]) for i in near)

    return [found(words) for words in held]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", text.lower()))


def prepare(source: Path) -> None:
    """`source`: the unpacked distribution, which is also imported: it judges itself."""
    sys.path.insert(0, str(source))
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    vader = SentimentIntensityAnalyzer()
    rated = _rated(source / "additional_resources" / "hutto_ICWSM_2014.tar.gz")
    out = io.StringIO()
    for (name, _, mean, text), group in zip(rated, _groups(rated), strict=True):
        fold = HELD_OUT if _hash(f"held-out:{group}") % 5 == 0 else str(_hash(f"cv:{group}") % 5)
        compound = vader.polarity_scores(text)["compound"]
        print(name, group, fold, f"{mean:.4g}", f"{compound:.4f}", text, sep="\t", file=out)
    _keep("sentiment.tsv.xz", out.getvalue())
    valences = dict(vader.lexicon)
    for emoji, words in vader.emojis.items():  # an emoji is worth what the words of its description are
        worth = sum(vader.lexicon.get(word, 0.0) for word in words.lower().split())
        if worth and len(emoji) == 1:
            valences.setdefault(emoji, worth)
    _keep("valences.tsv.xz", "".join(f"{token}\t{valence:g}\n" for token, valence in valences.items()))


def _rated(archive: Path) -> list[tuple[str, str, float, str]]:
    """(set, id, mean rating, text)"""
    rows = []
    with tarfile.open(archive) as tar:
        for name, file in SETS.items():
            member = tar.extractfile(f"hutto_ICWSM_2014/{file}_GroundTruth.txt")
            assert member is not None
            for line in member.read().decode().split("\n"):
                if line.strip():
                    number, mean, text = line.split("\t", 2)
                    rows.append((name, number, float(mean), " ".join(text.split())))
    return rows


def _groups(rated: list[tuple[str, str, float, str]]) -> list[str]:
    """Each row's group: union-find over what rows share; a group is named for its first row."""
    parent = list(range(len(rated)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (name, number, _, text) in enumerate(rated):
        words = re.findall(r"[a-z']+", text.lower().replace("@anonymous", "").replace("http://url_removed", ""))
        shared = [("words", " ".join(words))]
        runs = range(len(words) - SHARED_WORDS + 1)
        shared += [("run", " ".join(words[j : j + SHARED_WORDS])) for j in runs]
        if name in ("products", "news"):
            shared.append((name, number.partition("_")[0]))
        for key in shared:
            if key in first:
                a, b = root(i), root(first[key])
                parent[max(a, b)] = min(a, b)
            else:
                first[key] = i
    return [f"{rated[root(i)][0]}:{rated[root(i)][1]}" for i in range(len(rated))]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _keep(name: str, text: str) -> None:
    DATA.mkdir(exist_ok=True)
    (DATA / name).write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
