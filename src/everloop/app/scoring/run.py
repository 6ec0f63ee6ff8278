"""The spine of a scoring run: open, check, resume, spread, append, finish."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO

from msgspec.structs import replace

from everloop.app.scoring import resume
from everloop.app.scoring.formats import Place, place
from everloop.app.scoring.job import Job, Summary
from everloop.app.scoring.models import FittedModel, FunctionModel, find_model
from everloop.app.scoring.output import FileOutput, Output, StreamOutput
from everloop.app.scoring.pace import MOST_BYTES, Pace
from everloop.app.scoring.plan import make_scorer
from everloop.app.scoring.progress import Progress
from everloop.app.scoring.rows import Block, Position, Scored
from everloop.app.scoring.scorer import Scorer
from everloop.app.scoring.source import Source, open_source
from everloop.app.scoring.spreading import Spread
from everloop.core.errors import Conflict, EverloopError, InvalidInput

Say = Callable[[str], None]


def score(job: Job, *, say: Say, progress: Progress, stdout: BinaryIO | None = None) -> Summary:
    """Raises InvalidInput (what is wrong with the input: which line and column), Conflict, CheckpointMismatch, what loading the model
    raises, and KeyboardInterrupt. Unless the input or output is a stream, the same call then goes on from where it was.

    stdout: where the rows go if the job's output is `-`."""
    began = time.monotonic()
    source_place = place(job.input, job.input_format, None, field="input")
    target = place(job.output, job.output_format, source_place.format, field="output")
    _refuse_nonsense(job, source_place, target)
    with (
        find_model(job.model, storage=job.storage, trust=job.trust, batch=job.batch) as model,
        closing(open_source(source_place, delimiter=job.delimiter, types=job.types)) as source,
    ):
        scorer = make_scorer(job, model, source, target)
        with closing(scorer):
            attempt = _Attempt(job, source, target, model, scorer, say, progress, began, stdout)
            return attempt.run()


