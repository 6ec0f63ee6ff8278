"""The durable catalog: models and versions in the journal's file, each change one transaction.

Records are kept whole, as JSON, beside the columns they are found by: a field that a later release adds has its default
in older rows, and no table has to change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from everloop.core.errors import Closed, ModelNotFound, StoreUnavailable
from everloop.core.schema import Schema, Target
from everloop.core.types import VersionStatus
from everloop.stores.ports import Manifest, ModelRecord, VersionRecord
from everloop.stores.settling import check_status, name_taken, no_version, popped, pushed, with_schema
from everloop.stores.sqlite.file import connect, prepare, unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

_encode = msgspec.json.Encoder().encode
_decode_model = msgspec.json.Decoder(ModelRecord).decode
_decode_version = msgspec.json.Decoder(VersionRecord).decode
_decode_history = msgspec.json.Decoder(list[int]).decode


class SqliteCatalog:
    """The `Catalog` port in a file that other processes may share."""

    def __init__(self, path: Path, *, busy_timeout: float = 5.0, read_only: bool = False) -> None:
        """`read_only`: the file must be there and is never changed. Raises StoreUnavailable for a file that is foreign, damaged or
        from the future."""
        import sqlalchemy as sa

        self._path = Path(path)
        prepare(self._path, busy_timeout=busy_timeout, read_only=read_only)
        self._sa = sa
        self._engine = sa.create_engine(
            "sqlite://",
            creator=lambda: connect(self._path, busy_timeout=busy_timeout, read_only=read_only),
            poolclass=sa.pool.QueuePool,
            pool_size=2,
            max_overflow=8,
        )
        tables = sa.MetaData()
        self._models = sa.Table(
            "models",
            tables,
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("record", sa.Text),
            sa.Column("history", sa.Text),
        )
        self._versions = sa.Table(
            "versions",
            tables,
            sa.Column("model", sa.Text, primary_key=True),
            sa.Column("version", sa.Integer, primary_key=True),
            sa.Column("record", sa.Text),
        )
        self._numbers = sa.Table(
            "numbers", tables, sa.Column("model", sa.Text, primary_key=True), sa.Column("last", sa.Integer)
        )
        self._counter = sa.Table("catalog_revision", tables, sa.Column("revision", sa.Integer))
        self._closed = False

    def create_model(self, record: ModelRecord) -> None:
        with self._change() as connection:
            found = self._model_row(connection, record.name)
            if found is not None:
                raise name_taken(record.name)
            connection.execute(
                self._models.insert().values(name=record.name, record=_encode(record).decode(), history="[]")
            )

    def get_model(self, name: str) -> ModelRecord:
        with self._look() as connection:
            return self._model(connection, name)[0]

    def list_models(self) -> list[ModelRecord]:
        with self._look() as connection:
            rows = connection.execute(self._sa.select(self._models.c.record).order_by(self._models.c.name))
            return [_decode_model(row.record) for row in rows]

    def delete_model(self, name: str) -> None:
        with self._change() as connection:
            self._model(connection, name)
            connection.execute(self._versions.delete().where(self._versions.c.model == name))
            connection.execute(self._models.delete().where(self._models.c.name == name))

    def set_schema(self, name: str, schema: Schema, target: Target | None) -> ModelRecord:
        with self._change() as connection:
            before, history = self._model(connection, name)
            after = with_schema(before, schema, target)
            if after != before:
                self._put_model(connection, after, history)
            return after

    def add_version(
        self,
        model: str,
        digest: str,
        manifest: Manifest,
        *,
        now: float,
        status: VersionStatus = "staging",
        note: str = "",
    ) -> VersionRecord:
        with self._change() as connection:
            self._model(connection, model)
            numbers = self._numbers
            last = connection.execute(self._sa.select(numbers.c.last).where(numbers.c.model == model)).scalar()
            number = (last or 0) + 1
            if last is None:
                connection.execute(numbers.insert().values(model=model, last=number))
            else:
                connection.execute(numbers.update().where(numbers.c.model == model).values(last=number))
            first: VersionStatus = "staging" if status == "live" else status
            record = VersionRecord(model, number, digest, first, now, manifest, note)
            connection.execute(
                self._versions.insert().values(model=model, version=number, record=_encode(record).decode())
            )
            return self._set_live(connection, model, number) if status == "live" else record

    def versions(self, model: str) -> list[VersionRecord]:
        with self._look() as connection:
            self._model(connection, model)
            return self._all_versions(connection, model)

    def get_version(self, model: str, version: int) -> VersionRecord:
        with self._look() as connection:
            return self._version(connection, model, version)

    def set_live(self, model: str, version: int) -> VersionRecord:
        with self._change() as connection:
            return self._set_live(connection, model, version)

    def roll_back(self, model: str) -> VersionRecord:
        with self._change() as connection:
            record, history = self._model(connection, model)
            usable = {v.version for v in self._all_versions(connection, model) if v.status == "retired"}
            shorter = popped(model, history, usable)
            return self._make_live(connection, record, shorter[-1], shorter)

    def set_status(self, model: str, version: int, status: VersionStatus) -> VersionRecord:
        with self._change() as connection:
            record = self._version(connection, model, version)
            check_status(record, status)
            return record if record.status == status else self._put_version(connection, record, status)

    def revision(self) -> int:
        with self._look() as connection:
            return int(connection.execute(self._sa.select(self._counter.c.revision)).scalar_one())

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    @contextlib.contextmanager
    def _look(self) -> Iterator[Connection]:
        """One transaction, so that all that is read belongs together."""
        with self._transaction("BEGIN", "read") as connection:
            yield connection

    @contextlib.contextmanager
    def _change(self) -> Iterator[Connection]:
        """One transaction that has the file to itself; counts as a revision if it changed a row."""
        with self._transaction("BEGIN IMMEDIATE", "write") as connection:
            before = _changes(connection)
            yield connection
            if _changes(connection) != before:
                connection.execute(self._counter.update().values(revision=self._counter.c.revision + 1))

    @contextlib.contextmanager
    def _transaction(self, begin: str, doing: str) -> Iterator[Connection]:
        if self._closed:
            raise Closed("the catalog is closed")
        try:
            with self._engine.connect() as connection:
                # The driver is in autocommit mode, so transactions are ours to begin and end.
                connection.exec_driver_sql(begin)
                try:
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
        except self._sa.exc.DBAPIError as error:
            raise unavailable(self._path, doing, error.orig or error) from error
        except self._sa.exc.TimeoutError as error:
            raise StoreUnavailable(f"cannot {doing} {self._path}: too many at once: {error}") from error

    def _model_row(self, connection: Connection, name: str) -> Any:
        models = self._models
        return connection.execute(
            self._sa.select(models.c.record, models.c.history).where(models.c.name == name)
        ).first()

    def _model(self, connection: Connection, name: str) -> tuple[ModelRecord, list[int]]:
        row = self._model_row(connection, name)
        if row is None:
            raise ModelNotFound.named(name, connection.execute(self._sa.select(self._models.c.name)).scalars())
        return _decode_model(row.record), _decode_history(row.history)

    def _put_model(self, connection: Connection, record: ModelRecord, history: list[int]) -> None:
        connection.execute(
            self._models.update()
            .where(self._models.c.name == record.name)
            .values(record=_encode(record).decode(), history=_encode(history).decode())
        )

    def _all_versions(self, connection: Connection, model: str) -> list[VersionRecord]:
        versions = self._versions
        rows = connection.execute(
            self._sa.select(versions.c.record).where(versions.c.model == model).order_by(versions.c.version)
        )
        return [_decode_version(row.record) for row in rows]

    def _version(self, connection: Connection, model: str, version: int) -> VersionRecord:
        versions = self._versions
        text = connection.execute(
            self._sa.select(versions.c.record).where(versions.c.model == model, versions.c.version == version)
        ).scalar()
        if text is None:
            self._model(connection, model)
            raise no_version(model, version, [v.version for v in self._all_versions(connection, model)])
        return _decode_version(text)

    def _put_version(self, connection: Connection, record: VersionRecord, status: VersionStatus) -> VersionRecord:
        record = msgspec.structs.replace(record, status=status)
        versions = self._versions
        connection.execute(
            versions.update()
            .where(versions.c.model == record.model, versions.c.version == record.version)
            .values(record=_encode(record).decode())
        )
        return record

    def _set_live(self, connection: Connection, model: str, version: int) -> VersionRecord:
        record, history = self._model(connection, model)
        wanted = self._version(connection, model, version)
        if wanted.status == "live":
            return wanted
        return self._make_live(connection, record, version, pushed(history, version))

    def _make_live(
        self, connection: Connection, record: ModelRecord, version: int, history: list[int]
    ) -> VersionRecord:
        if record.live_version is not None:
            self._put_version(connection, self._version(connection, record.name, record.live_version), "retired")
        self._put_model(connection, msgspec.structs.replace(record, live_version=version), history)
        return self._put_version(connection, self._version(connection, record.name, version), "live")


def _changes(connection: Connection) -> int:
    """Rows changed on this connection so far."""
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())
