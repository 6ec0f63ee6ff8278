"""The catalog in a SQL database: the same statements for SQLite and PostgreSQL, which differ in how a transaction begins.

Records are kept whole, as JSON, beside the columns they are found by: a field that a later release adds has its default
in older rows, and no table has to change. The events of a change go into the journal's table, in the same transaction.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from everloop.core.errors import ModelNotFound
from everloop.core.events import Event
from everloop.policy.keys import KeyRecord
from everloop.policy.rollout import Rollout
from everloop.stores.joining import event_values
from everloop.stores.ports import ModelRecord, Report, VersionRecord
from everloop.stores.settling import (
    as_text,
    check_key,
    check_name,
    check_rollout,
    check_versions,
    name_taken,
    no_version,
)
from everloop.stores.shelving import ShelfCatalog

if TYPE_CHECKING:
    from sqlalchemy import Connection

_encode = msgspec.json.Encoder().encode
_decode_model = msgspec.json.Decoder(ModelRecord).decode
_decode_version = msgspec.json.Decoder(VersionRecord).decode
_decode_key = msgspec.json.Decoder(KeyRecord).decode
_decode_rollout = msgspec.json.Decoder(Rollout).decode
_decode_history = msgspec.json.Decoder(list[int]).decode


class Tables:
    """What the statements below are made of: the columns that the catalog reads and writes."""

    def __init__(self) -> None:
        import sqlalchemy as sa

        everything = sa.MetaData()

        def table(name: str, *columns: tuple[str, Any]) -> sa.Table:
            return sa.Table(name, everything, *(sa.Column(column, kind) for column, kind in columns))

        text, number, binary = sa.Text(), sa.BigInteger(), sa.LargeBinary()
        real: sa.Double[float] = sa.Double()
        self.select = sa.select
        self.models = table("models", ("name", text), ("record", text), ("history", text))
        self.versions = table("versions", ("model", text), ("version", number), ("record", text))
        self.numbers = table("numbers", ("model", text), ("last", number), ("rollout", number))
        self.rollouts = table(
            "rollouts",
            ("model", text),
            ("id", number),
            ("active", number),
            ("revision", number),
            ("record", text),
            ("findings", binary),
        )
        self.reports = table(
            "reports", ("model", text), ("rollout", number), ("source", text), ("at", real), ("payload", binary)
        )
        self.events = table(
            "events",
            ("model", text),
            ("kind", text),
            ("at", real),
            ("message", text),
            ("version", number),
            ("data", text),
        )
        self.keys = table("api_keys", ("id", text), ("record", text), ("used_at", real))
        self.revision = table("catalog_revision", ("revision", number))

    def log(self, connection: Connection, event: Event) -> None:
        columns = ("model", "kind", "at", "message", "version", "data")
        connection.execute(self.events.insert().values(dict(zip(columns, event_values(event), strict=True))))


class SqlShelf:
    """The `Shelf` port over a connection that is in a transaction."""

    def __init__(self, connection: Connection, tables: Tables, name: str, *, created: bool = False) -> None:
        """Raises ModelNotFound."""
        self._connection = connection
        self._tables = tables
        self._name = name
        self.created = self.changed = created
        models = tables.models
        row = connection.execute(tables.select(models.c.record, models.c.history).where(models.c.name == name)).first()
        if row is None:
            raise ModelNotFound.named(name, connection.execute(tables.select(models.c.name)).scalars())
        self.model: ModelRecord = _decode_model(row.record)
        self.history: list[int] = _decode_history(row.history)

    def put_model(self, record: ModelRecord, history: Sequence[int] | None = None) -> None:
        self.model = record
        if history is not None:
            self.history = list(history)
        models = self._tables.models
        self._write(
            models.update()
            .where(models.c.name == self._name)
            .values(record=as_text(record), history=_encode(self.history).decode())
        )

    def versions(self) -> list[VersionRecord]:
        versions = self._tables.versions
        rows = self._connection.execute(
            self._tables.select(versions.c.record).where(versions.c.model == self._name).order_by(versions.c.version)
        )
        return [_decode_version(row.record) for row in rows]

    def version(self, number: int) -> VersionRecord:
        text = self._version_text(number)
        if text is None:
            raise no_version(self._name, number, [v.version for v in self.versions()])
        return _decode_version(text)

    def next_number(self) -> int:
        return self._next("last")

    def put_version(self, record: VersionRecord) -> None:
        if record.name:
            check_name(record, self.versions())
        versions = self._tables.versions
        if self._version_text(record.version) is None:
            self._write(versions.insert().values(model=self._name, version=record.version, record=as_text(record)))
        else:
            self._write(
                versions.update()
                .where(versions.c.model == self._name, versions.c.version == record.version)
                .values(record=as_text(record))
            )

    def delete_version(self, number: int) -> None:
        self.version(number)
        versions = self._tables.versions
        self._write(versions.delete().where(versions.c.model == self._name, versions.c.version == number))

    def rollout(self) -> Rollout | None:
        rollouts = self._tables.rollouts
        text = self._connection.execute(
            self._tables.select(rollouts.c.record)
            .where(rollouts.c.model == self._name)
            .order_by(rollouts.c.id.desc())
            .limit(1)
        ).scalar()
        return None if text is None else _decode_rollout(text)

    def rollouts(self) -> list[Rollout]:
        rollouts = self._tables.rollouts
        rows = self._connection.execute(
            self._tables.select(rollouts.c.record).where(rollouts.c.model == self._name).order_by(rollouts.c.id)
        )
        return [_decode_rollout(row.record) for row in rows]

    def next_rollout(self) -> int:
        return self._next("rollout")

    def put_rollout(self, rollout: Rollout) -> None:
        check_rollout(rollout, self._number("rollout") or 0)
        rollouts = self._tables.rollouts
        values = {"active": int(rollout.active), "revision": rollout.revision, "record": as_text(rollout)}
        there = (rollouts.c.model == self._name) & (rollouts.c.id == rollout.id)
        if self._connection.execute(rollouts.update().where(there).values(values)).rowcount == 0:
            self._connection.execute(rollouts.insert().values(model=self._name, id=rollout.id, **values))
        self.changed = True

    def log(self, event: Event) -> None:
        self._tables.log(self._connection, event)

    def _write(self, statement: Any) -> None:
        self._connection.execute(statement)
        self.changed = True

    def _version_text(self, number: int) -> Any:
        if not 0 < number < 1 << 63:  # more than a database can ask for
            return None
        versions = self._tables.versions
        return self._connection.execute(
            self._tables.select(versions.c.record).where(versions.c.model == self._name, versions.c.version == number)
        ).scalar()

    def _number(self, column: str) -> int | None:
        numbers = self._tables.numbers
        found: int | None = self._connection.execute(
            self._tables.select(numbers.c[column]).where(numbers.c.model == self._name)
        ).scalar()
        return found

    def _next(self, column: str) -> int:
        numbers = self._tables.numbers
        last = self._number(column)
        if last is None:
            self._write(numbers.insert().values({"model": self._name, "last": 0, "rollout": 0, column: 1}))
            return 1
        self._write(numbers.update().where(numbers.c.model == self._name).values({column: last + 1}))
        return last + 1


class SqlCatalog(ShelfCatalog):
    """The `Catalog` port, but for the transactions."""

    def __init__(self) -> None:
        super().__init__()
        self._tables = Tables()

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """One transaction, so that all that is read belongs together. Raises Closed, StoreUnavailable."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Connection]:
        """One transaction that has the catalog to itself. Raises Closed, StoreUnavailable."""

    @contextlib.contextmanager
    def change(self, name: str, new: ModelRecord | None = None) -> Iterator[SqlShelf]:
        with self._not_nested(), self._writing() as connection:
            created = new is not None and self._create(connection, new)
            shelf = SqlShelf(connection, self._tables, name, created=created)
            yield shelf
            if shelf.changed:
                self._count(connection)

    @contextlib.contextmanager
    def look(self, name: str) -> Iterator[SqlShelf]:
        with self._reading() as connection:
            yield SqlShelf(connection, self._tables, name)

    def create_model(self, record: ModelRecord, event: Event | None = None) -> None:
        with self._not_nested(), self._writing() as connection:
            if not self._create(connection, record):
                raise name_taken(record.name)
            if event is not None:
                self._tables.log(connection, event)
            self._count(connection)

    def delete_model(self, name: str, event: Event | None = None, *, versions: Sequence[int] | None = None) -> None:
        tables = self._tables
        with self._not_nested(), self._writing() as connection:
            there = SqlShelf(connection, tables, name).versions()
            check_versions(name, (record.version for record in there), versions)
            for owned in (tables.reports, tables.rollouts, tables.versions):
                connection.execute(owned.delete().where(owned.c.model == name))
            connection.execute(tables.models.delete().where(tables.models.c.name == name))
            if event is not None:
                tables.log(connection, event)
            self._count(connection)

    def list_models(self) -> list[ModelRecord]:
        models = self._tables.models
        with self._reading() as connection:
            rows = connection.execute(self._tables.select(models.c.record).order_by(models.c.name)).all()
        return [_decode_model(row.record) for row in rows]

    def active_rollouts(self) -> list[Rollout]:
        rollouts = self._tables.rollouts
        with self._reading() as connection:
            rows = connection.execute(
                self._tables.select(rollouts.c.record)
                .where(rollouts.c.active == 1)
                .order_by(rollouts.c.model, rollouts.c.id)
            ).all()
        return [_decode_rollout(row.record) for row in rows]

    def put_report(self, model: str, rollout: int, report: Report) -> None:
        rollouts, reports = self._tables.rollouts, self._tables.reports
        of_it = (reports.c.model == model) & (reports.c.rollout == rollout) & (reports.c.source == report.source)
        with self._not_nested(), self._writing() as connection:
            there = self._tables.select(rollouts.c.id).where(rollouts.c.model == model, rollouts.c.id == rollout)
            if connection.execute(there).first() is None:
                return
            changed = connection.execute(
                reports.update().where(of_it).values(at=report.at, payload=report.payload)
            ).rowcount
            if not changed:
                connection.execute(
                    reports.insert().values(
                        model=model, rollout=rollout, source=report.source, at=report.at, payload=report.payload
                    )
                )

    def reports(self, model: str, rollout: int) -> list[Report]:
        reports = self._tables.reports
        with self._reading() as connection:
            rows = connection.execute(
                self._tables.select(reports.c.source, reports.c.at, reports.c.payload)
                .where(reports.c.model == model, reports.c.rollout == rollout)
                .order_by(reports.c.source)
            ).all()
        return [Report(row.source, row.at, bytes(row.payload)) for row in rows]

    def put_findings(self, model: str, rollout: int, payload: bytes, *, step_revision: int) -> bool:
        rollouts = self._tables.rollouts
        seen = (rollouts.c.model == model) & (rollouts.c.id == rollout) & (rollouts.c.revision == step_revision)
        with self._not_nested(), self._writing() as connection:
            return bool(connection.execute(rollouts.update().where(seen).values(findings=payload)).rowcount)

    def findings(self, model: str, rollout: int) -> bytes | None:
        rollouts = self._tables.rollouts
        with self._reading() as connection:
            found = connection.execute(
                self._tables.select(rollouts.c.findings).where(rollouts.c.model == model, rollouts.c.id == rollout)
            ).scalar()
        return None if found is None else bytes(found)

    def keys(self) -> list[KeyRecord]:
        with self._reading() as connection:
            rows = connection.execute(self._tables.select(self._tables.keys.c.record)).scalars()
            return sorted(map(_decode_key, rows), key=lambda record: (record.created_at, record.id))

    def put_keys(self, records: Sequence[KeyRecord]) -> None:
        keys = self._tables.keys
        with self._not_nested(), self._writing() as connection:
            for record in records:
                text = connection.execute(self._tables.select(keys.c.record).where(keys.c.id == record.id)).scalar()
                check_key(None if text is None else _decode_key(text), record)
                if text is None:
                    connection.execute(keys.insert().values(id=record.id, record=as_text(record)))
                else:
                    connection.execute(keys.update().where(keys.c.id == record.id).values(record=as_text(record)))
            self._count(connection)

    def touch_keys(self, ids: Sequence[str], now: float) -> None:
        keys = self._tables.keys
        with self._not_nested(), self._writing() as connection:
            connection.execute(keys.update().where(keys.c.id.in_(ids)).values(used_at=now))

    def key_uses(self) -> dict[str, float]:
        keys = self._tables.keys
        with self._reading() as connection:
            rows = connection.execute(self._tables.select(keys.c.id, keys.c.used_at).where(keys.c.used_at.is_not(None)))
            return {row.id: row.used_at for row in rows}

    def revision(self) -> int:
        with self._reading() as connection:
            return int(connection.execute(self._tables.select(self._tables.revision.c.revision)).scalar_one())

    def _create(self, connection: Connection, record: ModelRecord) -> bool:
        """False where the name is taken."""
        models = self._tables.models
        if (
            connection.execute(self._tables.select(models.c.name).where(models.c.name == record.name)).first()
            is not None
        ):
            return False
        connection.execute(models.insert().values(name=record.name, record=as_text(record), history="[]"))
        return True

    def _count(self, connection: Connection) -> None:
        counter = self._tables.revision
        connection.execute(counter.update().values(revision=counter.c.revision + 1))
