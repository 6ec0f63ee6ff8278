"""The PostgreSQL database itself: its URL and the secret in it, laying it out, and what is said when it does not work."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.postgres import Server

from everloop.core.errors import ArtifactCorrupt, InvalidInput, MissingExtra, StoreUnavailable, TooLarge
from everloop.stores.ports import ModelRecord
from everloop.stores.postgres import Database, PostgresArtifacts, PostgresCatalog, PostgresJournal
from everloop.stores.postgres.tables import LAYOUT, prepare
from everloop.testing import ManualClock

SECRET = "hunter2-is-secret"


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "name"),
        [
            (f"postgresql://me:{SECRET}@db.example:6432/loop", "the PostgreSQL database 'loop' at db.example:6432"),
            (f"postgres://me:{SECRET}@db.example/loop?sslmode=require", "the PostgreSQL database 'loop' at db.example"),
            ("postgresql://me@/loop?host=/run/pg", "the PostgreSQL database 'loop' at /run/pg"),
            ("postgresql://me@one,two:5433/", "the PostgreSQL database 'me' at one,two:,5433"),
            ("postgresql://", "the PostgreSQL database '(default)'"),
            (f"postgresql://me:a%40b%2F{SECRET}@db/loop", "the PostgreSQL database 'loop' at db"),
        ],
    )
    def test_its_name_is_without_the_secret(self, url: str, name: str) -> None:
        database = Database(url)
        assert database.name == name
        assert repr(database) == f"Database({name!r})" or "'" in name
        assert SECRET not in repr(database)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "loop",
            f"mysql://me:{SECRET}@db/loop",
            f"host=db password={SECRET}",
            f"postgresql://me:{SECRET}@rest@db/loop",  # what comes after the first @ would be taken for the host
            f"postgresql://me:{SECRET}/rest@db/loop",
            f"postgresql://me:12/{SECRET}@db/loop",
            f"postgresql://me:a?b@{SECRET}@db/loop",
            f"postgresql://me:{SECRET}%zz@db/loop",
            f"postgresql://db:{SECRET}/loop",
            f"postgresql://db/loop?{SECRET}=1",
        ],
    )
    def test_one_that_cannot_be_taken_apart_is_refused_without_saying_it(self, url: str) -> None:
        with pytest.raises(InvalidInput, match="percent-encoded") as refused:
            Database(url)
        assert refused.value.field == "database"
        assert SECRET not in str(refused.value)
        assert refused.value.__cause__ is None

    def test_without_the_driver_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(MissingExtra, match=r"pip install 'everloop\[postgres\]'"):
            Database("postgresql://db/loop")


class TestWhatGoesWrong:
    def test_a_wrong_password_is_told_without_it(
        self, postgres_server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        postgres_server.execute("DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN PASSWORD 'right'")
        url = postgres_server.url().replace("everloop@", f"guarded:{SECRET}@", 1)
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(StoreUnavailable, match="password authentication failed") as refused,
        ):
            PostgresCatalog(url)
        told: BaseException | None = refused.value
        while told is not None:
            assert SECRET not in str(told)
            told = told.__cause__ or told.__context__
        assert SECRET not in caplog.text

    def test_a_server_or_database_that_is_not_there(self, postgres_server: Server) -> None:
        with pytest.raises(StoreUnavailable, match=r"cannot open the PostgreSQL database 'nowhere'.*does not exist"):
            PostgresCatalog(postgres_server.url("nowhere"))
        with pytest.raises(StoreUnavailable, match=r"at 127\.0\.0\.1:1: .*refused"):
            PostgresArtifacts("postgresql://me@127.0.0.1:1/loop")

    def test_a_user_who_may_create_nothing_is_told_what_to_grant(self, postgres_server: Server) -> None:
        postgres_server.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
        url = postgres_server.create()
        with pytest.raises(StoreUnavailable, match="grant it CREATE on the database"):
            PostgresCatalog(url.replace("everloop@", "guest@", 1))
        postgres_server.drop(url)

    def test_a_lock_that_is_never_let_go_ends_in_an_error(self, postgres: str) -> None:
        catalog = PostgresCatalog(Database(postgres, statement_timeout=0.1))
        holder = Database(postgres)
        with holder.opened("lock") as connection:
            connection.execute("SELECT * FROM catalog_revision FOR UPDATE")
            with pytest.raises(StoreUnavailable, match="it took too long"):
                catalog.create_model(ModelRecord("m", "linear", 1.0))
        catalog.create_model(ModelRecord("m", "linear", 1.0))
        assert [model.name for model in catalog.list_models()] == ["m"]
        catalog.close()


class TestLayout:
    @pytest.fixture
    def empty(self, postgres_server: Server) -> Iterator[str]:
        url = postgres_server.create()
        yield url
        postgres_server.drop(url)

    def test_many_may_be_the_first(self, empty: str) -> None:
        failed: list[BaseException] = []

        def lay_out() -> None:
            try:
                prepare(Database(empty))
            except StoreUnavailable as error:
                failed.append(error)

        threads = [threading.Thread(target=lay_out) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []

    def test_a_newer_one_is_refused(self, empty: str, postgres_server: Server) -> None:
        prepare(Database(empty))
        postgres_server.execute(f"UPDATE everloop.layout SET version = {LAYOUT + 1}", empty)
        for opened in (PostgresCatalog, PostgresArtifacts, lambda url: PostgresJournal(url, clock=ManualClock())):
            with pytest.raises(StoreUnavailable, match=r"newer everloop .* upgrade everloop"):
                opened(empty)

    def test_a_schema_of_another_program_is_left_alone(self, empty: str, postgres_server: Server) -> None:
        postgres_server.execute("CREATE SCHEMA everloop; CREATE TABLE everloop.theirs (a int)", empty)
        with pytest.raises(StoreUnavailable, match="belongs to another program"):
            PostgresCatalog(empty)

    def test_other_tables_of_the_database_do_not_matter(self, empty: str, postgres_server: Server) -> None:
        postgres_server.execute("CREATE TABLE models (a int); CREATE TABLE events (b int)", empty)
        catalog = PostgresCatalog(empty)
        catalog.create_model(ModelRecord("m", "linear", 1.0))
        catalog.close()
        assert postgres_server.execute("SELECT count(*) FROM public.models", empty) == [(0,)]

    def test_a_database_of_another_encoding_is_refused(self, postgres_server: Server) -> None:
        postgres_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        with pytest.raises(StoreUnavailable, match="LATIN1; everloop needs one made with ENCODING 'UTF8'"):
            PostgresCatalog(postgres_server.url("latin"))
        postgres_server.execute("DROP DATABASE latin")


class TestArtifacts:
    def test_many_chunks(self, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("everloop.stores.postgres.artifacts.CHUNK", 1000)
        artifacts = PostgresArtifacts(postgres)
        for size in (999, 1000, 1001, 12_345):
            payload = bytes(i % 251 for i in range(size))
            assert artifacts.get(artifacts.put(payload)) == payload

    def test_damage_is_noticed_and_mended_by_storing_again(self, postgres: str, postgres_server: Server) -> None:
        artifacts = PostgresArtifacts(postgres)
        digest = artifacts.put(b"a model")
        postgres_server.execute(
            f"UPDATE everloop.artifact_chunks SET bytes = 'a modem' WHERE digest = '{digest}'", postgres
        )
        with pytest.raises(ArtifactCorrupt, match="is damaged: the 7 bytes in the PostgreSQL database"):
            artifacts.get(digest)
        assert artifacts.put(b"a model") == digest
        assert artifacts.get(digest) == b"a model"

    def test_what_is_too_large_is_refused(self, postgres: str) -> None:
        artifacts = PostgresArtifacts(postgres, max_bytes=10)
        with pytest.raises(TooLarge, match="11 bytes"):
            artifacts.put(b"x" * 11)
        assert artifacts.digests() == []

    def test_the_same_bytes_by_many_at_once(self, postgres: str) -> None:
        digests: list[str] = []

        def store() -> None:
            digests.append(PostgresArtifacts(postgres).put(b"the same" * 1000))

        threads = [threading.Thread(target=store) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(digests) == 6
        assert PostgresArtifacts(postgres).digests() == [*set(digests)]
