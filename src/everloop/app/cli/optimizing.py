"""`everloop optimize`: the forms as a table, what was chosen as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from everloop.app.cli.group import UsageError
from everloop.app.cli.output import as_json as to_json
from everloop.app.cli.output import data, for_data_alone, say, table
from everloop.app.cli.serve import DATA_DIR
from everloop.app.cli.storage import storage_here
from everloop.app.optimizing import (
    Examples,
    compare,
    output_path,
    plot,
    read_examples,
    recorded_examples,
    told_by,
    undrawable,
    wishes_of,
    write,
)
from everloop.app.scoring.formats import Format
from everloop.app.scoring.models import FittedModel, find_model
from everloop.app.tuning import check_drawing
from everloop.core.hashing import artifact_digest
from everloop.optimization.figures import Figures, Form, times
from everloop.optimization.variants import SIZES, Report, Wishes, optimise
from everloop.optimization.verifying import ask_parts
from everloop.parallel.wording import duration, size_of
from everloop.runtime.artifact import Trust, read_model_file

NOTHING_GIVEN = """NO EXAMPLES: the forms are compared on rows that were made up, which proves little: nothing is known of what the model is really
asked. INT8 is not tried. Give a file of examples with --data FILE (and --label COLUMN)."""


def run(
    text: str,
    *,
    int8: bool,
    file: str | None,
    data_format: Format | None,
    label: str | None,
    features: list[str] | None,
    limit: int,
    output: Path | None,
    picture: Path | None,
    verify: Path | None,
    sizes: list[int] | None,
    loss: float,
    seconds: float,
    data_dir: Path | None,
    database: str | None,
    trust_pickle: bool,
    trust_type: list[str] | None,
    trust_code: list[str] | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Raises UsageError for options that contradict each other, EverloopError otherwise."""
    _check(file, label, output, picture, verify)
    storage = storage_here(data_dir, database, trust_pickle=trust_pickle, trust_types=trust_type, trust_code=trust_code)
    trust = Trust(storage.trust_pickle, storage.trust_types, storage.trust_code)
    place = storage.database or storage.data_dir or DATA_DIR
    told: Callable[[str], None] = (lambda _: None) if quiet else say
    with for_data_alone(), find_model(text, storage=place, trust=trust, batch=False) as model:  # a model may print
        if not isinstance(model, FittedModel):
            raise UsageError(
                f"{text} is a function; a class or an object with `predict` is a model that has other forms"
            )
        if file is not None:
            names = [name.strip() for given in features or [] for name in given.split(",") if name.strip()]
            examples = read_examples(file, model, data_format=data_format, label=label, features=names, limit=limit)
        else:
            examples = recorded_examples(model, place, limit=limit) or Examples([], None, "")
        if not examples.rows:
            say(NOTHING_GIVEN, style="yellow")
        elif not quiet:
            say(f"comparing on {len(examples.rows):,} rows of {examples.told}")
        if examples.strangers:
            told_labels = f"{examples.strangers:,} of {len(examples.rows):,} labels"
            say(f"{told_labels} are none of the model's classes: no form can answer these rightly", style="yellow")
        wishes = Wishes(int8=int8, sizes=tuple(sorted({*SIZES, *(sizes or ())})), loss=loss, max_seconds=seconds)
        if verify is not None:
            report, checked = _again(model, examples, verify, told)
        else:
            report = _optimise(model, examples, wishes, told)
    if verify is not None:
        _tell_checks(report.figures, checked, as_json=as_json)
        return
    written = None
    if output is not None or report.changed:
        written = write(output or output_path(text), report.chosen)
    if picture is not None:
        plot(report.figures, text, picture)
    if as_json:
        told_all = {**msgspec.to_builtins(report.figures), "written": None if written is None else str(written)}
        data(to_json(told_all))
        return
    show(report.figures)
    data("")
    data(report.why)
    if written is not None and not quiet:
        say(f"{report.chosen.name} is in {written}, {size_of(written.stat().st_size)}: everloop serve NAME={written}")


