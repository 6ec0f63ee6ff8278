"""A block that ends whatever process scores it: which of its rows does that?

It is halved, and each half is scored in a worker process of its own, never in this one; a half that ends that process, too, is halved
again, until the row is alone. That row is a bad row like any other, and the rest of the block is scored. A half needs to end one process
only: what is innocent comes out scored sooner or later, in smaller pieces. A row alone gets as many tries as any item of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from everloop.app.scoring.rows import Block, Scored
from everloop.app.scoring.scorer import Scorer
from everloop.core.errors import WorkerDied
from everloop.parallel.options import RunOptions
from everloop.parallel.pool import PoolManager
from everloop.parallel.work import ItemFailure


def score_piecemeal(
    block: Block, died: WorkerDied, *, scorer: Scorer, work: Callable[[Block], Scored], pool: PoolManager
) -> Scored:
    """What becomes of a block whose workers `died`. Raises whatever else goes wrong with a piece of it."""
    return _joined(_pieces(block, died, scorer, work, pool), first_only=scorer.on_error == "fail")


def _pieces(
    block: Block, died: WorkerDied, scorer: Scorer, work: Callable[[Block], Scored], pool: PoolManager
) -> Iterator[Scored]:
    """In order, each when it is asked for."""
    halves = scorer.decoder.halves(block)
    if not halves:
        yield scorer.refuse(block, f"it ended the worker process that scored it ({died.how})")
    for half in halves:
        outcome = _in_a_process(half, work, pool, alone=not scorer.decoder.halves(half))
        if isinstance(outcome, WorkerDied):
            yield from _pieces(half, outcome, scorer, work, pool)
        else:
            yield outcome


def _in_a_process(
    block: Block, work: Callable[[Block], Scored], pool: PoolManager, *, alone: bool
) -> Scored | WorkerDied:
    from everloop.parallel import execute

    (outcome,) = execute(
        work,
        [block],
        executor="process",
        n_jobs=1,
        chunksize=1,
        pool_manager=pool,
        on_error="return",
        max_deaths=RunOptions.max_deaths if alone else 1,
        progress=False,
        label="score",
    )
    if not isinstance(outcome, ItemFailure):
        scored: Scored = outcome
        return scored
    if isinstance(outcome.error, WorkerDied):
        return outcome.error
    raise outcome.error


def _joined(pieces: Iterable[Scored], *, first_only: bool) -> Scored:
    """With `first_only` what comes behind the first bad row does not matter, and is not scored."""
    found: list[Scored] = []
    for piece in pieces:
        found.append(piece)
        if first_only and piece.errors:
            break
    return Scored(
        payload=b"".join(piece.payload for piece in found),
        dead_letters=b"".join(piece.dead_letters for piece in found),
        rows=sum(piece.rows for piece in found),
        written=sum(piece.written for piece in found),
        errors=sum(piece.errors for piece in found),
        first_error=next((piece.first_error for piece in found if piece.first_error is not None), None),
        seconds=sum(piece.seconds for piece in found),
    )
