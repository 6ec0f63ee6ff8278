"""From the job, the model and the input to the scorer: which columns go where. Everything that can be wrong with them is found here."""

from __future__ import annotations

from collections.abc import Sequence

from everloop.app.scoring.encoding import ArrowEncoder, CsvEncoder, Encoder, Layout, NdjsonEncoder
from everloop.app.scoring.formats import Place
from everloop.app.scoring.job import Job
from everloop.app.scoring.models import FittedModel, FunctionModel
from everloop.app.scoring.readers import TextReader
from everloop.app.scoring.rows import Block
from everloop.app.scoring.scorer import Scorer
from everloop.app.scoring.source import LOOKED_AT, Source
from everloop.core.errors import InvalidInput
from everloop.core.wording import near_names


def make_scorer(job: Job, model: FittedModel | FunctionModel, source: Source, target: Place) -> Scorer:
    """Raises InvalidInput: a feature that the input does not have, a column that it has already, scores that the model does not give."""
    layout = _layout(job, model, source, target)
    return Scorer(
        model=model,
        columns=model.columns(source.names, job.features, closed=source.closed),
        decoder=source.decoder,
        encoder=_encoder(layout, model, source, target),
        on_error=job.on_error,
        dead_letters=job.dead_letter is not None,
        scores=job.scores,
    )


def _layout(job: Job, model: FittedModel | FunctionModel, source: Source, target: Place) -> Layout:
    open_ended = not source.closed and job.keep is None
    keep = source.names if job.keep is None else job.keep
    if source.closed or job.keep is None:
        _all_there(keep, source.names)
    layout = Layout(
        keep=None if open_ended and target.format == "ndjson" else keep,
        closed=open_ended and target.format != "ndjson",
        prediction=job.prediction,
        scores=_score_names(model) if job.scores else (),
        constants=model.constants if job.version else {},
        error="error" if job.on_error == "keep" else None,
    )
    for name in layout.added:
        if name in keep or layout.added.count(name) > 1:
            option = {job.prediction: "--prediction NAME", "error": "--keep"}.get(name, "--no-version")
            raise InvalidInput(
                f"the input has a column {name!r} already; name the new one otherwise ({option})", field="prediction"
            )
    return layout


def _score_names(model: FittedModel | FunctionModel) -> tuple[str, ...]:
    if isinstance(model, FunctionModel):
        raise InvalidInput("--scores is for models; a function may answer a dict", field="scores")
    classes = model.manifest.classes
    if not classes:
        raise InvalidInput(f"--scores: {model.name} gives no probabilities: {_why_none(model)}", field="scores")
    return tuple(f"score_{label}" for label in classes)


def _why_none(model: FittedModel) -> str:
    return "it does regression" if model.manifest.task == "regression" else "its classes are not known"


def _encoder(layout: Layout, model: FittedModel | FunctionModel, source: Source, target: Place) -> Encoder:
    if target.format == "ndjson":
        return NdjsonEncoder(layout, gz=target.gz)
    if target.format == "csv":
        return CsvEncoder(layout, _delimiter(source, target), gz=target.gz)
    from everloop.app.scoring.arrow import input_schema, model_answer_schema

    assert layout.keep is not None
    rows = source.head
    if rows is None and isinstance(source.reader, TextReader):
        rows = source.decoder.rows(Block(source.reader.peek(), source.reader.position.line + 1))
    columns = {name: rows.values(name)[:LOOKED_AT] for name in layout.keep} if rows is not None else {}
    answers = model_answer_schema(layout, model.manifest.target.kind) if isinstance(model, FittedModel) else None
    return ArrowEncoder(layout, input_schema(source.schema, layout.keep, columns), answers)


def _delimiter(source: Source, target: Place) -> str:
    if target.tabs:
        return "\t"
    same = source.place.format == "csv" and (target.path is None or not source.place.tabs)
    return source.decoder.delimiter if same else ","


def _all_there(names: Sequence[str], available: Sequence[str]) -> None:
    for name in names:
        if name not in available:
            near = near_names(name, available, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(available[:12])}"
            raise InvalidInput(f"--keep: the input has no column {name!r}{hint}", field="keep")
