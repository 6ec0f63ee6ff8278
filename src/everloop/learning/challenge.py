"""What one fit does, wherever it runs: try windows, judge the best of them against the champion, freeze the winner.

    window    [ older ............ | ........ train ........ | held out ]  + validation examples of the same time
                                   '--- candidate windows ---'

1. A clone of the learner is fitted for each candidate window, without the held-out rows, and tested on those and on the
   validation examples. `policy.windows.choose` picks the challenger.
2. `policy.promotion.judge` compares it with the champion on the very same rows, which the champion has not been trained on.
3. If it may serve and a fit is cheap, it is fitted once more with the held-out rows: they are the newest examples there are,
   and after a drift a good part of all that is known. What was judged is then not quite what serves, so the refit must do at
   least about as well on those rows, which it now knows, as the judged model did unseen; if not, the judged one is kept. An
   incremental learner just learns them. The lineage says which it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from everloop.core.errors import EverloopError, FitFailed, Untrusted, explain
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar
from everloop.learning.apprentice import Apprentice
from everloop.learning.examiner import floor_of
from everloop.learning.learners.base import Learner, Losses, losses
from everloop.learning.window import Slice
from everloop.policy.promotion import Rule, Verdict, judge
from everloop.policy.windows import choose
from everloop.stores.ports import Manifest

REFIT_SECONDS = 1.0
"""A fit that took longer is not repeated for the sake of the held-out rows."""
_REFIT_TOLERANCE = 1.5
_PRIMING = 500


@dataclass
class FitJob:
    """Everything a fit needs; picklable with cloudpickle where the learner is."""

    learner: Learner
    """Unfitted; cloned for each candidate."""
    schema: Schema
    target: Target
    train: Slice
    held: Slice
    """The newest rows of the window, right behind `train`."""
    validation: Slice | None
    lengths: list[int]
    """Candidate windows in order of preference: how many of the newest rows, the held-out ones included."""
    champion: Losses | None
    """One loss for each row of `held`, then of `validation`. None: there is no champion."""
    rule: Rule = "better"
    threshold: float = 0.05
    recovering: bool = False
    force: bool = False
    """Freeze also what the judge refuses, unless it is unusable."""
    refit_seconds: float = REFIT_SECONDS


class FitResult(msgspec.Struct):
    """What came out. `manifest` and `payload` are there if the challenger is to be published."""

    promote: bool
    reason: str
    n: int
    """Rows it was judged on."""
    champion: float | None
    challenger: float | None
    difference: float | None
    interval: tuple[float | None, float | None] | None
    first_id: int
    last_id: int
    count: int
    """Rows that it was trained on: how many, and the ids of the first and the last."""
    refitted: bool
    """Whether the held-out rows were learned after the verdict."""
    fit_seconds: float
    """One fit of the challenger's window."""
    seconds: float
    tried: list[tuple[int, float | None]]
    """Each candidate window and its mean loss; None where its fit failed or it answered unusably."""
    length: int
    """The window that was chosen, held-out rows included."""
    unseen: list[float]
    """Losses of the judged challenger on held-out rows, in order: what errors to expect of it."""
    manifest: Manifest | None = None
    payload: bytes | None = None
    state: bytes | None = None
    """Incremental learners: the whole of it, where it had to cross a process."""
    where: Literal["thread", "process"] = "thread"


@dataclass
class _Candidate:
    length: int
    learner: Learner
    losses: Losses
    seconds: float
    rows: int
    failed: str = field(default="")


def run_fit(job: FitJob) -> tuple[FitResult, Learner | None]:
    """Fit, judge, freeze. Gives the result and the fitted learner itself if it is to serve or to learn on.

    Raises FitFailed if no candidate could be fitted."""
    started = time.perf_counter()
    judged_rows, judged_labels = _judged(job)
    candidates: dict[int, _Candidate] = {}
    tried: list[tuple[int, float | None]] = []
    problem: Exception | None = None
    for length in job.lengths:
        rows = max(0, min(length - len(job.held), len(job.train)))
        try:
            candidate = _fitted(job, length, rows, judged_rows, judged_labels)
        except Exception as error:
            problem = problem or error
            tried.append((length, None))
            continue
        candidates[length] = candidate
        tried.append((length, _mean(candidate.losses)))
    if not candidates:
        assert problem is not None
        raise problem if isinstance(problem, EverloopError) else FitFailed(explain(problem)) from problem
    best = candidates[choose({length: c.losses for length, c in candidates.items()})]
    verdict = judge(
        job.champion,
        best.losses,
        rule=job.rule,
        threshold=job.threshold,
        task=job.target.task,
        baseline=_constant(job, judged_labels) if job.champion is None else None,
        recovering=job.recovering,
        floor=floor_of(job.target, job.train),
    )
    usable = bool(np.isfinite(best.losses).all())
    publish = usable and (verdict.promote or job.force)
    # An incremental learner goes on learning whatever the verdict says of it today.
    keep = publish or (usable and best.learner.incremental)
    learner, refitted = _with_held_rows(job, best) if keep else (best.learner, False)
    manifest, payload = learner.freeze() if publish else (None, None)
    trained = job.train.ids[len(job.train) - best.rows :]
    result = FitResult(
        promote=verdict.promote,
        reason=verdict.reason,
        n=verdict.n,
        champion=verdict.champion,
        challenger=verdict.challenger,
        difference=verdict.difference,
        interval=_finite(verdict),
        first_id=int(trained[0]) if len(trained) else 0,
        last_id=int(job.held.ids[-1] if refitted else trained[-1]) if len(trained) else 0,
        count=best.rows + (len(job.held) if refitted else 0),
        refitted=refitted,
        fit_seconds=best.seconds,
        seconds=time.perf_counter() - started,
        tried=tried,
        length=best.length,
        unseen=best.losses[: len(job.held)][-_PRIMING:].tolist() if usable else [],
        manifest=manifest,
        payload=payload,
    )
    return result, learner if keep else None


