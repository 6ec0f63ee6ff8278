"""Train the sentiment model that is shipped, and judge it once on rows that nothing was chosen by.

    python -m benchmarks.showcase.train_sentiment            # writes the artifact and sentiment.json
    python -m benchmarks.showcase.train_sentiment --choose   # what the settings were chosen by: grouped folds of the training part

The model is a multinomial logistic regression over the features of `everloop.runtime.text_reading`, which is what serves it, too:

- Targets are soft: the chance that the true mean lies in each class if the one we have is off by a normal error of `noise`. A snippet rated
  0.49 is nearly as positive as one rated 0.51, and the model is told so.
- A weight's prior is wider where a feature's classes are uneven: scaled by its absolute log-count ratio against the rest (S. Wang & C.
  Manning, "Baselines and Bigrams", ACL 2012), mixed with the mean ratio.
- Rare classes count more: by their frequency to the power of minus `balance`, since macro-F1 asks for all three alike.
- Some rows are made up, and neutral: strings that mean nothing in any language, from a seed. Nobody rates such, and a model has to
  know that it does not know. They are in no measured number.

The shipped model saw the training part only, so that what is told of it here is about itself.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import scipy.sparse as sp
from benchmarks.showcase.sentiment_rows import HELD_OUT, LABELS, Snippet, near_twins, read_snippets, read_valences
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.metrics import f1_score

import everloop
from everloop.runtime.artifact import library_versions
from everloop.runtime.packaged import write_artifact
from everloop.runtime.text import manifest_of
from everloop.runtime.text_model import Tables, TextModel, pack_text, pieces_of, unpack_text
from everloop.runtime.text_reading import NUMBERS, Reader

ARTIFACT = Path(everloop.__file__).parent / "showcase" / "data" / "sentiment.artifact"
REPORT = Path(__file__).with_name("sentiment.json")
SEED = 7
PIECES = (3, 5)


class Settings(NamedTuple):
    noise: float = 0.3
    penalty: float = 10.0
    evenness: float = 0.75
    """0: one prior for all weights; 1: as wide as the log-count ratio says."""
    balance: float = 0.6
    least: int = 2
    """Snippets that a feature must be in."""
    piece: float = 0.3
    """What a piece counts against a word."""
    steps: int = 40
    made_up: int = 300


class Design(NamedTuple):
    features: dict[str, int]
    pieces: dict[str, int]
    X: sp.csr_matrix
    """(rows, features + pieces + numbers)"""


def texts_of(snippets: Sequence[Snippet], settings: Settings) -> tuple[list[str], np.ndarray]:
    """With the made-up ones, and soft targets (n, 3)."""
    means = np.array([snippet.mean for snippet in snippets])
    low, high = norm.cdf((-0.5 - means) / settings.noise), norm.cdf((0.5 - means) / settings.noise)
    made = nonsense(settings.made_up)
    targets = np.vstack([np.stack([low, high - low, 1 - high], 1), np.tile([0.0, 1.0, 0.0], (len(made), 1))])
    return [snippet.text for snippet in snippets] + made, targets


def nonsense(count: int) -> list[str]:
    """Letters, digits, marks and other scripts without a meaning."""
    rng = random.Random(SEED)
    alphabets = [
        string.ascii_lowercase,
        string.ascii_lowercase,
        "абвгдежзиклмнопрст",
        "あいうえおかきくけこ",
        "αβγδεζηθικλμν",
    ]
    found = []
    for i in range(count):
        if i % 5 == 4:
            found.append(
                rng.choice(["…", ".", "-", "12345", "3.14 2 7", "# # #", "0", "///", "a", "??", "x y z"])
                * rng.randint(1, 3)
            )
            continue
        letters = rng.choice(alphabets)
        words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(rng.randint(1, 8))]
        found.append(" ".join(words) + rng.choice(["", "", ".", "?"]))
    return found


def design(texts: Sequence[str], reader: Reader, settings: Settings, known: Design | None = None) -> Design:
    """The rows as the columns of `known`, or of their own."""
    sizes = range(PIECES[0], PIECES[1] + 1)
    read = [reader.read(text) for text in texts]
    features = [list(dict.fromkeys(each.features())) for each in read]
    pieces = [
        Counter(piece for feature in row if _is_word(feature) for piece in pieces_of(feature, sizes))
        for row in features
    ]
    if known is None:
        columns = _columns(features, settings.least), _columns(pieces, settings.least)
    else:
        columns = known.features, known.pieces
    first, second = columns
    data, places, ends = [], [], [0]
    width = len(first) + len(second)
    for words, parts, each in zip(features, pieces, read, strict=True):
        here = [(first[w], 1.0) for w in words if w in first]
        here += [(len(first) + second[p], settings.piece * n) for p, n in parts.items() if p in second]
        here += [(width + i, value) for i, value in enumerate(each.numbers()) if value]
        places.extend(place for place, _ in here)
        data.extend(value for _, value in here)
        ends.append(len(data))
    X = sp.csr_matrix((data, places, ends), (len(texts), width + len(NUMBERS)))
    return Design(first, second, X)


def _is_word(feature: str) -> bool:
    return " " not in feature and feature[0].isalpha()


def _columns(rows: Sequence[Any], least: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(list(row))
    return {name: i for i, name in enumerate(sorted(name for name, count in counts.items() if count >= least))}


def fit(X: sp.csr_matrix, targets: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Weights and curvatures: (columns, 3), (columns,)."""
    share = targets.mean(axis=0)
    weighted = targets * (1 / (3 * share)) ** settings.balance
    widths = _widths(X, targets, settings)
    XT = X.T.tocsr()
    totals = weighted.sum(axis=1, keepdims=True)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        V = flat.reshape(X.shape[1], 3)
        scores = X @ (widths * V)
        scores -= scores.max(axis=1, keepdims=True)
        sums = np.log(np.exp(scores).sum(axis=1, keepdims=True))
        slope = widths * (XT @ (totals * np.exp(scores - sums) - weighted)) + settings.penalty * V
        return float(-(weighted * (scores - sums)).sum() + 0.5 * settings.penalty * (V * V).sum()), slope.ravel()

    start = np.zeros(X.shape[1] * 3)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": settings.steps, "maxcor": 10})
    weights = widths * found.x.reshape(-1, 3)
    scores = X @ weights
    P = np.exp(scores - scores.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    bend = (P * (1 - P)).mean(axis=1)
    curvatures = settings.penalty / (widths**2).mean(axis=1) + X.multiply(X).T @ bend
    return weights, np.asarray(curvatures).ravel()


def _widths(X: sp.csr_matrix, targets: np.ndarray, settings: Settings) -> np.ndarray:
    """(columns, 3): of each weight's prior; 1 for numbers."""
    counts = (X[:, : -len(NUMBERS)] > 0).astype(np.float64).T @ targets + 1.0
    widths = np.ones((X.shape[1], 3))
    for k in range(3):
        others = [j for j in range(3) if j != k]
        mine = counts[:, k] / targets[:, k].sum()
        rest = (counts[:, others].sum(axis=1) - 1.0) / targets[:, others].sum()
        ratio = np.abs(np.log(mine / rest))
        widths[: -len(NUMBERS), k] = (1 - settings.evenness) * ratio.mean() + settings.evenness * ratio
    return widths


def tables_of(
    made: Design, weights: np.ndarray, curvatures: np.ndarray, settings: Settings, lexicon: dict[str, float]
) -> Tables:
    """What is shipped: features and pieces that say nothing left out."""
    words, width = len(made.features), len(made.features) + len(made.pieces)
    scaled = weights[words:width] * settings.piece
    features = {
        name: tuple(weights[i].tolist()) for name, i in made.features.items() if np.abs(weights[i]).max() >= 0.02
    }
    return Tables(
        features,
        {name: float(curvatures[made.features[name]]) for name in features},
        {name: tuple(scaled[i].tolist()) for name, i in made.pieces.items() if np.abs(scaled[i]).max() >= 0.005},
        PIECES,
        [tuple(row) for row in weights[width:].tolist()],
        curvatures[width:].tolist(),
        lexicon,
    )


def lexicon_of() -> dict[str, float]:
    """Valences of what is one token."""
    reader = Reader({})
    return {token: valence for token, valence in read_valences().items() if reader.splits(token) == [token]}


def choose(snippets: Sequence[Snippet], told: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Macro-F1 of some settings on two of the folds, each with the others to train on; those in `told` are there already."""
    reader = Reader(lexicon_of())
    for change in CHOICES:
        settings = Settings()._replace(**change)
        if any(each.items() >= settings._asdict().items() for each in told):
            continue
        truth: list[str] = []
        answers: list[str] = []
        for fold in ("0", "1"):
            texts, targets = texts_of([s for s in snippets if s.fold not in (HELD_OUT, fold)], settings)
            asked = [s for s in snippets if s.fold == fold]
            made = design(texts, reader, settings)
            weights, _ = fit(made.X, targets, settings)
            scores = design([s.text for s in asked], reader, settings, made).X @ weights
            truth += [s.label for s in asked]
            answers += [LABELS[i] for i in scores.argmax(axis=1)]
        told.append({**settings._asdict(), "macro_f1": round(f1_score(truth, answers, average="macro"), 4)})
        print(json.dumps(change), told[-1]["macro_f1"], flush=True)
        yield told


CHOICES: list[dict[str, Any]] = [
    {},
    {"balance": 0.5},
    {"balance": 0.7},
    {"penalty": 8.0},
    {"penalty": 13.0},
    {"piece": 0.0},
    {"evenness": 0.0},
    {"evenness": 1.0},
    {"noise": 0.2},
    {"noise": 0.45},
    {"made_up": 0},
]


def judge(model: TextModel, snippets: Sequence[Snippet]) -> dict[str, Any]:
    """On held-out rows: ours, VADER's, and how sure the difference is (95 %, groups drawn anew 2,000 times)."""
    held = [s for s in snippets if s.fold == HELD_OUT]
    probabilities = np.array([model.probabilities(s.text) for s in held])
    truth = np.array([LABELS.index(s.label) for s in held])
    ours, theirs = probabilities.argmax(axis=1), np.array([LABELS.index(s.by_vader) for s in held])
    groups = np.unique([s.group for s in held], return_inverse=True)[1]
    members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    rng = np.random.default_rng(SEED)
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        drawn.append((macro_f1(truth[rows], ours[rows]), macro_f1(truth[rows], theirs[rows])))
    spread = np.array(drawn)
    sure = probabilities.max(axis=1)
    bins = np.minimum((sure * 10).astype(int), 9)
    error = sum(
        abs((ours == truth)[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())
    )
    apart = ~np.array(near_twins(list(snippets)))
    return {
        "held_out": len(held),
        "held_out_groups": len(members),
        "macro_f1": round(macro_f1(truth, ours), 4),
        "macro_f1_95": [round(v, 4) for v in np.quantile(spread[:, 0], [0.025, 0.975])],
        "vader_macro_f1": round(macro_f1(truth, theirs), 4),
        "difference": round(macro_f1(truth, ours) - macro_f1(truth, theirs), 4),
        "difference_95": [round(v, 4) for v in np.quantile(spread[:, 0] - spread[:, 1], [0.025, 0.975])],
        "near_twins": {
            "rows": int((~apart).sum()),
            "macro_f1_without": round(macro_f1(truth[apart], ours[apart]), 4),
            "vader_without": round(macro_f1(truth[apart], theirs[apart]), 4),
        },
        "f1": {
            label: round(v, 4) for label, v in zip(LABELS, f1_score(truth, ours, average=None).tolist(), strict=True)
        },
        "accuracy": round(float((ours == truth).mean()), 4),
        "vader_accuracy": round(float((theirs == truth).mean()), 4),
        "log_loss": round(float(-np.log(probabilities[np.arange(len(truth)), truth]).mean()), 4),
        "calibration_error": round(float(error), 4),
        "by_source": {
            name: {
                "rows": len(rows),
                "macro_f1": round(macro_f1(truth[rows], ours[rows]), 4),
                "vader": round(macro_f1(truth[rows], theirs[rows]), 4),
            }
            for name in dict.fromkeys(s.source for s in held)
            if (rows := np.array([i for i, s in enumerate(held) if s.source == name])).size
        },
    }


def macro_f1(truth: np.ndarray, answers: np.ndarray) -> float:
    """Over the three classes."""
    table = np.bincount(truth * 3 + answers, minlength=9).reshape(3, 3)
    return float((2 * np.diag(table) / np.maximum(table.sum(axis=0) + table.sum(axis=1), 1)).mean())


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--choose", action="store_true")
    arguments = asked.parse_args()
    snippets = read_snippets()
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    if arguments.choose:
        for choices in choose(snippets, report.get("choices", [])):
            report["choices"] = choices
            _write(report)
    else:
        settings, lexicon = Settings(), lexicon_of()
        train = [s for s in snippets if s.fold != HELD_OUT]
        texts, targets = texts_of(train, settings)
        made = design(texts, Reader(lexicon), settings)
        weights, curvatures = fit(made.X, targets, settings)
        payload = pack_text(tables_of(made, weights, curvatures, settings, lexicon), precision="half")
        tables = unpack_text(payload)
        found = judge(TextModel(tables), snippets)
        manifest = manifest_of(LABELS, axis=("negative", "positive"))
        metrics = {"macro_f1": found["macro_f1"], "accuracy": found["accuracy"]}
        lineage = {
            "data": "Hutto & Gilbert 2014, ground-truth sets of vaderSentiment 3.3.2 (MIT)",
            "rows": len(train),
            "seed": SEED,
        }
        manifest = msgspec.structs.replace(
            manifest, metrics=metrics, lineage=lineage, libraries=library_versions("numpy", "scipy")
        )
        write_artifact(ARTIFACT, manifest, payload)
        report |= {"settings": settings._asdict(), "trained_on": len(train), "made_up": settings.made_up}
        report |= {
            "features": len(tables.features),
            "pieces": len(tables.pieces),
            "bytes": ARTIFACT.stat().st_size,
            **found,
        }
        print(json.dumps(found, indent=1))
        _write(report)


def _write(report: dict[str, Any]) -> None:
    REPORT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
