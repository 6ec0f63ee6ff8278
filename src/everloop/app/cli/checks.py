"""What `everloop doctor` looks at: each check is a function that gives findings, and none changes anything.

A check that needs the data folder works in a temporary folder beside or inside it, on the same file system.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import json
import os
import platform
import re
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

Status = Literal["ok", "note", "broken"]

COMPILED = {
    "numpy": "numpy",
    "scipy": "scipy.linalg",
    "scikit-learn": "sklearn.linear_model",
    "river": "river.drift",
    "onnxruntime": "onnxruntime",
    "msgspec": "msgspec",
    "uvloop": "uvloop",
    "httptools": "httptools",
}
"""Libraries with machine code in them: being installed does not mean that they load here."""
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "ceph", "glusterfs")
SLOW_SYNC = 0.02
FEW_FILES = 1024
ANSWER_SECONDS = 2.0
OLDEST_SQLITE = (3, 35, 0)


class Finding(NamedTuple):
    what: str
    status: Status
    value: str
    advice: str = ""


def everything(storage: Callable[[], Iterator[Finding]], host: str, port: int) -> Iterator[Finding]:
    """`storage` looks at where everything is kept: `data_folder`, or `database_check.database`."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        python,
        libraries,
        server,
        processors,
        memory,
        files,
        configuration,
        storage,
        lambda: address(host, port),
    ]
    for check in checks:
        yield from check()


def python() -> Iterator[Finding]:
    value = f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"
    if platform.python_implementation() != "CPython":
        yield Finding("Python", "note", value, "only CPython is tested")
    else:
        yield Finding("Python", "ok", value)


def libraries() -> Iterator[Finding]:
    """The declared dependencies are there, in a version that fits, and load."""
    fine = []
    for name, wanted in requirements():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "broken", "not installed", f"pip install '{name}{wanted}'")
            continue
        if not fits(found, wanted):
            yield Finding(name, "broken", found, f"pip install '{name}{wanted}'")
            continue
        try:
            importlib.import_module(COMPILED.get(name, "sys"))
        except Exception as error:  # a broken library may raise anything; that is what is looked for
            reason = " ".join(str(error).split())[:160]
            yield Finding(
                name, "broken", f"{found} does not load: {reason}", f"pip install --force-reinstall '{name}{wanted}'"
            )
            continue
        fine.append(f"{name} {found}")
    yield Finding("libraries", "ok", ", ".join(fine))


def server() -> Iterator[Finding]:
    """uvicorn's protocol class is as the fast lane knows it, and the fast event loop is there."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        from everloop.api.http.fastlane import make_protocol
    except Exception as error:  # as above
        yield Finding(
            "fast lane", "broken", f"{type(error).__name__}: {error}", "pip install 'uvicorn>=0.54,<0.55' httptools"
        )
    else:
        expected = (
            "on_message_begin",
            "on_headers_complete",
            "on_body",
            "on_message_complete",
            "data_received",
            "_unset_keepalive_if_required",
            "connection_lost",
            "shutdown",
        )
        missing = [name for name in expected if not hasattr(HttpToolsProtocol, name)]
        version = metadata.version("uvicorn")
        if missing or not callable(make_protocol):
            yield Finding(
                "fast lane",
                "broken",
                f"uvicorn {version} has no {', '.join(missing)}",
                "pip install 'uvicorn>=0.54,<0.55'",
            )
        else:
            yield Finding("fast lane", "ok", f"on uvicorn {version} with httptools")
    if sys.platform == "win32":
        yield Finding("event loop", "note", "asyncio", "uvloop does not run on Windows; expect half the throughput")
        return
    try:
        yield Finding("event loop", "ok", f"uvloop {metadata.version('uvloop')}")
    except metadata.PackageNotFoundError:
        yield Finding("event loop", "note", "asyncio", "pip install uvloop: about twice the throughput")


def processors() -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    value = f"{allowed} of {os.cpu_count()} may be used"
    if quota is not None:
        value += f", {quota:g} by the container's quota"
    usable = allowed if quota is None else min(float(allowed), quota)
    if usable < 1:
        yield Finding(
            "processors",
            "note",
            value,
            "under one processor the server is paused for parts of a second: latency will show it",
        )
    elif usable < 2:
        yield Finding("processors", "note", value, "fits share the one processor with predictions; two keep them apart")
    else:
        yield Finding("processors", "ok", value)


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors that the container may use at once, by cgroup v2 or v1; None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        old = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return None if old <= 0 else old / int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    limit = None
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(name).read_text())
            break
        except (OSError, ValueError):
            continue
    value = f"{size(free)} free"
    if limit is not None and limit < psutil.virtual_memory().total:
        value += f", {size(limit)} by the container's limit"
        free = min(free, limit)
    if free < 256 << 20:
        yield Finding("memory", "note", value, "a server takes about 150 MB, a fit of a large model as much again")
    else:
        yield Finding("memory", "ok", value)


def files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = soft == resource.RLIM_INFINITY
    if not unlimited and soft < FEW_FILES:
        yield Finding(
            "open files",
            "note",
            str(soft),
            f"one a connection: `ulimit -n {FEW_FILES * 4}` before serving many clients",
        )
    else:
        yield Finding("open files", "ok", "unlimited" if unlimited else f"{soft} at most")


def configuration() -> Iterator[Finding]:
    from everloop.app.settings import load_settings
    from everloop.core.errors import InvalidInput

    try:
        found = load_settings(environ=os.environ, cwd=Path.cwd())
    except InvalidInput as error:
        yield Finding("configuration", "broken", error.message, "correct it, or everloop will not start")
        return
    for warning in found.warnings:
        yield Finding("configuration", "note", warning, "unset it, or correct its name")
    yield Finding("configuration", "ok", ", ".join(map(str, found.files)) or "defaults; no everloop.toml")


def data_folder(data_dir: Path) -> Iterator[Finding]:
    """Can be written; how long a commit takes; SQLite's write-ahead log works there; there is room."""
    import psutil

    folder = data_dir.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    note = "" if folder == data_dir.absolute() else " (will be made)"
    if not folder.is_dir():
        yield Finding(
            "data folder", "broken", f"{data_dir}: {folder} is not a folder", "choose another with --data-dir"
        )
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".everloop-doctor-", dir=folder) as scratch:
            yield Finding("data folder", "ok", f"{data_dir}{note}")
            seconds = sync_seconds(Path(scratch) / "sync")
            slow = seconds > SLOW_SYNC
            yield Finding(
                "fsync",
                "note" if slow else "ok",
                f"{seconds * 1e3:.2f} ms",
                "labels are acknowledged after a sync, many at once; a faster disk answers single ones sooner"
                if slow
                else "",
            )
            yield sqlite(Path(scratch) / "probe.db")
    except OSError as error:
        yield Finding(
            "data folder",
            "broken",
            f"{folder}: {error.strerror or error}",
            "choose another with --data-dir, or make it writable",
        )
        return
    kind = file_system(folder)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        yield Finding("file system", "note", kind, "SQLite's locks are unreliable over a network; use a local disk")
    free = psutil.disk_usage(str(folder)).free
    yield Finding(
        "disk",
        "ok" if free > 1 << 30 else "note",
        f"{size(free)} free",
        "" if free > 1 << 30 else "the journal grows to engine.retention_bytes",
    )


