"""How commands talk: data to stdout (a table for people, JSON for programs), everything else to stderr.

Rich is imported only when there is something to show, so that starting a command costs nothing. It honours NO_COLOR, and
colours nothing that is not a terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

KIND_WIDTH = 20
"""Of a kind of event with its version: `rollout_advanced v7`."""
ROOMY = 100
"""Columns of a terminal from which on the messages of a timeline have a column of their own."""
WIDE = 500
"""Columns where there is no terminal: a pipe should get whole lines."""


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False, soft_wrap=False)


def say(text: str, style: str = "") -> None:
    """One line of talk, on stderr."""
    if style and sys.stderr.isatty():
        console(stderr=True).print(text, style=style, markup=False, soft_wrap=True)
    else:
        typer.echo(text, err=True)


def complain(text: str) -> None:
    say(f"everloop: {text}", style="red")


def as_json(value: Any) -> str:
    """One line for a program; indented for a person."""
    return json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)


def data(text: str) -> None:
    """Data on stdout, as it is."""
    typer.echo(text)


def show(renderable: Any) -> None:
    """A Rich renderable on stdout; for a pipe without the blanks that fill a line up."""
    screen = console()
    if sys.stdout.isatty():
        screen.print(renderable)
        return
    with screen.capture() as captured:
        screen.print(renderable)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", sparse: bool = False) -> None:
    """Rows on stdout; columns whose values are numbers are set flush right. `sparse`: without columns in which nothing stands."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    listed = [list(row) for row in rows]
    if sparse and listed:
        kept = [i for i in range(len(columns)) if any(row[i] not in ("", None) for row in listed)]
        columns, listed = [columns[i] for i in kept], [[row[i] for i in kept] for row in listed]
    out = Table(
        box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, title=title or None, title_justify="left", pad_edge=False
    )
    for i, name in enumerate(columns):
        numbers = bool(listed) and all(isinstance(row[i], (int, float)) or row[i] is None for row in listed)
        out.add_column(name, justify="right" if numbers else "left", no_wrap=i == 0)
    for row in listed:
        out.add_row(*(cell if isinstance(cell, Text) else cell_text(cell) for cell in row))
    show(out)


def pairs(entries: Iterable[tuple[str, Any]]) -> None:
    """Names and values on stdout, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, show_header=False, pad_edge=False)
    out.add_column(no_wrap=True, style="bold")
    out.add_column()
    for name, value in entries:
        out.add_row(Text(name), value if isinstance(value, Text) else cell_text(value))
    show(out)


def cell_text(value: Any) -> Any:
    from rich.text import Text

    if value is None:
        return Text("–")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(number(value))
    if isinstance(value, (dict, list)):
        return Text(json.dumps(value, ensure_ascii=False))
    return Text(str(value))


def number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


@contextmanager
def for_data_alone() -> Iterator[BinaryIO]:
    """The real stdout, for bytes. Whatever prints meanwhile, a user's function here, in C or in a worker, prints to stderr."""
    stdout = sys.stdout
    stdout.flush()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        try:
            fd, talk = stdout.fileno(), sys.stderr.fileno()
        except (OSError, ValueError):  # not a process's own: a notebook's, a test's
            yield stdout.buffer
            return
        kept = stack.enter_context(os.fdopen(os.dup(fd), "wb"))
        os.dup2(talk, fd)
        stack.callback(os.dup2, kept.fileno(), fd)
        yield kept


def figure(metric: str, value: float | None) -> str:
    """A figure of quality, `accuracy` or `mae`."""
    if value is None:
        return "–"
    return f"{value:.1%}" if metric == "accuracy" else f"mae {value:.3g}"


def story_line(event: dict[str, Any]) -> str:
    """One event of a timeline; on a terminal as many lines as it needs."""
    version = f" v{event['version']}" if event["version"] is not None else ""
    head = f"{when(event['at'])}  {event['kind'] + version:<{KIND_WIDTH}}  "
    if not sys.stdout.isatty():
        return head + str(event["message"])
    width = shutil.get_terminal_size().columns
    indent = len(head) if width >= ROOMY else 4
    return textwrap.fill(
        head + str(event["message"]), max(width, 40), subsequent_indent=" " * indent, break_on_hyphens=False
    )


def share(value: float) -> str:
    """A share of the traffic: `5 %`."""
    return f"{100 * value:.4g} %"


def when(seconds: float) -> str:
    """Seconds since the epoch as local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
