"""What an engine with a data folder remembers: journal and catalog in one SQLite file, safe against `kill -9`.

file        how the file is opened, recognised and laid out; what its errors mean
journal     the `Journal` port: `stores.written` over the three below
group       one group commit: a queue's content as one transaction of few statements
reads       reading, beside the writer
owners      whether the owner of a lease is still alive
space       how much the file holds, and how it gives back what it no longer needs
catalog     the `Catalog` port
"""

from everloop.stores.sqlite.catalog import SqliteCatalog
from everloop.stores.sqlite.journal import SqliteJournal

__all__ = ["SqliteCatalog", "SqliteJournal"]
