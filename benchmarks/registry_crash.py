"""Kill a process that changes a model, again and again, and look whether what is left is whole.

    python benchmarks/registry_crash.py [--rounds 100] [--seed 0] [--folder DIR] [--database URL]

Each round a child opens the same stores and makes one random change after the other: publishes, promotes, goes back, splits the
traffic, starts rollouts and moves them on, archives, names, tags, collects garbage. After each it says so, down a pipe. The parent
kills it with SIGKILL at a random instant and opens the stores itself. It has made the same changes in memory, so it knows the one
state before the change that was being made and the one after it, timeline included: what it finds must be exactly one of the two.
Besides, what the events tell must lead to the version that is live, and the artifact of every version must have its digest.
Exit code 1 if anything was in between.
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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from everloop.core.clock import SystemClock
from everloop.core.errors import EverloopError
from everloop.core.events import Event, EventBus
from everloop.core.schema import Schema, Target
from everloop.registry.catalog import Registry
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import FolderArtifacts, MemoryArtifacts
from everloop.stores.ports import ArtifactStore, Catalog, Journal, Manifest
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock

NAME = "fraud"
MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))
BEGINNING = 1_000_000.0
"""Step n happens at this time plus n, in the child as in memory: so that even the times must agree."""
CANARY = plan_of("canary", steps="5,25,50")
ROLLOUTS = (CANARY, plan_of("ab", share=0.5), plan_of("shadow"), plan_of("blue_green"), plan_of("immediate"))


class Room:
    """A registry over some stores, and all that can happen to a model in it."""

    def __init__(self, catalog: Catalog, artifacts: ArtifactStore, journal: Journal, step: int) -> None:
        self.catalog, self.artifacts, self.journal = catalog, artifacts, journal
        self.clock = ManualClock(BEGINNING + step)
        self.registry = Registry(catalog, artifacts, journal, EventBus(), self.clock, Trust())
        self.rollouts = Rollouts(self.registry)

    def change(self, step: int) -> str:
        """Make the `step`-th change; the same one wherever the state is the same. What it was, and whether it was refused."""
        self.clock.advance(BEGINNING + step - self.clock.now())
        rng = random.Random(step)
        if step == 0:
            self.registry.register(NAME, "linear", task="regression")
            return "register"
        what = rng.choice(list(_CHANGES)) if step > 3 else "publish"
        numbers = [version.version for version in self.registry.versions(NAME)]
        try:
            _CHANGES[what](self, rng, rng.choice(numbers) if numbers else 1, step)
        except EverloopError as error:
            return f"{what}: {error.code}"
        return what

    def state(self) -> dict[str, Any]:
        """All of it, as it comes out of the stores."""
        events = self.registry.timeline(NAME, limit=1_000_000) if NAME in self.registry.names() else []
        if not events:
            return {"models": [], "timeline": []}
        with self.catalog.look(NAME) as shelf:
            found = {
                "models": self.catalog.list_models(),
                "history": shelf.history,
                "versions": shelf.versions(),
                "rollouts": shelf.rollouts(),
                "timeline": [msgspec.structs.replace(event, id=0) for event in events],
            }
        built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
        return built

    def faults(self) -> list[str]:
        """What does not belong together, whatever was to be done."""
        if NAME not in self.registry.names():
            return []
        model, versions = self.registry.get(NAME), self.registry.versions(NAME)
        faults = []
        told = told_live(self.registry.timeline(NAME, limit=1_000_000))
        if told != model.live_version:
            faults.append(f"version {model.live_version} is live, {told} by the timeline")
        live = [version.version for version in versions if version.status == "live"]
        if live != ([] if model.live_version is None else [model.live_version]):
            faults.append(f"version {model.live_version} is live, {live} by their status")
        for version in versions:
            try:
                if not version.collected:
                    self.registry.payload(version)
            except EverloopError as error:
                faults.append(str(error))
        return faults


def _publish(room: Room, rng: random.Random, number: int, step: int) -> None:
    room.registry.add_version(NAME, MANIFEST, rng.randbytes(20_000), live=rng.random() < 0.3, note=f"step {step}")


def _start(room: Room, rng: random.Random, number: int, step: int) -> None:
    room.rollouts.start(NAME, number, rng.choice(ROLLOUTS), by="benchmark")


def _split(room: Room, rng: random.Random, number: int, step: int) -> None:
    live = room.registry.get(NAME).live_version or number
    weights = {live: 0.9, number: 0.1} if live != number else {number: 1.0}
    room.registry.set_traffic(NAME, weights)


_CHANGES: dict[str, Callable[[Room, random.Random, int, int], object]] = {
    "publish": _publish,
    "publish again": _publish,
    "promote": lambda room, _, number, __: room.registry.promote(NAME, number),
    "roll back": lambda room, *_: room.registry.rollback(NAME),
    "split": _split,
    "archive": lambda room, _, number, __: room.registry.archive(NAME, number),
    "start": _start,
    "start again": _start,
    "advance": lambda room, *_: room.rollouts.advance(NAME),
    "advance again": lambda room, *_: room.rollouts.advance(NAME),
    "pause": lambda room, *_: room.rollouts.pause(NAME),
    "resume": lambda room, *_: room.rollouts.resume(NAME),
    "promote rollout": lambda room, *_: room.rollouts.promote(NAME),
    "finish rollout": lambda room, *_: room.rollouts.finish(NAME),
    "alias": lambda room, _, number, __: room.registry.set_alias(NAME, "best", number),
    "tag": lambda room, _, number, step: room.registry.tag(NAME, number, {"step": str(step)}),
    "collect": lambda room, *_: room.registry.collect_garbage(archived=True, keep=1),
}


def told_live(events: list[Event]) -> int | None:
    """Which version is live, by the events alone."""
    live: int | None = None
    for event in events:
        if event.kind in {"promoted", "rolled_back"} or (event.kind == "published" and event.data["live"]):
            live = event.version
        elif event.kind == "traffic":
            live = event.data["live"]
    return live


@contextmanager
def opened(folder: Path, database: str, step: int) -> Iterator[Room]:
    """The stores that are killed over: one file and a folder, or a database."""
    if database:
        from everloop.stores.postgres import PostgresArtifacts, PostgresCatalog, PostgresJournal

        journal: Journal = PostgresJournal(database, clock=SystemClock())
        catalog: Catalog = PostgresCatalog(database)
        artifacts: ArtifactStore = PostgresArtifacts(database)
    else:
        journal = SqliteJournal(folder / "everloop.db", clock=SystemClock())
        catalog = SqliteCatalog(folder / "everloop.db")
        artifacts = FolderArtifacts(folder / "artifacts")
    try:
        yield Room(catalog, artifacts, journal, step)
    finally:
        catalog.close()
        journal.close()


def child(folder: Path, database: str, step: int) -> None:
    """Change for ever. A line on stdout is the number of a step that is done."""
    with opened(folder, database, step) as room:
        room.state()  # all is loaded and connected: what follows is changes only
        os.write(1, b"\n")
        while True:
            room.change(step)
            os.write(1, b"%d\n" % step)
            step += 1


def crash_rounds(
    folder: Path, rounds: int, rng: random.Random, *, longest: float = 0.3, database: str = ""
) -> dict[str, Any]:
    """Run the rounds: how many, the changes that were made, how often a kill fell before or after the change that was being made,
    and what was found to be in between (nothing)."""
    clock = SystemClock()
    mirror_journal = MemoryJournal(clock=clock, max_events=10_000_000)
    mirror = Room(MemoryCatalog(mirror_journal), MemoryArtifacts(), mirror_journal, 0)
    step = before = after = 0
    changes: Counter[str] = Counter()
    faults: list[str] = []

    def mirrored(made: int) -> str:
        what = mirror.change(made)
        changes["refused" if ":" in what else what] += 1
        return what

    for round_ in range(rounds):
        done = _killed(folder, database, step, rng.uniform(0, longest))
        for made in range(step, done + 1):
            mirrored(made)
        step = done + 1
        if database:
            _settled(database)
        with opened(folder, database, step) as room:
            found, wanted = room.state(), mirror.state()
            if found == wanted:
                before += 1
            else:  # what was being made is done, or else it is half done
                what = mirrored(step)
                step += 1
                after += 1
                if found != mirror.state():
                    faults.append(f"round {round_}, step {step - 1} ({what}): neither the state before nor after")
            faults += [f"round {round_}: {fault}" for fault in room.faults()]
        if faults:
            break
    mirror.catalog.close()
    mirror_journal.close()
    return {
        "rounds": rounds,
        "changes": changes.total() - changes["refused"],
        "kinds": dict(changes.most_common()),
        "before": before,
        "after": after,
        "faults": faults,
    }


def _settled(database: str) -> None:
    """Wait until the server has finished what the killed client had sent: a commit that was on its way is done a moment later."""
    from everloop.stores.postgres import Database

    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'everloop' "
        "AND pid <> pg_backend_pid()"
    )
    with closing(Database(database).connect(autocommit=True)) as connection:
        while connection.execute(others).fetchone() != (0,):
            threading.Event().wait(0.01)


def _killed(folder: Path, database: str, step: int, seconds: float) -> int:
    """Let a child work for so long and kill it; the last step that it said was done."""
    command = [
        sys.executable,
        __file__,
        "--child",
        "--folder",
        str(folder),
        "--database",
        database,
        "--step",
        str(step),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        head = os.read(process.stdout.fileno(), 1)  # the stores are open
        threading.Event().wait(seconds)
        process.send_signal(signal.SIGKILL)
        text = (head + process.stdout.read()).decode()
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"the child ended by itself with exit code {process.returncode}")
    done = [int(line) for line in text.splitlines(keepends=True) if line.strip() and line.endswith("\n")]
    return done[-1] if done else step - 1


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """For `benchmarks/run.py`."""
    rounds = 10 if quick else 100
    with tempfile.TemporaryDirectory(prefix="everloop-crash-") as temporary:
        counts = crash_rounds(Path(temporary), rounds, random.Random(7))
    what = f"kill -9, {rounds} times, at random instants of promotions, rollbacks, rollouts and other changes: states in between"
    row = {
        "what": what,
        "bar": "0",
        "measured": str(len(counts["faults"])),
        "pass": not counts["faults"] and counts["changes"] > rounds,
        "detail": _in_words(counts),
    }
    return [row]


def _in_words(counts: dict[str, Any]) -> str:
    return (
        f"{counts['changes']:,} changes and {counts['kinds'].get('refused', 0):,} refused ones; {counts['before']} kills found the state before the change that was being made, "
        f"{counts['after']} the one after it"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the data goes; a temporary folder by default")
    parser.add_argument(
        "--database", default="", help="an empty PostgreSQL database, by its URL, instead of the folder"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.folder, arguments.database, arguments.step)
        return 0
    with tempfile.TemporaryDirectory(prefix="everloop-crash-") as temporary:
        folder = arguments.folder or Path(temporary)
        counts = crash_rounds(folder, arguments.rounds, random.Random(arguments.seed), database=arguments.database)
    print(_in_words(counts))
    print(", ".join(f"{kind} {number}" for kind, number in counts["kinds"].items()))
    for fault in counts["faults"]:
        print(fault)
    return 1 if counts["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
