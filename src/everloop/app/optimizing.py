"""What `everloop optimize` does around `optimization.variants`: finds examples, writes what was chosen, checks it again, draws the forms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from everloop.core.clock import SystemClock
from everloop.core.errors import InvalidInput
from everloop.core.types import Row, Scalar

if TYPE_CHECKING:
    from everloop.app.scoring.formats import Format
    from everloop.app.scoring.models import FittedModel
    from everloop.optimization.candidates import Candidate
    from everloop.optimization.figures import Figures, Form
    from everloop.optimization.parity import Parity
    from everloop.optimization.variants import Wishes
    from everloop.optimization.verifying import Part
    from everloop.stores.ports import Manifest

BLOCK_ROWS, BLOCK_BYTES = 1000, 1 << 20
LEAST_LABELS = 100
"""Recorded labels from which on a metric is judged by them."""


@dataclass(frozen=True)
class Examples:
    rows: list[Row]
    labels: list[Scalar] | None
    told: str
    """Where they are from, for a person."""
    strangers: int = 0
    """Labels that are none of the model's classes."""


def read_examples(
    file: str,
    model: FittedModel,
    *,
    data_format: Format | None = None,
    label: str | None = None,
    features: Sequence[str] = (),
    limit: int,
) -> Examples:
    """The first rows of a CSV, NDJSON or Parquet file. Raises InvalidInput naming the line or the column, and for labels that are all
    no class of the model."""
    from everloop.app.scoring.formats import place
    from everloop.app.scoring.predicting import matrix_of
    from everloop.app.scoring.source import open_source
    from everloop.optimization.labels import strangers

    schema, target = model.manifest.schema, model.manifest.target
    rows: list[Row] = []
    labels: list[Scalar] = []
    with closing(open_source(place(file, data_format, None, field="data"), delimiter=None, types={})) as source:
        if label is not None and label not in source.names:
            raise InvalidInput(
                f"--label: {file} has no column {label!r}; it has {', '.join(source.names[:12])}", field="label"
            )
        columns = model.columns([name for name in source.names if name != label], features, closed=source.closed)
        while len(rows) < limit and (block := source.reader.take(BLOCK_ROWS, BLOCK_BYTES)) is not None:
            found = source.decoder.rows(block)
            X = matrix_of(found, schema, columns, np.float64)
            told = [] if label is None else found.texts(label) if target.kind == "text" else found.values(label)
            for i, error in sorted(found.errors.items()):
                raise InvalidInput(f"{file}, line {found.lines[i]}, {error.text()}", field=error.column)
            rows += _plain(X)
            for i, value in enumerate(told):
                try:
                    labels.append(target.check(value))
                except InvalidInput as error:
                    raise InvalidInput(f"{file}, line {found.lines[i]}: {error.message}", field=label) from error
    if not rows:
        raise InvalidInput(f"{file} has no rows", field="data")
    if label is None:
        return Examples(rows[:limit], None, file)
    others = strangers(labels[:limit], model.manifest.classes, f"--label {label}")
    return Examples(rows[:limit], labels[:limit], file, others)


def _plain(X: Any) -> list[Row]:
    listed: list[Row] = X.tolist()
    if X.dtype.kind == "f" and np.isnan(X).any():
        return [[None if value != value else value for value in row] for row in listed]
    return listed


def recorded_examples(model: FittedModel, storage: Path | str, *, limit: int) -> Examples | None:
    """What the data folder or database remembers of a registered model; None where that is nothing, or it is none.
    Raises InvalidInput for labels that are all no class of it."""
    from everloop.optimization.labels import strangers
    from everloop.optimization.recorded import recorded
    from everloop.stores.opening import open_stores

    if model.version is None:
        return None
    with closing(open_stores(storage, clock=SystemClock())) as stores:
        found = recorded(stores.journal, model.name, least=LEAST_LABELS, most=limit)
    if not found.rows:
        return None
    others = strangers(found.labels or (), model.manifest.classes, f"recorded labels of {model.name}")
    return Examples(found.rows, found.labels, f"{len(found.rows):,} recorded rows of {model.name}", others)


# -- what was chosen --


def output_path(text: str) -> Path:
    """Where the chosen form of MODEL goes if nobody says: into this folder."""
    from everloop.runtime.packaged import ENDING

    name = (
        re.sub(r"[^A-Za-z0-9._-]+", "-", Path(text.split("@", maxsplit=1)[0].rstrip("/")).stem).strip("-.") or "model"
    )
    return Path(f"{name}.optimized{ENDING}")


def write(path: Path, chosen: Candidate) -> Path:
    """As an artifact file, which holds every number; for a name that ends with `.onnx` as the graph alone. Raises InvalidInput."""
    from everloop.runtime.packaged import write_artifact

    if path.suffix.lower() != ".onnx":
        return write_artifact(path, chosen.manifest, chosen.payload)
    if chosen.manifest.runtime != "onnx":
        raise InvalidInput(
            f"-o {path}: the chosen form, {chosen.name}, is no ONNX graph; name it {path.with_suffix('.artifact')}",
            field="output",
        )
    try:
        path.write_bytes(chosen.payload)
    except OSError as error:
        raise InvalidInput(f"-o {path}: it cannot be written: {error.strerror or error}", field="output") from error
    return path


# -- whether the numbers come out again --


@dataclass(frozen=True)
class Check:
    what: str
    told: Any
    found: Any

    @property
    def holds(self) -> bool:
        if isinstance(self.told, float) and isinstance(self.found, float):
            return bool(np.isclose(self.told, self.found, rtol=1e-6, atol=1e-12))
        return bool(self.told == self.found)


