"""The commands, their options and their help. What each does is in the module that its function imports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from everloop.app.cli import quality, transfer, versions  # noqa: F401  they add their commands to the group `models`
from everloop.app.cli.bulk import SCORE, TUNE, score, tune
from everloop.app.cli.cache import cache
from everloop.app.cli.group import Group
from everloop.app.cli.image import image
from everloop.app.cli.keys import keys
from everloop.app.cli.models import models
from everloop.app.cli.optimize import OPTIMIZE, optimize
from everloop.app.cli.options import Database, Json, Model, TrustCode, TrustPickle, TrustType, Url
from everloop.app.cli.recommend import recommend
from everloop.app.cli.rollout import rollout

HELP = """The model server that keeps learning.

It answers predictions, joins them with labels that come later, notices drift, retrains in the background, proves the new
version better, and swaps it in while it answers.

\b
  everloop demo                                  watch it learn from real streams
  everloop serve churn=churn.onnx                serve a model; http://127.0.0.1:3000/docs
  everloop predict churn '[0.3, 12, 1]'          ask it
  everloop models list                           what is served, and how well
  everloop rollout start churn v2.0              a new version, step by step, as long as the evidence allows
  everloop score churn.onnx in.csv -o out.csv    score a whole file
  everloop optimize churn.skops --data in.csv    smaller and faster, proved equal
  everloop doctor                                check this machine
"""

app = typer.Typer(
    cls=Group,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(models, name="models")
app.add_typer(rollout, name="rollout")
app.add_typer(keys, name="keys")
app.add_typer(cache, name="cache")
app.add_typer(recommend, name="recommend")
app.add_typer(image, name="image")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"everloop {version('everloop')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


SERVE = """Serve models over HTTP, and keep them learning.

Each MODEL is a file (ONNX; scikit-learn as skops; XGBoost, LightGBM, CatBoost; PyTorch; a pipeline; an artifact), an MLflow
folder, models:/name@alias, or Python code, package.module:Model. What has changed since the last start becomes the next
version; what has not is served on. Models that were created over HTTP come back by themselves.

\b
  everloop serve                                 an empty server: create models with `everloop models create`
  everloop serve churn=churn.onnx price=price.skops --port 8080
  everloop serve fraud=model.onnx churn=./mlflow_folder nlp=package.module:Model
  everloop serve churn=churn.onnx --memory       keep nothing on disk
  everloop serve --showcase                      sentiment, images and recommendations, by the models that come with it
  EVERLOOP_DATABASE=postgresql://loop@db/loop everloop serve      one of several servers that share everything
  everloop serve --set learning.min_samples=50   any option of everloop.toml
"""


@app.command(help=SERVE)
def serve(
    files: Annotated[list[str] | None, typer.Argument(metavar="NAME=MODEL", help="Models to serve.")] = None,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one.", show_default="3000")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port to speak gRPC on, too; 0 takes any free one.", show_default="none")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where models, predictions and labels are kept.", show_default="./everloop-data")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A PostgreSQL database instead, that several servers share: postgresql://…"),
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Keep nothing: everything is gone when it ends.")] = False,
    showcase: Annotated[
        bool,
        typer.Option(
            "--showcase",
            help="Serve the models that come with everloop, too: sentiment, image and recommender, behind /api/predict/…",
        ),
    ] = False,
    record: Annotated[
        float | None, typer.Option(help="Share of predictions to record for later labels.", show_default="1.0")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow an address that other machines reach, although there are no keys."),
    ] = False,
    trust_pickle: TrustPickle = False,
    trust_type: TrustType = None,
    trust_code: TrustCode = None,
    grace: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time for requests in flight on SIGTERM.", show_default="30")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, typer.Option(help="How much to log.", show_default="info")
    ] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object a log line.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of the everloop.toml that is found.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other option; repeatable.")
    ] = None,
) -> None:
    from everloop.app.cli.group import UsageError
    from everloop.app.cli.serve import serve as run

    said = [flag for flag, given in (("--memory", memory), ("--data-dir", data_dir), ("--database", database)) if given]
    if len(said) > 1:
        raise UsageError(f"{' and '.join(said)} contradict each other; say one of them")
    run(
        files or [],
        {
            "showcase.builtin": showcase or None,
            "server.host": host,
            "server.port": port,
            "server.grpc_port": grpc_port,
            "server.insecure": insecure or None,
            "server.grace": grace,
            "server.log_level": log_level,
            "server.json_logs": json_logs or None,
            "engine.data_dir": data_dir,
            "engine.database": database,
            "engine.record": record,
            "engine.trust_pickle": trust_pickle or None,
            "engine.trust_types": tuple(trust_type) if trust_type else None,
            "engine.trust_code": tuple(trust_code) if trust_code else None,
        },
        memory=memory,
        config=config,
        assignments=tuple(assign or ()),
    )


DEMO = """Watch models learn: a real server, real streams, drift, retraining and swaps, live.

\b
  everloop demo                                  until Ctrl-C
  everloop demo --once                           a fixed run and a summary
  everloop demo --stream taxi.csv --target fare  your own file, as predictions followed by delayed labels
