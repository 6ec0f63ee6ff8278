"""REMEMBER: the journal, the catalog and the artifacts, behind the ports of `ports`."""
