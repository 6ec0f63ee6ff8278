"""`everloop optimize`: its options and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from everloop.app.cli.options import Database, Json, TrustCode, TrustPickle, TrustType

OPTIMIZE = """Make a model smaller and faster, and prove that it still answers the same.

MODEL is a file or folder, Python code (package.module:Model), or a registered model of the data folder or database (NAME, the version
that serves, or NAME@3). Its forms (compiled, ONNX at several levels, with --int8 also quantised) are compared with it on your examples
and measured in turns, on one thread. The fastest that agrees is written to OUT, one for each range of batch sizes where none is the
fastest everywhere; the others are dropped, and the table says why. The original itself stays as it is.

Examples are those of --data, for a registered model else those that were recorded. Without any, rows are made up: that proves little.

\b
  everloop optimize churn.skops --data customers.csv --label churned
  everloop optimize fraud@champion                              on what its server has recorded
  everloop optimize net.onnx --int8 --data digits.parquet --label digit --plot forms.png
  everloop optimize churn.skops --data customers.csv --label churned --verify churn.optimized.artifact
"""


def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A file, a folder, code, or NAME[@VERSION].")],
    *,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also forms that round: INT8, FP16. The labels judge what they cost.")
    ] = False,
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Examples: a CSV, NDJSON or Parquet file.")] = None,
    data_format: Annotated[
        Literal["csv", "ndjson", "parquet"] | None,
        typer.Option("--format", help="Of FILE, where its ending does not tell."),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of FILE with what is right.")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", help="The model's features, in its order, where the names do not tell."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Examples, at most.", min=1)] = 20_000,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Where it goes; *.onnx is the graph alone. Without, nothing is written if the original is the fastest.",
            show_default="MODEL.optimized.artifact",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the forms.")] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            metavar="ARTIFACT", help="Do it again, and check every number that this artifact's manifest tells."
        ),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(metavar="ROWS", help="A batch size to measure besides 1, 8 and 64; repeatable.", min=1),
    ] = None,
    loss: Annotated[
        float, typer.Option(metavar="SHARE", help="With --int8: the accuracy that may be lost; 0.005 is half a point.")
    ] = 0.005,
    seconds: Annotated[float, typer.Option(help="About what comparing and measuring may take.", min=1.0)] = 60.0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where registered models are.", show_default="./everloop-data")
    ] = None,
    database: Database = None,
    trust_pickle: TrustPickle = False,
    trust_type: TrustType = None,
    trust_code: TrustCode = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")] = False,
    json: Json = False,
) -> None:
    from everloop.app.cli.optimizing import run

    run(
        model,
        int8=int8,
        file=data,
        data_format=data_format,
        label=label,
        features=features,
        limit=limit,
        output=output,
        picture=plot,
        verify=verify,
        sizes=size,
        loss=loss,
        seconds=seconds,
        data_dir=data_dir,
        database=database,
        trust_pickle=trust_pickle,
        trust_type=trust_type,
        trust_code=trust_code,
        quiet=quiet,
        as_json=json,
    )
