"""Models that misbehave on some rows, for processes that can import them: a row whose first value is negative sets them off."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
from typing import Any

import numpy as np

BALLAST: list[Any] = []


class Odd:
    """Answers twice the first value; where that is negative, does what `how` says."""

    def __init__(self, how: str = "") -> None:
        self.how = how

    def predict(self, X: Any) -> Any:
        answers = 2.0 * X[:, 0]
        bad = X[:, 0] < 0
        return getattr(self, self.how)(answers, bad) if bad.any() else answers

    def raises(self, answers: Any, bad: Any) -> Any:
        raise ValueError("no negative numbers")

    def exits(self, answers: Any, bad: Any) -> Any:
        sys.exit("enough")

    def nan(self, answers: Any, bad: Any) -> Any:
        return np.where(bad, np.nan, answers)

    def two_columns(self, answers: Any, bad: Any) -> Any:
        return np.stack([answers, answers], axis=1)

    def dies(self, answers: Any, bad: Any) -> Any:
        os._exit(3)

    def closes_its_pipes(self, answers: Any, bad: Any) -> Any:
        os.closerange(3, 1000)
        threading.Event().wait()

    def writes_garbage(self, answers: Any, bad: Any) -> Any:
        """Into every pipe that it finds, that to the server among them."""
        for descriptor in range(3, 100):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"\xff" * 4096)
        threading.Event().wait()

    def segfault(self, answers: Any, bad: Any) -> Any:
        return ctypes.string_at(0)

    def sleeps(self, answers: Any, bad: Any) -> Any:
        threading.Event().wait()

    def spins_with_the_gil(self, answers: Any, bad: Any) -> Any:
        """No thread of its process runs any more: the regular expression engine never gives the GIL back."""
        return re.match(r"(a|a)*b", "a" * 60)

    def ignores_signals(self, answers: Any, bad: Any) -> Any:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        threading.Event().wait()

    def takes_all_memory(self, answers: Any, bad: Any) -> Any:
        BALLAST.append(np.ones(1 << 30))
        return answers

    def prints(self, answers: Any, bad: Any) -> Any:
        for _ in range(1000):
            os.write(1, b"x" * 4096)
            os.write(2, b"x" * 4096)
        return answers

    def objects(self, answers: Any, bad: Any) -> Any:
        return np.array([object() for _ in answers], object)

    def long_texts(self, answers: Any, bad: Any) -> Any:
        return np.array(["x" * (9 << 20) for _ in answers], object)


class Broken:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise RuntimeError("the cupboard is bare")
