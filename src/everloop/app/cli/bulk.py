"""`everloop score` and `everloop tune`: their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from everloop.app.cli.options import Database, Json, TrustCode, TrustPickle, TrustType

SCORE = """Score a whole file: the same rows, in order, with a prediction beside each.

MODEL is a file (ONNX or skops), a registered model of the data folder or database (NAME, the version that serves, or NAME@3), or a
function, MODULE:FUNCTION, which is given each row as a dict (with --batch a list of them). IN and OUT are CSV, NDJSON or
Parquet by their endings, text also as .gz, and `-` is stdin or stdout. Files may be larger than memory.

Stopped or killed in the middle, the same command goes on where it was. OUT appears when it is complete.

\b
  everloop score churn.onnx customers.csv -o scored.csv
  everloop score churn@3 customers.parquet -o scored.parquet --scores
  everloop score pricing:quote orders.ndjson -o quotes.ndjson --on-error keep
  zcat rows.csv.gz | everloop score churn.onnx - --format csv --keep id > predictions.csv
"""


def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A file, NAME[@VERSION], or MODULE:FUNCTION.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="The rows: a file, or - for stdin.")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Where they go; - is stdout.")] = "-",
    input_format: Annotated[
        Literal["csv", "ndjson", "parquet"] | None,
        typer.Option("--format", help="Of IN, where its ending does not tell."),
    ] = None,
    output_format: Annotated[
        Literal["csv", "ndjson", "parquet"] | None,
        typer.Option("--output-format", help="Of OUT.", show_default="by its ending, else that of IN"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", "--id", metavar="COLUMNS", help="Only these columns of IN in OUT; repeatable, or with commas."
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", help="The model's features, in its order, where the names do not tell."),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="COLUMN=KIND", help="Of a CSV column: text, number, integer, boolean; repeatable."
        ),
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between the columns of CSV.", show_default="found out")] = None,
    prediction: Annotated[str, typer.Option(metavar="NAME", help="The new column's name.")] = "prediction",
    scores: Annotated[bool, typer.Option("--scores", help="A column for each class, with its probability.")] = False,
    version: Annotated[
        bool, typer.Option("--version/--no-version", help="A column that says which version, or digest, answered.")
    ] = True,
    batch: Annotated[
        bool, typer.Option("--batch", help="The function takes a list of rows and answers a list.")
    ] = False,
    on_error: Annotated[
        Literal["fail", "skip", "keep"],
        typer.Option(help="A bad row ends the run, is left out, or is kept with the reason in a column `error`."),
    ] = "fail",
    dead_letter: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bad rows go there, as NDJSON with the reason (and are skipped)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what a run before has left, begin anew.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes or threads.", min=1, show_default="found out")] = None,
    executor: Annotated[
        Literal["serial", "thread", "process"] | None, typer.Option(help="Kind of worker.", show_default="found out")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where registered models are.", show_default="./everloop-data")
    ] = None,
    database: Database = None,
    trust_pickle: TrustPickle = False,
    trust_type: TrustType = None,
    trust_code: TrustCode = None,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="On stderr.", show_default="on a terminal")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    from everloop.app.cli.score import run

    run(
        model,
        source,
        output=output,
        input_format=input_format,
        output_format=output_format,
        keep=keep,
        features=features,
        types=types,
        delimiter=delimiter,
        prediction=prediction,
        scores=scores,
        version=version,
        batch=batch,
        on_error=on_error,
        dead_letter=dead_letter,
        force=force,
        restart=restart,
        workers=workers,
        executor=executor,
        data_dir=data_dir,
        database=database,
        trust_pickle=trust_pickle,
        trust_types=trust_type,
        trust_code=trust_code,
        progress=progress,
        quiet=quiet,
        as_json=json,
    )


TUNE = """Show how a function would be spread over this machine, and why.

MODULE:FUNCTION takes one item. The items are the rows of a file (as dicts, or one column's values), numbers, or JSON. A few
of them are run to find out what they cost; with --compare the alternatives race each other, in turns, as a table of medians.

\b
  everloop tune images:thumbnail --data photos.csv --column path
  everloop tune simulation:step --range 1000 --compare
  everloop tune prices:quote --data orders.ndjson --compare --plot tune.png
"""


def tune(
    function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION")],
    *,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="Items: the rows of a CSV, NDJSON or Parquet file.")
    ] = None,
    data_format: Annotated[
        Literal["csv", "ndjson", "parquet"] | None,
        typer.Option("--format", help="Of FILE, where its ending does not tell."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Items are this column's values instead of whole rows.")] = None,
    count: Annotated[
        int | None, typer.Option("--range", metavar="N", help="Items: the numbers from 0 to N - 1.", min=1)
    ] = None,
    items_json: Annotated[str | None, typer.Option(metavar="LIST", help="Items: a JSON list.")] = None,
    limit: Annotated[int, typer.Option(help="Rows of FILE, at most.", min=1)] = 100_000,
    compare: Annotated[bool, typer.Option("--compare", help="Run the alternatives, too.")] = False,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="With --compare: each alternative runs so often.",
            min=1,
            max=1000,
            show_default="5, fewer of slow items",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="With --compare: work in one run, on one worker; items beyond are left out.",
            min=0.001,
            show_default="12 in all",
        ),
    ] = None,
    learn: Annotated[bool, typer.Option("--learn", help="Keep what was measured for later predictions.")] = False,
    history: Annotated[bool, typer.Option("--history/--no-history", help="Believe runs of the past.")] = True,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the comparison (implies --compare).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")] = False,
    json: Json = False,
) -> None:
    from everloop.app.cli.tune import run

    run(
        function,
        file=data,
        data_format=data_format,
        column=column,
        count=count,
        items_json=items_json,
        limit=limit,
        race=compare,
        rounds=rounds,
        seconds=seconds,
        learn=learn,
        history=history,
        picture=plot,
        quiet=quiet,
        as_json=json,
    )
