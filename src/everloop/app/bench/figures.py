"""The pictures, drawn from measured runs and from nothing else: a subject that was not measured has no picture.

Colours are Okabe and Ito's, which colour-blind people can tell apart; every bar also carries its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, RED, GREEN, INK = "#0072B2", "#E69F00", "#8C8C8C", "#D55E00", "#009E73", "#222222"
COLOURS = {"everloop": BLUE, "fastapi": ORANGE, "fastapi_async": "#F3CC80", "bare": GREY, "scikit-learn": ORANGE}
NAMES = {
    "everloop": "everloop",
    "fastapi": "FastAPI",
    "fastapi_async": "FastAPI,\nasync route",
    "bare": "no model,\nbare",
    "scikit-learn": "scikit-learn",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": "#B5B5B5",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E8E8E8",
    "axes.axisbelow": True,
    "figure.dpi": 110,
}
Data = Mapping[str, Any]
"""Subject -> its raw numbers, as `Result.data`."""


def draw(data: Data, folder: Path) -> list[Path]:
    """Write every picture that `data` has the numbers for. Returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with plt.rc_context(STYLE):
        for name, subjects, paint in _PICTURES:
            if all(data.get(subject) for subject in subjects):
                figure = paint(plt, data)
                path = folder / f"{name}.png"
                figure.savefig(path, bbox_inches="tight", facecolor="white", metadata={"Software": ""})
                plt.close(figure)
                _shrink(path)
                written.append(path)
    return written


