"""Kill a process that writes labels, again and again, and count what was acknowledged and is not there, or there twice.

    python benchmarks/journal_crash.py [--rounds 50] [--seed 0] [--folder DIR | --database URL]

Each round a child opens the same file (or PostgreSQL database, which must be empty) and appends labels from several threads: by request id, with their own
features, with idempotency keys, in batches, and retrying some of what was acknowledged already. Each acknowledgement goes down a
pipe before anything else happens. The parent kills the child with SIGKILL at a random instant, opens it itself and looks
for every acknowledged label of all rounds so far: exactly one example must carry it, under the id that was promised.
Exit code 1 if one is lost or there twice.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from everloop.core.clock import SystemClock
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.stores.postgres import PostgresJournal
from everloop.stores.sqlite import SqliteJournal

THREADS = 6
BATCH = 8


def opened(place: str) -> SqliteJournal | PostgresJournal:
    """`place`: the path of a file, or a URL."""
    if place.startswith("postgres"):
        return PostgresJournal(place, clock=SystemClock())
    return SqliteJournal(Path(place), clock=SystemClock())


def child(place: str, round_: int) -> None:
    """Append for ever. A line on stdout is `serial example-id`, written only after the acknowledgement."""
    journal = opened(place)
    for thread in range(THREADS):
        threading.Thread(target=_submit, args=(journal, round_, thread), daemon=True).start()
    threading.Event().wait()


def _submit(journal: SqliteJournal | PostgresJournal, round_: int, thread: int) -> None:
    rng = random.Random(round_ * 1000 + thread)
    lane = f"{round_:x}x{thread:x}"
    acknowledged: list[tuple[list[Label], str, list[int]]] = []
    step = 0
    while True:
        base = (round_ * THREADS + thread) * 10_000_000 + step * BATCH
        labels: list[Label] = []
        if step % 3 == 0:  # by request id, the prediction recorded just before
            first = step * BATCH
            rows = np.array([[float(base + i), 1.0] for i in range(BATCH)], "<f4" if base < 2**23 else "<f8")
            encoding = "f4" if base < 2**23 else "f8"
            journal.record(
                PredictionRecord("m", 1, lane, first, BATCH, 1, time.time(), encoding, rows.tobytes(), [0.0] * BATCH)
            )
            labels += [
                Label("m", float(base + i), time.time(), request_id=request_id(lane, first + i)) for i in range(BATCH)
            ]
            if step % 2:
                labels = labels[:1]
        else:
            labels += [Label("m", float(base), time.time(), row=[float(base), 1.0])]
        # A label with its own features can only be retried safely under a key.
        key = f"{lane}-{step}" if step % 3 == 1 else ""
        appended = journal.append_now(labels, idempotency_key=key, body="same")
        ids = [outcome for outcome in appended.outcomes if isinstance(outcome, int)]
        assert len(ids) == len(labels), appended
        lines = "".join(f"{int(label.label)} {id_}\n" for label, id_ in zip(labels, ids, strict=True))
        os.write(1, lines.encode())  # one write, below the size that a pipe keeps whole
        if step % 3 < 2:
            acknowledged.append((labels, key, ids))
        if acknowledged and rng.random() < 0.3:  # a client that did not hear the answer
            again, key, first_ids = rng.choice(acknowledged)
            outcome = journal.append_now(again, idempotency_key=key, body="same")
            assert outcome.duplicate, outcome
            assert outcome.outcomes == first_ids, outcome
        step += 1


def crash_rounds(
    folder: Path, rounds: int, rng: random.Random, *, longest: float = 0.5, database: str = ""
) -> dict[str, int]:
    """Run the rounds; `rounds, acknowledged, lost, duplicated`."""
    place = database or str(folder / "everloop.db")
    promised: dict[int, int] = {}
    lost: set[int] = set()
    duplicated: set[int] = set()
    for round_ in range(rounds):
        command = [sys.executable, __file__, "--child", place, "--round", str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            head = os.read(process.stdout.fileno(), 1)  # it is writing
            threading.Event().wait(rng.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
            text = (head + process.stdout.read()).decode()
            if process.wait() != -signal.SIGKILL:
                raise RuntimeError(f"the child ended by itself with exit code {process.returncode}")
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):  # the last write may have been cut
                serial, id_ = map(int, line.split())
                promised[serial] = id_
        found, ids, mixed = _contents(place)
        lost |= {serial for serial, id_ in promised.items() if ids.get(serial) != id_}
        duplicated |= {serial for serial, n in found.items() if n > 1} | mixed
    return {"rounds": rounds, "acknowledged": len(promised), "lost": len(lost), "duplicated": len(duplicated)}


def _contents(place: str) -> tuple[Counter[int], dict[int, int], set[int]]:
    """How often each label is there, under which id, and which were joined with another's features."""
    journal = opened(place)
    found: Counter[int] = Counter()
    ids: dict[int, int] = {}
    mixed: set[int] = set()
    after = 0
    while examples := journal.examples("m", after=after, limit=10_000):
        for example in examples:
            serial = int(example.label)
            found[serial] += 1
            ids[serial] = example.id
            if example.row != [float(serial), 1.0]:
                mixed.add(serial)
        after = examples[-1].id
    counted = journal.examples_total("m")
    journal.close()
    assert counted == found.total(), f"{counted} counted, {found.total()} there"
    return found, ids, mixed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the database goes; a temporary folder by default")
    parser.add_argument("--database", default="", help="the URL of an empty PostgreSQL database, instead of a file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child, arguments.round)
        return 0
    with tempfile.TemporaryDirectory(prefix="everloop-crash-") as temporary:
        counts = crash_rounds(
            arguments.folder or Path(temporary),
            arguments.rounds,
            random.Random(arguments.seed),
            database=arguments.database,
        )
    print(", ".join(f"{name} {number}" for name, number in counts.items()))
    return 1 if counts["lost"] or counts["duplicated"] else 0


if __name__ == "__main__":
    sys.exit(main())
