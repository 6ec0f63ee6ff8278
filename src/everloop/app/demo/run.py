"""One demo from start to end: the server's process, the feeders, the screen, the summary, the exit code."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from everloop.app.cli.output import as_json, complain, data, say, show
from everloop.app.client import Client
from everloop.app.demo.board import Board, LiveBoard, PlainBoard, as_data, summary
from everloop.app.demo.feeder import Feeder, Listener, look
from everloop.app.demo.play import Play, Registration
from everloop.app.demo.score import Score
from everloop.app.demo.streams import Stream, bundled
from everloop.app.interpreter import quick_switches
from everloop.core.errors import EverloopError, StoreUnavailable

START_SECONDS = 60.0
STOP_SECONDS = 15.0
SETTLE_SECONDS = 4.0
"""After the last label of `--once`: the learner takes what is left, and the summary counts it."""
REFRESH_SECONDS = 0.25
CATCH_UP_SECONDS = 2.0
"""At the end: for the events of the last swaps to come."""
LOOK_EVERY = 4
"""Refreshes between two looks at what the server says of its models."""
ONCE_SECONDS = 22.0
ONCE_EXAMPLES = 2100
RATE = 60.0
FILE_RATE = 200.0


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    once: bool = False
    seconds: float | None = None
    port: int = 0
    stream: Path | None = None
    target: str = ""
    delay: int = 20
    kind: str = "auto"
    rate: float | None = None
    examples: int | None = None
    json: bool = False


def run(options: Options) -> int:
    """0 if all went well; 1 if a request failed or a model learned nothing. Ctrl-C ends it, and is no failure."""
    streams, play = _cast(options)
    warm = threading.Thread(target=_warm, args=(streams,), name="demo-streams", daemon=True)
    warm.start()
    score = Score({stream.name: stream.about for stream in streams})
    interrupted = False
    # Six threads feed and measure: without quick switches they would measure each other.
    with tempfile.TemporaryFile() as log, _interruptible(), quick_switches():
        with _server(play, log) as (url, process):
            warm.join()
            began = time.monotonic()
            try:
                _perform(options, play, streams, score=score, url=url, process=process)
            except KeyboardInterrupt:
                interrupted = True
                say("ending")
            elapsed = time.monotonic() - began
        said = _tail(log)
    if options.json:
        data(as_json(as_data(score, elapsed)))
    else:
        show(summary(score))
    # Whoever ends it early cannot ask that everything was learned.
    problems = score.problems(whole=not interrupted and (options.once or options.seconds is None))
    for problem in problems:
        complain(problem)
    if problems and said:
        say("what the server said last:\n  " + "\n  ".join(said))
    return 1 if problems else 0


def _cast(options: Options) -> tuple[list[Stream], Play]:
    """The streams, and what the server registers for them. Raises InvalidInput for a bad file."""
    if options.stream is None:
        streams = bundled()
        return streams, Play([Registration(s.name, cast=s.name) for s in streams], port=options.port)
    from everloop.app.demo.csvfile import open_csv
    from everloop.core.schema import Target

    file = open_csv(options.stream, options.target)
    for name in file.left_out:
        say(f"column {name!r} has no values: left out")
    task = {"linear": "regression", "ridge": "regression", "logistic": "classification"}.get(options.kind, file.task)
    if task == "regression":
        if file.target.kind == "text":
            line, value = file.target.first_text or (0, "")
            raise _wrong_target(
                options, f"line {line} has {value!r}, which is not a number; choose --kind logistic or auto"
            )
        target = Target("regression", "number")
    else:
        if file.target.kind == "number" and not file.target.whole:
            raise _wrong_target(
                options, "its values are not whole numbers, so they are not classes; choose --kind linear or auto"
            )
        target = Target("classification", "text" if file.target.kind == "text" else "integer")
    parameters = {"task": task} if options.kind in ("auto", "forest", "boosting") else {}
    name = "".join(c if c.isalnum() else "-" for c in options.stream.stem).strip("-") or "file"
    name = name.encode("ascii", "ignore").decode()[:64] or "file"
    stream = Stream(name, f"{options.stream}: {file.count} rows, {len(file.columns)} columns", file.rows, file.count)
    say(f"{name}: {file.count} rows, {len(file.columns)} features; {options.target!r} is taken for {task}")
    registration = Registration(name, kind=options.kind, parameters=parameters, schema=file.schema, target=target)
    # Of a short file most should be left to play once there is a first version.
    return [stream], Play([registration], port=options.port, min_samples=max(20, min(100, file.count // 5)))


def _wrong_target(options: Options, why: str) -> EverloopError:
    from everloop.core.errors import InvalidInput

    return InvalidInput(
        f"{options.stream}: the column {options.target!r} does not suit --kind {options.kind}: {why}", field="target"
    )


def _warm(streams: list[Stream]) -> None:
    """Import what the streams come from while the server starts, so that all of them begin at once."""
    for stream in streams:
        # What is wrong with a stream is told by whoever plays it.
        with contextlib.suppress(Exception):
            next(stream.play())


def _perform(
    options: Options, play: Play, streams: list[Stream], *, score: Score, url: str, process: subprocess.Popen[bytes]
) -> None:
    stop = threading.Event()
    live = sys.stdout.isatty() and not options.json
    board: Board = LiveBoard(score, url) if live else PlainBoard(score, url, to_stderr=options.json)
    feeders = [_feeder(options, play, stream, url=url, score=score, stop=stop) for stream in streams]
    listener = Listener(url, score, stop, board.event)
    try:
        with Client(url) as client, board:
            listener.start()
            for feeder in feeders:
                feeder.start()
            began = time.monotonic()
            settled: float | None = None
            for turn in itertools.count():
                now = time.monotonic()
                if process.poll() is not None:
                    score.trouble = "the server ended by itself"
                    return
                score.mark(now)
                if turn % LOOK_EVERY == 0 or settled is not None:
                    look(client, score)
                board.refresh(now - began)
                if options.seconds is not None and now - began >= options.seconds:
                    return
                if not any(feeder.is_alive() for feeder in feeders):
                    settled = settled or now + SETTLE_SECONDS
                    if now >= settled or not any(_busy(score)):
                        return
                time.sleep(REFRESH_SECONDS)
    except (EverloopError, ConnectionError) as error:
        score.trouble = str(error)
    finally:
        stop.set()
        for feeder in feeders:
            if feeder.ident is not None:
                feeder.join(timeout=5.0)
        if listener.ident is not None:
            if not score.trouble:
                _catch_up(url, score)
            listener.close()


def _catch_up(url: str, score: Score) -> None:
    """The summary shows the versions that serve at the end, and the swaps to them are counted."""
    until = time.monotonic() + CATCH_UP_SECONDS
    try:
        with Client(url) as client:
            look(client, score)
            while not score.heard_all_swaps() and time.monotonic() < until:
                time.sleep(0.05)
                look(client, score)
    except (EverloopError, ConnectionError) as error:
        score.trouble = str(error)


def _busy(score: Score) -> Iterator[bool]:
    with score.lock:
        for model in score.models.values():
            yield bool(model.learner.get("backlog") or model.learner.get("is_training"))


def _feeder(options: Options, play: Play, stream: Stream, *, url: str, score: Score, stop: threading.Event) -> Feeder:
    most = None
    rate = options.rate or (RATE if options.stream is None else FILE_RATE)
    if options.once:
        most = min(stream.length or ONCE_EXAMPLES, options.examples or ONCE_EXAMPLES)
        rate = options.rate or max(rate, most / ONCE_SECONDS)
    # A file is played once; the streams of the open-ended demo go on for as long as somebody watches.
    again = options.stream is None and not options.once
    hold_at = play.min_samples + options.delay + 1
    return Feeder(stream, url, score, stop, rate=rate, delay=options.delay, most=most, again=again, hold_at=hold_at)


@contextlib.contextmanager
def _server(play: Play, log: IO[bytes]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The server as a child of its own session: Ctrl-C in the terminal is for us, who then ask it to drain."""
    import msgspec

    command = [sys.executable, "-P", "-m", "everloop.app.demo.host", msgspec.json.encode(play).decode()]
    process = subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    try:
        yield _address(process, log), process
    finally:
        _end(process)


def _address(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Waits for the child to serve. Raises StoreUnavailable with what it said last."""
    lines: list[bytes] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), name="demo-address", daemon=True)  # type: ignore[union-attr]
    reader.start()
    reader.join(START_SECONDS)
    if lines and lines[0].strip():
        url: str = json.loads(lines[0])["url"]
        return url
    if process.poll() is None and not lines:
        raise StoreUnavailable(f"the demo's server was not ready within {START_SECONDS:.0f} s")
    process.wait(STOP_SECONDS)
    said = _tail(log)
    raise StoreUnavailable(f"the demo's server did not start: {said[-1] if said else 'it said nothing'}")


def _tail(log: IO[bytes], lines: int = 8) -> list[str]:
    log.seek(0)
    return log.read().decode(errors="replace").strip().splitlines()[-lines:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Closing its stdin asks the server to drain; what does not heed is terminated, then killed."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    for harder in (process.terminate, process.kill):
        try:
            process.wait(STOP_SECONDS)
            break
        except subprocess.TimeoutExpired:
            harder()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo the way Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