def _shrink(path: Path) -> None:
    """A picture of few colours needs a palette of few colours."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(colors=128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _latency(plt: Any, data: Data) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _in_process(axes[0], data["in process"])
    _at_one_connection(axes[1], data["http"])
    return _made(figure)


def _throughput(plt: Any, data: Data) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    _requests(axes, data["http"])
    return _made(figure)


def _resources(plt: Any, data: Data) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _memory(axes[0], data["http"])
    _cpu(axes[1], data["http"])
    return _made(figure)


def _versions(plt: Any, data: Data) -> Figure:
    figure, axes = plt.subplots(3, 1, figsize=(11, 7.2), sharex=True, layout="constrained", height_ratios=(2, 2, 1.4))
    _error(axes[0], data["timeline"])
    _version_steps(axes[1], data["timeline"])
    _latency_under_load(axes[2], data["timeline"])
    for upper in axes[:-1]:
        upper.set_xlabel("")
    return _made(figure)


def _dashboard(plt: Any, data: Data) -> Figure:
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=(1, 1, 0.85))
    _in_process(figure.add_subplot(grid[0, :2]), data["in process"])
    _at_one_connection(figure.add_subplot(grid[0, 2]), data["http"])
    _requests(figure.add_subplot(grid[0, 3]), data["http"])
    _memory(figure.add_subplot(grid[1, 0]), data["http"])
    _cpu(figure.add_subplot(grid[1, 1]), data["http"])
    _version_steps(figure.add_subplot(grid[1, 2:]), data["timeline"])
    _error(figure.add_subplot(grid[2, :]), data["timeline"])
    return _made(figure)


def _made(figure: Any) -> Figure:
    made: Figure = figure
    return made


def _in_process(axes: Axes, data: Data) -> None:
    widths = list(data["microseconds"])
    sides = ("bare", "everloop", "scikit-learn")
    for i, side in enumerate(sides):
        places = [x + (i - 1) * 0.27 for x in range(len(widths))]
        values = [data["microseconds"][width][side] for width in widths]
        label = {
            "bare": "bare Python",
            "everloop": "everloop",
            "scikit-learn": "scikit-learn",
        }[side]
        bars = axes.bar(places, values, 0.25, color=COLOURS[side], label=label)
        axes.bar_label(bars, [_short(value) for value in values], padding=2, fontsize=8.5)
    _log(axes)
    axes.set_xticks(range(len(widths)), [f"{width} feature{'s' if width != '1' else ''}" for width in widths])
    axes.set_ylabel("µs a prediction (log)")
    axes.set_title("In process")
    _legend(axes)


def _bars(axes: Axes, data: Data, key: str, title: str, label: str) -> None:
    names = [name for name in ("everloop", "fastapi", "fastapi_async", "bare") if name in data]
    values = [data[name][key] for name in names]
    bars = axes.bar(range(len(names)), values, 0.6, color=[COLOURS[name] for name in names])
    axes.bar_label(bars, [_short(value) for value in values], padding=2, fontsize=9)
    axes.set_xticks(range(len(names)), [NAMES[name] for name in names], fontsize=8)
    axes.set_ylim(0, max(values) * 1.15)
    axes.set_ylabel(label)
    axes.set_title(title)


def _at_one_connection(axes: Axes, data: Data) -> None:
    _bars(axes, data, "p50_us", "HTTP, one connection", "p50, µs")


def _requests(axes: Axes, data: Data) -> None:
    _bars(axes, data, "per_second", "HTTP, 64 connections", "requests/s, one core")


def _memory(axes: Axes, data: Data) -> None:
    _bars(axes, data, "resident_mb", "Resident memory", "MiB")


def _cpu(axes: Axes, data: Data) -> None:
    _bars(axes, data, "cpu_us", "Processor time", "µs a request")


def _legend(axes: Axes) -> None:
    """Beside the title, where it can hide nothing."""
    axes.legend(
        frameon=False,
        fontsize=8.5,
        ncols=3,
        loc="lower right",
        bbox_to_anchor=(1, 0.99),
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def _log(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** math.floor(math.log10(low)), high * 1.6)


def _marks(axes: Axes, data: Data) -> None:
    """Where the world changed, where the change was noticed, where a version took over."""
    for i, at in enumerate(data["changes"][1:]):
        axes.axvline(at, color=GREY, lw=1, ls=(0, (4, 3)), label="slope changes" if i == 0 else None)
    for kind, colour, label, marker in (("drift", RED, "drift alarm", "v"), ("swapped", GREEN, "swap", "^")):
        at = [event["at"] for event in data["events"] if event["kind"] == kind]
        if at:
            height = 0.97 if kind == "drift" else 0.03
            axes.plot(
                at, [height] * len(at), marker, color=colour, ms=7, ls="none", label=label, transform=axes.get_xaxis_transform(),
                clip_on=False, zorder=5,
            )  # fmt: skip


def _error(axes: Axes, data: Data) -> None:
    at = [b["at"] for b in data["bins"]]
    axes.plot(at, [b["error"] for b in data["bins"]], color=BLUE, lw=1.8)
    axes.fill_between(at, [b["error"] for b in data["bins"]], color=BLUE, alpha=0.12)
    _marks(axes, data)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean error of answers")
    axes.set_xlabel("seconds")
    axes.set_title("Answers under load while the slope changes")
    _legend(axes)


def _version_steps(axes: Axes, data: Data) -> None:
    from matplotlib.ticker import MaxNLocator

    at = [b["at"] for b in data["bins"]]
    axes.step(at, [b["version"] for b in data["bins"]], where="post", color=BLUE, lw=2)
    _marks(axes, data)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("version that answers")
    axes.set_xlabel("seconds")
    axes.set_title("Version that answers")
    _legend(axes)


def _latency_under_load(axes: Axes, data: Data) -> None:
    at = [b["at"] for b in data["bins"]]
    axes.plot(at, [b["p50_us"] for b in data["bins"]], color=BLUE, lw=1.6, label="p50")
    axes.plot(at, [b["p99_us"] for b in data["bins"]], color=ORANGE, lw=1.4, label="p99")
    for change in data["changes"][1:]:
        axes.axvline(change, color=GREY, lw=1, ls=(0, (4, 3)))
    _log(axes)
    axes.set_ylabel("µs (log)")
    axes.set_xlabel("seconds")
    axes.set_title("Latency of a prediction meanwhile")
    _legend(axes)


SIDES = (
    ("warm", "everloop, warm", BLUE, "o"),
    ("cold", "everloop, cold", "#FFFFFF", "o"),
    ("joblib", "joblib", GREEN, "s"),
    ("mpire", "mpire", RED, "D"),
    ("Pool", "multiprocessing.Pool", ORANGE, "^"),
    ("ProcessPoolExecutor", "ProcessPoolExecutor", GREY, "v"),
)
"""Of the picture of the parallel engine: key in the data, name, colour, marker."""
FURTHEST = 8.0
"""Times the best: what is slower stands at the edge with its number."""


def _parallel(plt: Any, data: Data) -> Figure:
    """A row for each workload, a mark for each side, at its median time over the best setting's."""
    from statistics import median

    found = data["parallel"]["workloads"]
    figure, axes = plt.subplots(figsize=(11, 5.6), layout="constrained")
    for key, label, colour, marker in SIDES:
        xs, ys = [], []
        for row, each in enumerate(found):
            times = each["peers"].get(key, []) if key not in each else each[key]
            if times:
                xs.append(median(times) / median(each["best"]))
                ys.append(-row + (0.16 if key == "cold" else -0.16 if key == "warm" else 0.0))
        style = {
            "markeredgecolor": BLUE if "everloop" in label else "white",
            "markeredgewidth": 1.4 if key == "cold" else 0.6,
        }
        axes.plot([min(x, FURTHEST) for x in xs], ys, marker, color=colour, ms=8, ls="none", label=label, clip_on=False,
                  zorder=4 if "everloop" in label else 3, **style)  # fmt: skip
        for x, y in zip(xs, ys, strict=True):
            if x > FURTHEST:
                axes.annotate(f"{x:.0f} ×", (FURTHEST, y), (8, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1, color=INK, lw=1)
    axes.set_xscale("log")
    axes.set_xlim(0.5, FURTHEST)
    ticks = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks([-row for row in range(len(found))], [each["name"] for each in found])
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("time against the best fixed setting of a grid (log; left is faster)")
    axes.set_title("Twelve workloads")
    _legend(axes)
    return _made(figure)


WAYS = (
    ("gate", "everloop", BLUE),
    ("mSPRT", "normal-mixture mSPRT", ORANGE),
    ("z-test", "z-test, peeked", GREY),
)
"""Of the picture of rollouts: key in the data, name, colour."""


def _rollouts(plt: Any, data: Data) -> Figure:
    """How many of the simulated rollouts were rolled back after how many samples."""
    found = data["rollout_simulation"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained", sharey=True)
    shares = range(1, 100)
    for axes, key, title, most in (
        (left, "errors", "Errors 5 → 10 %", 1500),
        (middle, "quality", "Accuracy 80 → 75 %", 4000),
    ):
        for way, label, colour in WAYS:
            axes.step(
                [most if n is None else n for n in found[key][way]],
                shares,
                where="post",
                color=colour,
                label=label,
            )
        axes.set_xlim(0, most)
        axes.set_title(title)
    peeked = found["null_errors"]["z-test"] / found["null_errors"]["simulations"]
    left.lines[-1].set_label(f"z-test, peeked: acts on nothing in {peeked:.0%}")
    for (key, times), colour in zip(
        ((k, v) for k, v in found.items() if "tolera" in k), (BLUE, ORANGE, GREEN, RED), strict=True
    ):
        right.step([4000 if n is None else n for n in times], shares, where="post", color=colour, label=key)
    right.set_xlim(0, 2000)
    right.set_title("p99 latency 10 → 15 ms")
    for axes in (left, middle, right):
        axes.grid(visible=True, axis="both")
        axes.set_xlabel("samples an arm, looked at after each")
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16))
    left.set_ylabel("% rolled back")
    return _made(figure)


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


_PICTURES: tuple[tuple[str, tuple[str, ...], Callable[[Any, Data], Figure]], ...] = (
    ("latency", ("in process", "http"), _latency),
    ("throughput", ("http",), _throughput),
    ("resources", ("http",), _resources),
    ("versions", ("timeline",), _versions),
    ("parallel", ("parallel",), _parallel),
    ("rollouts", ("rollout_simulation",), _rollouts),
    ("dashboard", ("in process", "http", "timeline"), _dashboard),
)