def judge_snapshot(
    apprentice: Apprentice,
    window: Slice,
    *,
    since: int,
    champion: bool,
    target: Target,
    rule: Rule,
    threshold: float,
    recovering: bool,
    force: bool,
) -> FitResult:
    """Judge what an incremental learner is now by its test-then-train losses beside the champion's, from the example
    `since` on, and freeze it if it may serve."""
    started = time.perf_counter()
    theirs, own = apprentice.duel(since)
    verdict = judge(
        theirs if champion else None,
        own,
        rule=rule,
        threshold=threshold,
        task=target.task,
        recovering=recovering,
        floor=floor_of(target, window.part(max(0, len(window) - _PRIMING), len(window))),
    )
    publish = verdict.promote or force
    manifest, payload = apprentice.learner.freeze() if publish else (None, None)
    return FitResult(
        promote=verdict.promote,
        reason=verdict.reason,
        n=verdict.n,
        champion=verdict.champion,
        challenger=verdict.challenger,
        difference=verdict.difference,
        interval=_finite(verdict),
        first_id=int(window.ids[0]) if len(window) else 0,
        last_id=apprentice.last_id,
        count=len(window),
        refitted=False,
        fit_seconds=0.0,
        seconds=time.perf_counter() - started,
        tried=[],
        length=len(window),
        unseen=own[-_PRIMING:].tolist() if np.isfinite(own).all() else [],
        manifest=manifest,
        payload=payload,
    )


def with_state(result: FitResult, learner: Learner | None) -> FitResult:
    """For a result that has to cross a process: the learner as bytes beside it."""
    if learner is None or not learner.incremental:
        return result
    try:
        return msgspec.structs.replace(result, state=learner.dump())
    except Untrusted as error:
        raise FitFailed(
            f"the learner was fitted in a child process and cannot come back without trust: {error.message}"
        ) from error


def _fitted(job: FitJob, length: int, rows: int, judged: Sequence[Row], labels: list[Scalar]) -> _Candidate:
    part = job.train.part(len(job.train) - rows, len(job.train))
    learner = job.learner.clone()
    started = time.perf_counter()
    learner.fit(job.schema, job.target, part.rows, part.labels)
    seconds = time.perf_counter() - started
    unseen = losses(job.target, labels, learner.predict(judged)) if len(judged) else np.zeros(0)
    return _Candidate(length, learner, unseen, seconds, rows)


def _with_held_rows(job: FitJob, best: _Candidate) -> tuple[Learner, bool]:
    if not len(job.held):
        return best.learner, False
    if best.learner.incremental:
        best.learner.learn(job.held.rows, job.held.labels)
        return best.learner, True
    if best.seconds > job.refit_seconds:
        return best.learner, False
    part = job.train.part(len(job.train) - best.rows, len(job.train)).joined(job.held)
    again = job.learner.clone()
    try:
        again.fit(job.schema, job.target, part.rows, part.labels)
        seen = losses(job.target, job.held.labels, again.predict(job.held.rows))
    except EverloopError:
        return best.learner, False  # the judged model is good, and there
    unseen = best.losses[: len(job.held)]
    if not np.isfinite(seen).all() or seen.mean() > _REFIT_TOLERANCE * unseen.mean() + 1e-9:
        return best.learner, False
    return again, True


def _judged(job: FitJob) -> tuple[Sequence[Row], list[Scalar]]:
    if job.validation is None or not len(job.validation):
        return job.held.rows, job.held.labels
    both = job.held.joined(job.validation)
    return both.rows, both.labels


def _constant(job: FitJob, labels: list[Scalar]) -> Losses | None:
    """What always answering the mean, or the commonest class, of the training rows loses."""
    if not len(job.train) or not labels:
        return None
    answer: Any
    if job.target.task == "regression":
        answer = float(np.mean(np.asarray(job.train.labels, np.float64)))
    else:
        counts: dict[Scalar, int] = {}
        for label in job.train.labels:
            counts[label] = counts.get(label, 0) + 1
        answer = max(counts, key=lambda label: counts[label])
    return losses(job.target, labels, [answer] * len(labels))


def _mean(values: Losses) -> float | None:
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None


def _finite(verdict: Verdict) -> tuple[float | None, float | None] | None:
    if verdict.interval is None:
        return None
    low, high = verdict.interval
    return (low if np.isfinite(low) else None, high if np.isfinite(high) else None)
