"""REMEMBER: the journal, the catalog and the artifacts, behind the ports of `ports`.

ports      the contracts; `tests/contracts` runs one suite over every implementation
sqlite/    journal and catalog in one durable file
memory/    the same without a data folder, bounded
objects    artifacts, in a folder or in memory
folders    how a new name becomes durable
joining    how a label meets its prediction: what all journals share
settling   how a schema settles and what may follow a status: what all catalogs share
"""
