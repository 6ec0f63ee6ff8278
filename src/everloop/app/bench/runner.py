"""Which subjects there are, one run over them, and what is told and kept of it.

`everloop bench` measures what a user without this repository can; `benchmarks/run.py` adds to `SUBJECTS` what needs a checkout.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import msgspec

from everloop.app.bench.rows import Context, Result, Row, Skip, machine, skipped
from everloop.core.errors import InvalidInput

Subject = Callable[[Context, Path], Result]


def _in(module: str, name: str = "run") -> Subject:
    """A subject's `run`, its module imported once it is needed."""

    def run(context: Context, folder: Path) -> Result:
        measure: Subject = getattr(import_module(f"everloop.app.bench.{module}"), name)
        return measure(context, folder)

    return run


SUBJECTS: dict[str, Subject] = {
    "inprocess": _in("inprocess"),
    "threads": _in("threads"),
    "http": _in("http"),
    "oip": _in("oip"),
    "grpc": _in("grpc"),
    "cache": _in("cache"),
    "swaps": _in("swaps"),
    "labels": _in("labels"),
    "crash": _in("crash"),
    "startup": _in("startup"),
    "timeline": _in("timeline"),
    "rollouts": _in("rollouts"),
    "rollout_simulation": _in("rollout_simulation"),
    "bad_canaries": _in("bad_canaries"),
    "shadows": _in("shadows"),
    "batching": _in("batching"),
    "overload": _in("overload"),
    "neighbours": _in("neighbours"),
    "onnx": _in("onnx"),
    "int8": _in("int8"),
    "variants": _in("variants"),
    "runtimes": _in("runtimes"),
    "showcase": _in("showcase"),
    "parallel": _in("parallel"),
    "parallel_small": _in("parallel_small"),
    "parallel_memory": _in("parallel_long", "memory"),
    "parallel_kills": _in("parallel_long", "kills"),
}
"""Name on the command line -> what measures it."""
_FIGURE_KEYS = {"inprocess": "in process"}


class Report(msgspec.Struct):
    """A whole run: what is printed, and what is kept as JSON."""

    machine: dict[str, object]
    quick: bool
    seconds: float
    rows: list[Row]
    figures: list[str] = []

    @property
    def missed(self) -> list[Row]:
        return [row for row in self.rows if row.passed is False]


def run_bench(
    names: Sequence[str] = (),
    *,
    quick: bool = False,
    out: Path | None = None,
    plots: bool | None = None,
    figures: Path | None = None,
    say: Callable[[str], None] = lambda _text: None,
    subjects: Mapping[str, Subject] | None = None,
) -> Report:
    """Measure `names` (all, if there are none); rows that missed their bar come first.

    With `out`, every subject is written there as `NAME.json` and the whole as `report.json`; pictures go to `figures`
    (`out/figures` if None) if `plots`, or if it is None and Matplotlib is installed. Raises InvalidInput for an unknown name."""
    known = dict(SUBJECTS if subjects is None else subjects)
    wanted = list(names) or list(known)
    for name in wanted:
        if name not in known:
            raise InvalidInput(f"no benchmark named {name!r}; there are {', '.join(known)}", field="names")
    context = Context(quick=quick, say=say)
    taken_on, began = machine(), time.monotonic()
    rows: list[Row] = []
    data: dict[str, object] = {}
    for name in wanted:
        result = _measure(name, known[name], context)
        rows += result.rows
        data[_FIGURE_KEYS.get(name, name)] = result.data
        if out is not None:
            _write(
                out / f"{name}.json", {"machine": taken_on, "quick": quick, "rows": result.rows, "data": result.data}
            )
    rows.sort(key=lambda row: {False: 0, None: 1, True: 2}[row.passed])
    report = Report(taken_on, quick, round(time.monotonic() - began, 1), rows)
    if out is not None:
        folder = figures or out / "figures"
        report.figures = _draw(data, folder, plots, say)
        _write(out / "report.json", report)
    return report


def _measure(name: str, subject: Subject, context: Context) -> Result:
    with tempfile.TemporaryDirectory(prefix=f"everloop-bench-{name}-", ignore_cleanup_errors=True) as folder:
        try:
            return subject(context, Path(folder))
        except Skip as why:
            context.say(f"{name}: skipped: {why}")
            return Result([skipped(name, str(why))])
        except Exception as error:
            context.say(f"{name}: failed: {error}")
            return Result([Row(name, name, "", "failed", None, False, f"{type(error).__name__}: {error}"[:2000])])


def _draw(data: Mapping[str, object], folder: Path, plots: bool | None, say: Callable[[str], None]) -> list[str]:
    from importlib.util import find_spec

    if plots is False:
        return []
    if find_spec("matplotlib") is None:
        if plots:
            say("no pictures: Matplotlib is not installed: pip install 'everloop[bench]'")
        return []
    from everloop.app.bench.figures import draw

    return [str(path) for path in draw(data, folder)]


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
    partial.replace(path)


def as_table(report: Report) -> str:
    """For a terminal or a log: missed rows first, each with its detail below it."""
    verdicts = {False: "MISSED", None: "-", True: "ok"}
    head = ("", "subject", "what", "bar", "measured")
    body = [(verdicts[row.passed], row.subject, row.what, row.bar, row.measured) for row in report.rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [line(head), line(["-" * width for width in widths])]
    told: set[str] = set()
    for row, cells in zip(report.rows, body, strict=True):
        lines.append(line(cells))
        if row.detail and row.detail not in told:
            told.add(row.detail)
            lines.append(" " * (widths[0] + 2) + row.detail)
    missed, skips = len(report.missed), sum(row.passed is None for row in report.rows)
    lines.append("")
    lines.append(
        f"{len(report.rows) - missed - skips} of {len(report.rows)} bars met, {missed} missed, {skips} not measured, "
        f"in {report.seconds:.0f} s{' (quick: noisy)' if report.quick else ''}; "
        f"{report.machine['cpu']}, {report.machine['cores']} cores, Python {report.machine['python']}"
    )
    return "\n".join(lines)