"""


@app.command(help=DEMO)
def demo(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Play a fixed number of examples, print a summary, end.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(help="End after so many seconds.", min=1.0)] = None,
    port: Annotated[int, typer.Option(help="The server's port; 0 takes any free one.", min=0, max=65_535)] = 0,
    stream: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Replay this file instead.")] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the file to predict.")] = None,
    delay: Annotated[int, typer.Option(help="Labels come so many predictions later.", min=0, max=10_000)] = 20,
    kind: Annotated[str, typer.Option(help="The kind of model for the file.")] = "auto",
    rate: Annotated[float | None, typer.Option(help="Examples per second and model.", min=0.1, max=10_000)] = None,
    examples: Annotated[int | None, typer.Option(help="With --once: examples per model, at most.", min=10)] = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.group import UsageError
    from everloop.app.demo.run import Options, run

    if (stream is None) != (target is None):
        raise UsageError("--stream and --target go together: the file, and its column to predict")
    if json and not once and seconds is None:
        raise UsageError("--json prints the summary at the end, so it needs --once or --seconds")
    options = Options(
        once=once,
        seconds=seconds,
        port=port,
        stream=stream,
        target=target or "",
        delay=delay,
        kind=kind,
        rate=rate,
        examples=examples,
        json=json,
    )
    raise typer.Exit(run(options))


PREDICT = """Ask a model of a running server.

FEATURES is a JSON list or object (one row), a list of those (many rows), or numbers with commas between. `@FILE` reads it from a
file and `-` from stdin: one JSON document, or one row a line.

\b
  everloop predict churn '[0.3, 12, 1]'
  everloop predict churn 0.3,12,1
  everloop predict churn '{"age": 42, "plan": "pro"}' --json
  everloop predict churn @rows.ndjson > predictions.txt
"""


@app.command(help=PREDICT, context_settings={"ignore_unknown_options": True})
def predict(
    model: Model,
    features: Annotated[str, typer.Argument(metavar="FEATURES|@FILE|-")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.calls import predict as run

    run(model, features, url, as_json=json)


FEEDBACK = """Tell a model what was right, so that it learns.

\b
  everloop feedback churn --request-id 5f0c9a21b80-1a --label 1
  everloop feedback churn --features '[0.3, 12, 1]' --label 0
  everloop feedback churn --features @examples.ndjson    lines like {"features": …, "label": …}
"""


@app.command(help=FEEDBACK)
def feedback(
    model: Model,
    *,
    label: Annotated[
        str | None, typer.Option(metavar="VALUE", help="A number, true, false, or a text; '\"3\"' is the text 3.")
    ] = None,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="The prediction it belongs to.")] = None,
    index: Annotated[int, typer.Option(help="Which row of that request, from 0.", min=0)] = 0,
    features: Annotated[
        str | None, typer.Option(metavar="FEATURES|@FILE|-", help="The features it belongs to, as in `predict`.")
    ] = None,
    validation: Annotated[bool, typer.Option("--validation", help="Only judge with it, never train on it.")] = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="Sent twice under one key, it counts once.")
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.calls import feedback as run

    run(model, label, request_id, index, features, validation=validation, key=key, url=url, as_json=json)


app.command(help=SCORE)(score)
app.command(help=TUNE)(tune)
app.command(help=OPTIMIZE)(optimize)

DOCTOR = """Check this machine: Python, libraries, processors, the data folder or database, the port. Exit code 1 if something is broken."""


@app.command(help=DOCTOR)
def doctor(
    *,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder to check.", show_default="./everloop-data")
    ] = None,
    database: Database = None,
    port: Annotated[int, typer.Option(help="The port to check.", min=0, max=65_535)] = 3000,
    host: Annotated[str, typer.Option(help="The address to check.")] = "127.0.0.1",
    json: Json = False,
) -> None:
    from everloop.app.cli.doctor import run

    raise typer.Exit(run(data_dir, database, host, port, as_json=json))


BENCH = """Measure this machine: every number of the documentation, beside its bar. Exit code 1 if a bar was missed.

NAMES are some of inprocess, threads, http, oip, grpc, cache, swaps, labels, crash, startup, timeline, rollouts, rollout_simulation,
bad_canaries, shadows, batching, overload, neighbours, onnx, int8, variants, runtimes, parallel, parallel_small, parallel_memory,
parallel_kills; all of them without. Each bar is a ratio of two things measured in turns. `http` needs `wrk`, and
FastAPI to compare with; what cannot be measured says why.

\b
  everloop bench --quick                         five minutes, noisy
  everloop bench http --out results --plots      JSON and pictures, too
"""


@app.command(help=BENCH)
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAMES]...", help="Only these.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the numbers there, as JSON.")] = None,
    plots: Annotated[bool, typer.Option("--plots", help="Draw them, too, into DIR/figures.")] = False,
    json: Json = False,
) -> None:
    from everloop.app.cli.bench import run

    raise typer.Exit(run(names or [], quick=quick, out=out, plots=plots, as_json=json))