class _Attempt:
    """One process's part of a run."""

    def __init__(  # noqa: PLR0917 - a constructor takes its collaborators
        self,
        job: Job,
        source: Source,
        target: Place,
        model: FittedModel | FunctionModel,
        scorer: Scorer,
        say: Say,
        progress: Progress,
        began: float,
        stdout: BinaryIO | None,
    ) -> None:
        self._job = job
        self._source = source
        self._target = target
        self._scorer = scorer
        self._say = say
        self._progress = progress
        self._began = began
        self._stdout = stdout
        identity = resume.identify(source.place, model.identity, options(job, source, target))
        self._resumable = identity is not None and target.path is not None
        self._state = resume.State(
            identity or resume.Identity("", 0, 0, "", model.identity, {}),
            dead_letter=None if job.dead_letter is None else str(job.dead_letter),
        )
        self._resumed = 0
        self._seconds_before = 0.0
        self._spread = Spread(job.workers, job.executor)
        self._model = model

    def run(self) -> Summary:
        job = self._job
        output: Output
        if self._target.path is None:
            output = StreamOutput(self._stdout or sys.stdout.buffer, job.dead_letter)
        else:
            output = FileOutput(self._target, job.dead_letter, force=job.force, resumable=self._resumable)
        with closing(output):
            if isinstance(output, FileOutput) and self._pick_up(output):
                return self._summary()
            try:
                with _terminated_as_interrupted():
                    self._go(output)
            except BaseException as error:
                self._keep(output, error)
                raise
            finally:
                self._progress.stop()
        return self._summary()

    def _pick_up(self, output: FileOutput) -> bool:
        """Take over what an attempt before this one has left; True if nothing is left to do."""
        if self._job.restart:
            output.discard()
        found = output.state()
        if found is None:
            output.refuse_to_overwrite()
            output.open(self._state)
            return False
        if not self._resumable:
            raise Conflict(
                f"{output.part} is half of a run from a file; say --restart to throw it away", field="output"
            )
        resume.check(found, self._state.identity, self._state.dead_letter, output.part)
        found.dead_letter = self._state.dead_letter
        self._state = found
        self._resumed, self._seconds_before = found.rows, found.seconds
        if found.phase == "finished":
            output.publish()
            self._say(f"{output.path} was complete; only its place was not taken yet")
            return True
        output.refuse_to_overwrite()
        output.open(found)
        if found.rows:
            self._say(f"goes on behind the {found.rows:,} rows that {output.part} has already (--restart begins anew)")
        return False

    def _go(self, output: Output) -> None:
        source, scorer = self._source, self._scorer
        if self._state.types is not None:
            scorer.encoder.types = self._state.types
        if self._state.line:
            source.reader.seek(Position(self._state.offset, self._state.line))
        else:
            header = scorer.encoder.header()
            output.append(header, b"")
            offset, line = source.reader.position
            self._state = replace(self._state, output_bytes=len(header), offset=offset, line=line)
        self._progress.start(self._state.rows, source.reader.fraction())
        pace = Pace(self._state.block_rows)
        for position, scored in self._scored(pace):
            pace.observe(scored.rows, scored.seconds)
            self._take(output, position, scored, pace)
            output.sync(self._state)
            self._progress.update(self._state.rows, source.reader.fraction(), self._state.errors)
        if source.reader.changed():
            self._say(
                f"warning: {source.place.name} was changed while it was read; rows that were changed are scored as they were, or as they are"
            )
        scorer.encoder.learn_types([])
        output.finish(self._state, scorer.encoder.schema())

    def _scored(self, pace: Pace) -> Iterator[tuple[Position, Scored]]:
        """Every block with the place behind it, in order: the first ones here, until it is known what a row costs, the rest spread."""
        reader, scorer = self._source.reader, self._scorer
        while not pace.settled or scorer.encoder.types is None:
            block = reader.take(pace.rows, MOST_BYTES)
            if block is None:
                return
            answered = scorer.answer(block)
            scorer.encoder.learn_types(answered.answers.values)
            yield reader.position, scorer.write(answered)
        behind: deque[Position] = deque()

        def blocks() -> Iterator[Block]:
            while (block := reader.take(pace.rows, MOST_BYTES)) is not None:
                behind.append(reader.position)
                yield block

        with closing(self._spread.run(scorer, blocks())) as results:
            for scored in results:
                yield behind.popleft(), scored

    def _take(self, output: Output, position: Position, scored: Scored, pace: Pace) -> None:
        error = scored.first_error
        if error is not None and self._job.on_error == "fail":
            where = "row" if self._source.place.format == "parquet" else "line"
            raise InvalidInput(
                f"{self._source.place.name}, {where} {error.line}, {error.text()} (--on-error skip leaves such rows out, from here on; "
                "--on-error keep --restart shows why)",
                field=error.column,
            )
        output.append(scored.payload, scored.dead_letters)
        state = self._state
        # All at once: an interrupt may come between any two instructions, and what it leaves is made durable.
        self._state = replace(
            state,
            offset=position.offset,
            line=position.line,
            rows=state.rows + scored.rows,
            written=state.written + scored.written,
            errors=state.errors + scored.errors,
            output_bytes=state.output_bytes + len(scored.payload),
            dead_letter_bytes=state.dead_letter_bytes + len(scored.dead_letters),
            block_rows=pace.rows,
            types=self._scorer.encoder.types,
            seconds=self._seconds(),
        )

    def _keep(self, output: Output, error: BaseException) -> None:
        """Make durable what is there, and say how to go on."""
        if not isinstance(output, FileOutput) or self._state.phase == "finished":
            return
        if not self._resumable or not self._state.rows:  # nothing to go on from
            output.close()
            output.discard()
            return
        rows = self._state.rows
        try:
            output.sync(self._state, force=True)
        except EverloopError:  # the disk is full: then the last sync counts
            rows = output.synced_rows
        if not isinstance(error, Conflict):
            verb = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            self._say(f"{verb}: {rows:,} rows are kept in {output.part}; the same command goes on from there")

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _summary(self) -> Summary:
        state = self._state
        return Summary(
            model=self._model.identity,
            input=self._source.place.name,
            output=self._target.name,
            rows=state.rows,
            written=state.written,
            errors=state.errors,
            resumed=self._resumed,
            seconds=time.monotonic() - self._began,
            executor=self._spread.executor,
            workers=self._spread.workers,
            dead_letter=state.dead_letter,
        )


def options(job: Job, source: Source, target: Place) -> dict[str, Any]:
    """What must be the same for a run to be gone on with. How bad rows are treated may change, as long as no column comes of it."""
    return {
        "the format of the input": source.place.format,
        "the format of the output": target.format,
        "--keep": None if job.keep is None else list(job.keep),
        "--features": list(job.features),
        "--type": sorted(f"{name}={kind}" for name, kind in job.types.items()),
        "--delimiter": job.delimiter,
        "--prediction": job.prediction,
        "--scores": job.scores,
        "--no-version": not job.version,
        "--on-error keep": job.on_error == "keep",
    }


def _refuse_nonsense(job: Job, source: Place, target: Place) -> None:
    if source.path is not None and target.path is not None and source.path.resolve() == target.path.resolve():
        raise InvalidInput(f"{target.path} is the input; choose another name for the output", field="output")
    if job.dead_letter is not None and job.on_error == "fail":
        raise InvalidInput(
            "--dead-letter needs --on-error skip or keep: a bad row now ends the run", field="dead_letter"
        )
    for other in (source.path, target.path):
        if job.dead_letter is not None and other is not None and other.resolve() == job.dead_letter.resolve():
            raise InvalidInput(f"--dead-letter: {other} is the input or the output", field="dead_letter")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: with what is done made durable."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
