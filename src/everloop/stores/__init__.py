"""REMEMBER: the journal, the catalog and the artifacts, behind the ports of `ports`.

ports      the contracts; `tests/contracts` runs one suite over every implementation
opening    all three, by a folder or a URL
sqlite/    journal and catalog in one durable file
postgres/  journal, catalog and artifacts in one database that several machines share
memory/    the same without a data folder, bounded
objects    artifacts, in a folder or in memory
folders    how a new name becomes durable
joining    how a label meets its prediction: what all journals share
written    a journal over a database: what is queued, and who waits for it
writer     the one thread that writes it
group      one group commit: what the queue held, and what becomes of its labels
rows       predictions, examples and events as rows of a table, and back
retention  forgetting, a little at a time
settling   how a schema settles and what may follow a status: what all catalogs share
"""
