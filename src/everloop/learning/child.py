"""What a fitting process does with a job: unpickle, fit, answer in words and numbers.

The answer is msgpack, never a pickle: the parent must not run what an estimator could have written.
"""

from __future__ import annotations

import msgspec


class Reply(msgspec.Struct):
    result: bytes | None = None
    """msgpack of a `FitResult`; None where the fit failed."""
    error: str = ""
    unreadable: bool = False
    """The job could not be unpickled here: its classes are from a module that only the parent can import."""


def fit_pickled(job: bytes) -> bytes:
    """cloudpickle of a `FitJob` -> msgpack of a `Reply`."""
    return msgspec.msgpack.encode(_answer(job))


def _answer(job: bytes) -> Reply:
    import cloudpickle

    from everloop.core.errors import explain
    from everloop.learning.challenge import run_fit, with_state

    try:
        read = cloudpickle.loads(job)
    except Exception as error:
        return Reply(error=explain(error), unreadable=True)
    try:
        return Reply(result=msgspec.msgpack.encode(with_state(*run_fit(read))))
    except (Exception, SystemExit) as error:
        return Reply(error=explain(error))
