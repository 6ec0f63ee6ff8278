"""What the demo shows: a live screen in a terminal, plain lines elsewhere, and the summary at the end."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import typer

from everloop.app.cli.output import figure
from everloop.app.demo.score import ModelScore, Score

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STYLES = {
    "drift": "bold yellow",
    "input_drift": "yellow",
    "fitted": "cyan",
    "fit_failed": "bold red",
    "learner_failed": "bold red",
    "rejected": "magenta",
    "published": "green",
    "swapped": "bold green",
    "rolled_back": "bold magenta",
    "rollout_advanced": "green",
    "rollout_ended": "bold green",
    "guard": "bold red",
}
UNSPOKEN = frozenset({"fitted", "rejected"})
"""Not told as plain lines: most fits are of challengers that turn out no better, and drift and swaps should stand out."""
PLAIN_SECONDS = 5.0
"""Between two status lines where there is no screen."""


class Board(Protocol):
    def __enter__(self) -> Board: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def refresh(self, elapsed: float) -> None:
        """Show the score as it is now; `elapsed` seconds into the run."""

    def event(self, event: dict[str, Any]) -> None:
        """Something happened. Called on the thread that heard it."""


class LiveBoard:
    """Rich's live display: the models, and below them what happens."""

    def __init__(self, score: Score, url: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._score = score
        self._url = url
        self._console: Console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveBoard:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def event(self, event: dict[str, Any]) -> None:
        """The next refresh shows it."""

    def refresh(self, elapsed: float) -> None:
        self._live.update(self.screen(elapsed), refresh=True)

    def screen(self, elapsed: float) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        with self._score.lock:
            models = list(self._score.models.values())
            room = max(3, self._console.size.height - len(models) - 10)
            events = list(self._score.events)[-room:]
            top = Text.assemble(
                ("everloop", "bold"),
                f"  {self._url}  ",
                (f"{self._url}/docs", "underline"),
                f"  {elapsed:.0f} s",
            )
            legend = Text(
                "quality: of the newest 1,000 labels; no-change: the label before; Ctrl-C ends",
                style="dim",
                no_wrap=True,
            )
            return Group(top, Text(), live_table(models), legend, Text(), *(event_text(event) for event in events))


class PlainBoard:
    """Lines on stdout: what happens, and how each model does every few seconds. Refused challengers the summary counts."""

    def __init__(self, score: Score, url: str, *, to_stderr: bool = False) -> None:
        self._score = score
        self._url = url
        self._next = PLAIN_SECONDS
        self._to_stderr = to_stderr
        """Where stdout is for JSON."""

    def __enter__(self) -> PlainBoard:
        self._line(f"everloop serves at {self._url}; streams: {', '.join(self._score.models)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] not in UNSPOKEN:
            self._line(event_text(event).plain)

    def refresh(self, elapsed: float) -> None:
        if elapsed < self._next:
            return
        self._next = elapsed + PLAIN_SECONDS
        with self._score.lock:
            lines = [status_line(model, elapsed) for model in self._score.models.values()]
        for line in lines:
            self._line(line)

    def _line(self, text: str) -> None:
        typer.echo(text, err=self._to_stderr)


def live_table(models: list[ModelScore]) -> Table:
    """At most 80 columns wide."""
    from rich.text import Text

    out = _table(
        ("model",),
        ("req/s", "p50 ms", "p99 ms", "ver"),
        ("quality", "no-change"),
        ("labels", "drift", "swap", "err"),
    )
    for model in models:
        metric, ours, baseline = model.figures(recent=True)
        version = "–" if model.version is None else f"v{model.version}"
        out.add_row(
            model.name,
            f"{model.rate():.0f}",
            milliseconds(model.percentile(0.5)),
            milliseconds(model.percentile(0.99)),
            Text(version, style="cyan reverse" if model.learner.get("is_training") else ""),
            Text(figure(metric, ours), style=better_style(metric, ours, baseline)),
            figure(metric, baseline),
            str(model.labels),
            str(model.drifts),
            str(model.swaps),
            Text(str(model.failed), style="bold red" if model.failed else ""),
        )
    return out


def _table(*groups: tuple[str, ...]) -> Table:
    """Names, numbers, names, numbers … : every second group is set flush right."""
    from rich.table import Table

    out = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim underline")
    for i, group in enumerate(groups):
        for name in group:
            out.add_column(
                name, justify="right" if i % 2 else "left", no_wrap=True, style="bold" if name == "model" else ""
            )
    return out


def summary(score: Score) -> RenderableType:
    """The table at the end: over all of the run, not only what was newest. At most 80 columns wide."""
    from rich.text import Text

    out = _table(
        ("model",),
        ("played", "ver", "drift", "swap", "rejects"),
        ("quality", "no-change"),
        ("p50 ms", "p99 ms", "err"),
    )
    with score.lock:
        for model in score.models.values():
            metric, ours, baseline = model.figures(recent=False)
            out.add_row(
                model.name,
                str(model.played),
                str(model.version or 0),
                str(model.drifts),
                str(model.swaps),
                str(model.rejected),
                Text(figure(metric, ours), style=better_style(metric, ours, baseline)),
                figure(metric, baseline),
                milliseconds(model.percentile(0.5)),
                milliseconds(model.percentile(0.99)),
                Text(str(model.failed), style="bold red" if model.failed else ""),
            )
    return out


def as_data(score: Score, seconds: float) -> dict[str, Any]:
    """The same for programs."""
    models = []
    with score.lock:
        for model in score.models.values():
            metric, ours, baseline = model.figures(recent=False)
            models.append(
                {
                    "model": model.name,
                    "examples": model.played,
                    "predictions": model.predicted,
                    "labels": model.labels,
                    "version": model.version,
                    "drifts": model.drifts,
                    "fits": model.fits,
                    "rejected": model.rejected,
                    "swaps": model.swaps,
                    "metric": metric,
                    "quality": ours,
                    "baseline": baseline,
                    "p50_seconds": model.percentile(0.5),
                    "p99_seconds": model.percentile(0.99),
                    "waits": model.waits,
                    "errors": model.failed,
                }
            )
    return {"seconds": round(seconds, 2), "models": models}


def status_line(model: ModelScore, elapsed: float) -> str:
    metric, ours, baseline = model.figures(recent=True)
    version = "no version yet" if model.version is None else f"v{model.version}"
    return (
        f"{elapsed:5.0f} s  {model.name:<9} {model.rate():4.0f} req/s  p50 {milliseconds(model.percentile(0.5))} ms  "
        f"p99 {milliseconds(model.percentile(0.99))} ms  {version}  {figure(metric, ours)} (no-change {figure(metric, baseline)})"
        + (f"  {model.failed} ERRORS" if model.failed else "")
    )


def event_text(event: dict[str, Any]) -> Any:
    from rich.text import Text

    at = datetime.fromtimestamp(event["at"]).astimezone().strftime("%H:%M:%S")
    version = f" v{event['version']}" if event["version"] is not None else ""
    return Text.assemble(
        (f"{at}  ", "dim"),
        (f"{event['model']:<9} ", "bold"),
        (f"{event['kind'] + version:<15} ", STYLES.get(event["kind"], "")),
        event["message"],
        no_wrap=True,
        overflow="ellipsis",
    )


def better_style(metric: str, ours: float | None, baseline: float | None) -> str:
    if ours is None or baseline is None:
        return ""
    return "green" if (ours >= baseline) == (metric == "accuracy") else "yellow"


def milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.2f}"