def told_by(manifest: Manifest) -> Figures:
    """What an artifact says of how it was chosen. Raises InvalidInput for one that says nothing."""
    from everloop.optimization.figures import Figures

    try:
        told = msgspec.convert(manifest.lineage.get("optimization"), Figures)
        told.form(told.chosen)
        return told
    except (msgspec.ValidationError, KeyError) as error:
        raise InvalidInput(
            "its manifest does not tell how it was optimised: it is none that `everloop optimize` wrote", field="verify"
        ) from error


def wishes_of(told: Figures) -> Wishes:
    """To come to the same numbers. Raises InvalidInput for wishes that nobody can have had."""
    from everloop.optimization.variants import Wishes

    try:
        return msgspec.convert({**told.wishes, "drawn": told.data.drawn, "open_apart": False}, Wishes)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"its manifest tells of wishes that are none: {error}", field="verify") from error


def compare(told: Figures, found: Figures, payload_digest: str, parts: Sequence[Part] = ()) -> list[Check]:
    """All that does not depend on the machine's speed: digests, sizes, differences, metrics, of every form. `parts`: what the artifact holds,
    asked itself."""
    checks = [
        Check("original, SHA-256", told.original, found.original),
        Check("examples, SHA-256", told.data.digest, found.data.digest),
        Check("rows compared on", told.data.rows + told.data.drawn, found.data.rows + found.data.drawn),
        Check(f"{told.chosen}, SHA-256", told.form(told.chosen).digest, payload_digest),
    ]
    made = {form.name: form for form in found.forms}
    for form in told.forms:
        other = made.get(form.name)
        if form.parity is None or form.name == "by-size":
            continue
        if other is None or other.parity is None:
            checks.append(Check(f"{form.name}, made", "yes", "no"))
            continue
        checks.append(Check(f"{form.name}, bytes", form.bytes, other.bytes))
        checks += _parities(form.name, form.parity, other.parity)
    alike = (told.libraries, told.machine) == (found.libraries, found.machine)
    if parts:
        starts = [start for start, _ in told.stretches]
        checks.append(Check("rows from which on each form answers", starts, [part.start for part in parts]))
    return checks + [check for part in parts for check in _held(part, told, made if alike else {})]


_ARBITRARY = ("onnx", "")
"""Runtimes of forms that differ from making to making: converters draw names for a graph's parts."""


def _held(part: Part, told: Figures, made: Mapping[str, Form]) -> list[Check]:
    """What is in the file: the form that its manifest tells of, which answers as told. `made`: again, where that makes the same bytes."""
    name = f"{part.name or 'a form'} in the file"
    claimed = {form.name: form for form in told.forms}.get(part.name)
    if claimed is None:
        return [Check(f"{name}, told of", "yes", "no")]
    checks = [Check(f"{name}, SHA-256", claimed.digest, part.digest)]
    again = made.get(part.name)
    if again is not None and again.runtime not in _ARBITRARY:
        checks.append(Check(f"{name}, SHA-256 of it made again", part.digest, again.digest))
    if again is not None:
        checks.append(Check(f"{name}, computes in floats", claimed.exact, again.exact))
    if claimed.parity is None:
        return [*checks, Check(f"{name}, passed", True, part.found.passed)]
    return [*checks, *_parities(name, claimed.parity, part.found)]


def _parities(name: str, told: Parity, found: Parity) -> list[Check]:
    numbers = ("rows", "max_difference", "mean_difference", "worst", "flips", "passed")
    checks = _each(name, told, found, numbers)
    if told.change is None or found.change is None:
        return [*checks, Check(f"{name}, judged by", _metric(told), _metric(found))]
    numbers = ("rows", "before", "after", "low", "high", "flips")
    return checks + _each(f"{name}, {told.change.metric}", told.change, found.change, numbers)


def _metric(parity: Parity) -> str:
    return "nothing" if parity.change is None else parity.change.metric


def _each(name: str, told: Any, found: Any, numbers: Sequence[str]) -> list[Check]:
    return [Check(f"{name}, {what.replace('_', ' ')}", getattr(told, what), getattr(found, what)) for what in numbers]


# -- the picture --


def undrawable(path: Path) -> str:
    """Why there can be no picture with that ending; empty if there can."""
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() in kinds:
        return ""
    return f"a picture ends with {', '.join(f'.{kind}' for kind in kinds)}"


def plot(figures: Figures, name: str, path: Path) -> None:
    """Time a call by rows, one line a form; beside it their sizes."""
    from matplotlib.figure import Figure

    forms = [form for form in figures.forms if form.seconds]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(len(figures.sizes))
    width = 0.8 / len(forms)
    for i, form in enumerate(forms):
        colour = _colour(form.name, figures.chosen, i)
        at = places + (i - (len(forms) - 1) / 2) * width
        micro = [second * 1e6 for second in form.seconds]
        left.bar(at, micro, width * 0.9, color=colour, label=form.name)
        spread = [
            [value - low * 1e6, high * 1e6 - value] for value, (low, high) in zip(micro, form.rounds, strict=True)
        ]
        left.errorbar(at, micro, np.clip(np.array(spread).T, 0, None), fmt="none", ecolor="#555555", linewidth=0.6)
        right.barh(len(forms) - 1 - i, form.bytes / 1e3, color=colour, height=0.7)
    left.set_yscale("log")
    left.set_xticks(places, [f"{size:,} row{'s' * (size != 1)}" for size in figures.sizes])
    left.set_ylabel("µs a call (median; least to most)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    right.set_yticks(range(len(forms)), [form.name for form in forms[::-1]])
    right.set_xlabel("kB")
    left.set_title(f"{name}: {figures.chosen} is chosen", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#999999")


def _colour(name: str, chosen: str, i: int) -> str:
    return "#D55E00" if name == chosen else "#222222" if name == "original" else _COLOURS[i % len(_COLOURS)]
