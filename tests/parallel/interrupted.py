"""A program that is killed in the middle: squares numbers into a checkpoint, and says which ones it began.

python interrupted.py CHECKPOINT LOG COUNT [die at]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from everloop.parallel.engine import Run
from everloop.parallel.executors.serial import SerialExecutor
from everloop.parallel.options import RunOptions
from everloop.parallel.plan import Plan


def main(checkpoint: str, log: str, count: int, die_at: int) -> None:
    deaths = [die_at]  # a list: a number bound to `square` would make it another function
    with Path(log).open("a") as began:

        def square(item: int) -> int:
            if item in deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            began.write(f"{item}\n")
            began.flush()
            return item * item

        run = Run(
            square,
            iter(range(count)),
            Plan("serial", 1, 3, buffer_size=50),
            RunOptions(checkpoint=checkpoint),
            open_executor=lambda plan: SerialExecutor(square),
        )
        for value in run:
            sys.stdout.write(f"{value}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else -1)