def sync_seconds(path: Path, rounds: int = 9) -> float:
    """Median seconds that a small write takes to be on the disk."""
    taken = []
    with path.open("wb") as file:
        for _ in range(rounds):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return sorted(taken)[rounds // 2]


def sqlite(path: Path) -> Finding:
    value = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return Finding("journal", "broken", value, "everloop needs SQLite 3.35 or newer: use a newer Python build")
    try:
        connection = sqlite3.connect(path)
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            connection.execute("CREATE TABLE probe (x)")
            connection.commit()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding(
            "journal", "broken", f"{value}: {error}", "this file system cannot hold a database; use a local disk"
        )
    if mode != "wal":
        return Finding(
            "journal",
            "broken",
            f"{value}, no write-ahead log ({mode})",
            "this file system has no shared memory; use a local disk",
        )
    return Finding("journal", "ok", f"{value}, write-ahead log")


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of file system that holds `folder`, "" where the system does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        parts = line.split()
        if len(parts) > 2 and folder.is_relative_to(parts[1]) and len(parts[1]) >= len(best):
            best, kind = parts[1], parts[2]
    return kind


def address(host: str, port: int) -> Iterator[Finding]:
    """Whether a server could listen there now, or everloop does already."""
    from everloop.app.security import is_local

    where = f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and is_everloop(host, port):
            yield Finding("port", "ok", f"{where}: everloop is running there")
            return
        yield Finding(
            "port",
            "broken",
            f"{where}: {error.strerror or error}",
            "stop what listens there, or choose another with --port",
        )
        return
    if is_local(host):
        yield Finding("port", "ok", f"{where} is free")
    else:
        yield Finding(
            "port",
            "note",
            f"{where} is free",
            "other machines reach it: needs keys (`everloop keys create`), or --insecure",
        )


def is_everloop(host: str, port: int) -> bool:
    """Whether what listens there answers `/health` as everloop does, well or not."""
    connection = http.client.HTTPConnection(host or "127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/health")
        found = json.loads(connection.getresponse().read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):  # not HTTP, not JSON, or silent: something else
        return False
    finally:
        connection.close()
    if not isinstance(found, dict):
        return False
    wants_a_key = str(found.get("type", "")).startswith("urn:everloop:error:")
    return wants_a_key or {"status", "uptime", "models", "components"} <= found.keys()


def requirements() -> list[tuple[str, str]]:
    """(name, versions) of what everloop needs here, without extras."""
    found = []
    for text in metadata.requires("everloop") or []:
        need, _, marker = text.partition(";")
        if "extra" in marker or ("win32" in marker and sys.platform == "win32"):
            continue
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(.*)", need)
        if match:
            found.append((match[1], match[2].strip().strip("()")))
    return found


def fits(version: str, wanted: str) -> bool:
    """Whether `version` is within the bounds of `wanted`, e.g. `>=0.54,<0.55`: by the leading numbers alone."""
    have = _numbers(version)
    for bound in filter(None, wanted.split(",")):
        match = re.match(r"\s*(>=|<=|==|<|>)\s*(\S+)", bound)
        if match is None:
            continue
        limit = _numbers(match[2])
        width = max(len(have), len(limit))
        left, right = have + (0,) * (width - len(have)), limit + (0,) * (width - len(limit))
        good = {">=": left >= right, "<=": left <= right, "==": left == right, "<": left < right, ">": left > right}
        if not good[match[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MB"
