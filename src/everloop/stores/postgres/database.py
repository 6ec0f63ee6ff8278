"""One PostgreSQL database by its URL: how a connection is made, and what its errors mean to a person.

The URL may hold a password. It stays in here: no message, log line or `repr` shows it, and what the driver says is searched for it
before it is told. A URL whose password has characters that must be percent-encoded is refused before the driver sees it, since
the driver would take a part of the password for the host's name, and say so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from everloop.core.errors import InvalidInput, MissingExtra, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

SCHEMA = "everloop"
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 30.0
"""Most seconds of one statement, waiting for locks included."""
IDLE_SECONDS = 30.0
"""Seconds after which the server ends a transaction whose client has stopped in its middle, so that nobody waits for it for ever."""

_URL = re.compile(r"postgres(?:ql)?://")
_DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "everloop",
    # A server that is gone without a word is noticed after a minute, also by whoever only waits for its answer.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
_SESSION = """
SELECT set_config('search_path', %s, false),
       set_config('statement_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', %s, false),
       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END
"""
"""An acknowledged label has to be on the disk, whatever the server's default is."""

_ADVICE = {
    "28": "the server refuses the user or the password",
    "3D000": "the server has no such database; make it with `createdb`",
    "25006": "the server is read-only, as a standby is; connect to the primary (target_session_attrs=read-write)",
    "42501": "the user may not do this; grant it CREATE on the database, or have its owner connect once",
    "53100": "the server's disk is full; free some space",
    "53300": "the server has no connection left; raise its max_connections or run fewer processes",
    "53": "the server is short of resources",
    "55P03": "another connection holds it locked",
    "57014": "it took too long; the server is overloaded or a lock is held",
    "57P": "the server is starting or stopping",
    "08": "the connection was lost",
    "XX": "the server reports damage; look at its log",
}


class Database:
    """Where everything is kept. Safe to share between threads; holds no connection itself."""

    def __init__(self, url: str, *, statement_timeout: float = STATEMENT_SECONDS) -> None:
        """Does not connect yet. Raises InvalidInput for what is no usable URL, MissingExtra without the driver."""
        self.driver = driver()
        self._options = {**_DEFAULTS, **parsed(url), "client_encoding": "utf8"}
        self._statement_timeout = statement_timeout
        self._secrets = [str(self._options[k]) for k in ("password", "sslpassword") if self._options.get(k)]
        options = self._options
        where = f" at {options['host']}" if options.get("host") else ""
        where += f":{options['port']}" if where and options.get("port") else ""
        self.name = f"the PostgreSQL database {options.get('dbname') or options.get('user') or '(default)'!r}{where}"

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        """A connection that sees our tables first. Raises psycopg.Error: see `errors`."""
        connection: psycopg.Connection[Any] = self.driver.connect(**self._options, autocommit=True)
        try:
            milliseconds = (f"{self._statement_timeout:g}s", f"{IDLE_SECONDS:g}s")
            connection.execute(_SESSION, (SCHEMA, *milliseconds))
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def opened(self, doing: str) -> Iterator[psycopg.Connection[Any]]:
        """A connection for one transaction, closed afterwards. Raises StoreUnavailable."""
        with self.errors(doing):
            connection = self.connect()
            try:
                with connection.transaction():
                    yield connection
            finally:
                connection.close()

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """What the driver raises, as StoreUnavailable."""
        try:
            yield
        except self.driver.Error as error:
            raise self.unavailable(doing, error) from error

    def unavailable(self, doing: str, error: BaseException) -> StoreUnavailable:
        """What a failed statement means to the person who runs the server."""
        code = getattr(error, "sqlstate", None) or ""
        advice = next((text for prefix, text in _ADVICE.items() if code.startswith(prefix)), "") if code else ""
        said = " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return StoreUnavailable(f"cannot {doing} {self.name}: {f'{advice} ({said})' if advice else said}")


def check_url(url: str) -> None:
    """Raises InvalidInput unless it may be a PostgreSQL URL whose parts can be told apart. Never says what is in it."""
    before_query = url.partition("?")[0]
    authority = _URL.sub("", before_query, count=1).partition("/")[0]
    if not _URL.match(url) or before_query.count("@") > authority.count("@") or authority.count("@") > 1:
        raise _unusable()


def parsed(url: str) -> dict[str, Any]:
    """The URL's parts by libpq's names. Raises InvalidInput, MissingExtra."""
    check_url(url)
    psycopg = driver()
    try:
        parts: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        raise _unusable() from None  # the driver's words may hold a part of the password
    torn = (
        "@" in f"{parts.get('host', '')[1:]}{parts.get('dbname', '')}"
    )  # a host that begins with @ is an abstract socket
    if torn or not re.fullmatch(r"[0-9,]*", str(parts.get("port", ""))):
        raise _unusable()
    return parts


def driver() -> ModuleType:
    """psycopg. Raises MissingExtra."""
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise MissingExtra.of("postgres", "a PostgreSQL database") from error
    return psycopg


def _unusable() -> InvalidInput:
    return InvalidInput(
        "database: expected postgresql://USER:PASSWORD@HOST:PORT/NAME, special characters of the password percent-encoded "
        "(@ as %40, / as %2F); everything but the scheme may be left to PGHOST, PGUSER, PGPASSWORD or ~/.pgpass",
        field="database",
    )
