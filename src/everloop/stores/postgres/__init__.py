"""What several machines remember together: journal, catalog and artifacts in one PostgreSQL database, by its URL.

database    the URL, how a connection is made, and what its errors mean
tables      how the database is recognised and laid out
journal     the `Journal` port: `stores.written` over the two below
group       one group commit: a queue's content as one transaction
reads       reading, beside the writer
catalog     the `Catalog` port
artifacts   the `ArtifactStore` port

Everything is in the schema `everloop`, so that the database may be shared with other programs.
"""

from everloop.stores.postgres.artifacts import PostgresArtifacts
from everloop.stores.postgres.catalog import PostgresCatalog
from everloop.stores.postgres.database import Database
from everloop.stores.postgres.journal import PostgresJournal

__all__ = ["Database", "PostgresArtifacts", "PostgresCatalog", "PostgresJournal"]
