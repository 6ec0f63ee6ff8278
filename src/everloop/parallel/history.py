"""Recorded runs on disk, and what they add up to in memory.

One file for each run, `ml_training_{func_hash}_{microseconds}.json` (`ml_training_streaming_…` for streams), written beside and then
linked to its name: a reader never sees half a file, and two processes that record at once never share a name. Reading is lazy and
incremental: the folder is listed only when its modification time has changed, only the files of the function in question are read, and
each file once. A file that another process adds in the very tick of the clock in which this one looked is seen at the next change.

What cannot be read is renamed to `*.corrupt` with one warning; the oldest files go when there are too many.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import threading
import warnings
from contextlib import suppress
from pathlib import Path

from everloop.core.clock import Clock, SystemClock
from everloop.parallel import fingerprint, machine
from everloop.parallel.cells import Experience
from everloop.parallel.outcomes import Outcomes
from everloop.parallel.samples import TrainingData, check, decode, encode
from everloop.parallel.validation import number

__all__ = ["History", "TrainingData", "get_history", "load_ml_training_data", "set_history_folder", "write_atomically"]

MOST_FILES = 5_000
MOST_OF_ONE = 500
"""Files of one function."""
_NAME = re.compile(r"ml_training_(streaming_)?([0-9A-Za-z]+)_(\d+)(?:\.\d+)?\.json")
_MEMORY_IS_FRESH_FOR = 5.0
_LONGEST = 1 << 16
"""Bytes; a run takes about 500."""
_TOMORROW = 86_400.0
"""Seconds from now; a run of later than that was recorded by a clock that was wrong, and counts as old."""
_temporary = itertools.count()


class History:
    """The runs that `folder` knows; shared by threads. `folder` is made when first written to."""

    def __init__(self, folder: str | Path, *, clock: Clock | None = None) -> None:
        self.folder = Path(folder)
        self.clock = clock or SystemClock()
        self.outcomes = Outcomes(self.folder / "outcomes.ndjson")
        self.lock = threading.RLock()
        """Held while experience is read, too: another thread may record."""
        self._listed_at: int | None = None
        """Modification time of the folder when it was listed, in ns."""
        self._names: set[str] = set()
        self._unread: dict[str, list[str]] = {}
        """Function hash -> names of files that are not read yet."""
        self._known: dict[str, Experience] = {}
        self._samples: dict[str, list[TrainingData]] = {}
        self._warned = False
        self._bandwidth: float | None = None
        self._memory = (-math.inf, 0)

    def experience(self, func_hash: str) -> Experience | None:
        """What is known of one function; None where it never ran. Not to be changed, and read under `lock`."""
        with self.lock:
            self._refresh()
            self._read(func_hash)
            return self._known.get(func_hash)

    def all_experience(self) -> dict[str, Experience]:
        """Of every function, by its hash. Not to be changed, and read under `lock`."""
        with self.lock:
            self._refresh()
            for func_hash in list(self._unread):
                self._read(func_hash)
            return self._known

    def load(self) -> list[TrainingData]:
        """Every run, the oldest first."""
        with self.lock:
            self.all_experience()
            return sorted(itertools.chain.from_iterable(self._samples.values()), key=lambda sample: sample.timestamp)

    def record(self, sample: TrainingData) -> Path | None:
        """Keep a run. None, with one warning, where the folder cannot be written: learning is then for this process only. Raises
        ValueError for a run that cannot have been."""
        check(sample)
        func_hash = sample.func_hash or "unknown"
        kind = "streaming_" if sample.is_streaming else ""
        with self.lock:
            self._refresh()
            self._read(func_hash)
            path = None
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self._write(f"ml_training_{kind}{func_hash}_", int(sample.timestamp * 1e6), encode(sample))
                self._names.add(path.name)
                self._listed_at = self.folder.stat().st_mtime_ns
                self._retire(func_hash)
            except OSError as error:
                self._warn(
                    f"runs cannot be recorded in {self.folder}: {error}; this process remembers them all the same"
                )
            self._take(func_hash, sample)
            return path

    def memory_bandwidth(self, *, measure: bool = True) -> float | None:
        """GB/s of copying memory here: measured once (some 30 ms, if `measure`) and kept in the folder; None where it was not measured,
        or cannot be kept."""
        if self._bandwidth is None:
            path = self.folder / f"machine_{fingerprint.get_fingerprint().key}.json"
            try:
                kept = number("memory_bandwidth_gbps", json.loads(path.read_text())["memory_bandwidth_gbps"], 0.0, 1e6)
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                if not measure:
                    return None
                kept = fingerprint.measure_memory_bandwidth()
                facts = {**fingerprint.get_fingerprint().to_dict(), "memory_bandwidth_gbps": kept}
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, json.dumps(facts).encode())
                except OSError:
                    return None
            self._bandwidth = kept
        return self._bandwidth

    def available_memory(self) -> int:
        """Bytes, as of some seconds ago: reading it takes longer than a prediction."""
        now = self.clock.monotonic()
        if now - self._memory[0] > _MEMORY_IS_FRESH_FOR:
            self._memory = (now, machine.available_memory())
        return self._memory[1]

    def _refresh(self) -> None:
        try:
            changed = os.stat(self.folder).st_mtime_ns  # noqa: PTH116 - a Path costs as much as the call
            if changed == self._listed_at:
                return
            new = [name for name in os.listdir(self.folder) if name not in self._names]  # noqa: PTH208 - the same
        except OSError:
            return  # no folder yet, or none any more: what is remembered stays
        self._listed_at = changed
        for name in new:
            match = _NAME.fullmatch(name)
            if match:
                self._names.add(name)
                self._unread.setdefault(match[2], []).append(name)

    def _read(self, func_hash: str) -> None:
        for name in sorted(self._unread.pop(func_hash, ()), key=self._age):
            sample = self._decoded(name, func_hash)
            if sample is not None:
                self._take(func_hash, sample)

    def _decoded(self, name: str, func_hash: str) -> TrainingData | None:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                return decode(file.read(_LONGEST), func_hash)
        except FileNotFoundError:
            return None  # retired by another process
        except OSError as error:
            self._warn(f"{path} cannot be read: {error}; it is left out")
        except ValueError as error:
            with suppress(OSError):
                path.rename(path.with_name(f"{name}.corrupt"))
            self._warn(f"{path} is damaged ({error}); it was set aside as {name}.corrupt")
        return None

    def _take(self, func_hash: str, sample: TrainingData) -> None:
        samples = self._samples.setdefault(func_hash, [])
        samples.append(sample)
        if len(samples) > 2 * MOST_OF_ONE:  # a process that never ends remembers what the folder does
            del samples[:-MOST_OF_ONE]
        self._known.setdefault(func_hash, Experience(func_hash)).add(sample)

    def _write(self, prefix: str, stamp: int, payload: bytes) -> Path:
        for microsecond in itertools.count(stamp):
            path = self.folder / f"{prefix}{microsecond}.json"
            if path.name in self._names:
                continue
            try:
                write_atomically(path, payload, replace=False)
            except FileExistsError:
                continue
            return path
        raise AssertionError("counting has no end")

    def _retire(self, func_hash: str) -> None:
        """The oldest tenth goes at once, so that this is rare."""
        own = [name for name in self._names if f"_{func_hash}_" in name] if len(self._names) > MOST_OF_ONE else []
        for names, most in ((own, MOST_OF_ONE), (self._names, MOST_FILES)):
            if len(names) > most:
                for name in sorted(names, key=self._age)[: len(names) - most + most // 10]:
                    (self.folder / name).unlink(missing_ok=True)
                    self._names.discard(name)
                self._listed_at = self.folder.stat().st_mtime_ns

    def _age(self, name: str) -> float:
        """Microseconds since the epoch, as the name says; 0 for the future."""
        match = _NAME.fullmatch(name)
        stamp = float(match[3][:24]) if match else 0.0
        if stamp <= 1e12:
            stamp *= 1e6  # files of older versions are named by the second
        return stamp if stamp <= (self.clock.now() + _TOMORROW) * 1e6 else 0.0

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def write_atomically(path: Path, payload: bytes, *, replace: bool = True) -> None:
    """All of it or nothing. Without `replace`, raises FileExistsError where there is such a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{next(_temporary)}")
    try:
        beside.write_bytes(payload)
        if replace:
            beside.replace(path)
            return
        try:
            path.hardlink_to(beside)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: as good as it gets there
            if path.exists():
                raise FileExistsError(path) from None
            beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def load_ml_training_data(folder: str | Path | None = None) -> list[TrainingData]:
    """Every recorded run, the oldest first: of this process's history, or of another folder."""
    return (get_history() if folder is None else History(folder)).load()


_default: list[History] = []
_default_lock = threading.Lock()


def get_history() -> History:
    """The one that is used where none is given: in the user's cache folder unless `set_history_folder` said otherwise."""
    with _default_lock:
        if not _default:
            import platformdirs

            _default.append(History(Path(platformdirs.user_cache_dir("everloop")) / "parallel"))
        return _default[0]


def set_history_folder(folder: str | Path | None) -> History:
    """Use this folder from now on; None: the user's cache folder."""
    with _default_lock:
        _default.clear()
        if folder is not None:
            _default.append(History(folder))
    return get_history()