def _check(file: str | None, label: str | None, output: Path | None, picture: Path | None, verify: Path | None) -> None:
    if label is not None and file is None:
        raise UsageError("--label names a column of --data FILE: give both")
    if verify is not None and output is not None:
        raise UsageError("--verify checks an artifact and writes none: leave out -o")
    for option, path in (("-o", output), ("--plot", picture)):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {path.parent}")
    if picture is not None:
        check_drawing()
        if why := undrawable(picture):
            raise UsageError(f"--plot {picture}: {why}")


def _optimise(model: FittedModel, examples: Examples, wishes: Wishes, told: Callable[[str], None]) -> Report:
    return optimise(
        model.manifest,
        model.path.read_bytes(),
        examples.rows,
        examples.labels,
        wishes=wishes,
        trust=model.trust,
        progress=told,
    )


Checked = list[Any]


def _again(
    model: FittedModel, examples: Examples, artifact: Path, told: Callable[[str], None]
) -> tuple[Report, Checked]:
    """All of it once more, as the artifact's manifest says that it was done; and the artifact itself, asked."""
    manifest, payload = read_model_file(artifact, trust=model.trust)
    before = told_by(manifest)
    wishes = wishes_of(before)
    told("asking what is in the file")
    parts = ask_parts(
        (model.manifest, model.path.read_bytes()),
        examples.rows,
        examples.labels,
        artifact=(manifest, payload),
        told=before,
        wishes=wishes,
        trust=model.trust,
    )
    report = _optimise(model, examples, wishes, told)
    return report, compare(before, report.figures, artifact_digest(payload), parts)


def _tell_checks(figures: Figures, checked: Checked, *, as_json: bool) -> None:
    failed = [check for check in checked if not check.holds]
    if as_json:
        told = [{"what": c.what, "told": c.told, "found": c.found, "holds": c.holds} for c in checked]
        data(to_json({"holds": not failed, "checks": told, "figures": msgspec.to_builtins(figures)}))
    else:
        table(["what", "told", "found", ""], [[c.what, c.told, c.found, "ok" if c.holds else "OTHER"] for c in checked])
        data("")
        data(f"{len(checked) - len(failed)} of {len(checked)} numbers come out again")
    if failed:
        raise typer.Exit(1)


def show(figures: Figures) -> None:
    """The original first; what was dropped with its reason."""
    original = figures.form("original").seconds
    columns = ["form", "runtime", "size", *(_rows(size) for size in figures.sizes), "difference", "load", "memory", ""]
    table(columns, [_line(form, original, len(figures.sizes)) for form in figures.forms])


def _line(form: Form, original: Sequence[float], sizes: int) -> list[Any]:
    speeds = [
        duration(mine) if form.name == "original" else f"{duration(mine)}  {times(theirs / mine)}×"
        for mine, theirs in zip(form.seconds, original, strict=False)
    ] or [""] * sizes
    difference = ""
    if form.parity is not None:
        difference = f"{form.parity.max_difference:.2g}"
        if form.parity.flips:
            difference += f", {form.parity.flips:,} flips"
    cost = form.cost if form.cost is not None and not form.cost.error else None
    return [
        form.name,
        form.runtime,
        size_of(form.bytes) if form.bytes else "",
        *speeds,
        difference,
        duration(cost.load_seconds) if cost else "",
        size_of(cost.memory_bytes) if cost else "",
        _fate(form),
    ]


def _fate(form: Form) -> str:
    if form.fate == "chosen":
        return "CHOSEN" if not form.why else f"CHOSEN: {form.why}"
    if form.name == "original":
        return "as it was trained"
    if form.name == "served" and form.fate == "kept":
        return "as it is served already"
    return f"{form.fate}: {form.why}"


def _rows(size: int) -> str:
    return f"{size:,} row{'s' * (size != 1)}"
