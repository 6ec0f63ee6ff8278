"""Where a command that asks no server finds the models: in the folder or the database that `everloop serve` would have here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.app.cli.group import UsageError
from everloop.app.cli.serve import DATA_DIR
from everloop.core.errors import InvalidInput

if TYPE_CHECKING:
    from everloop.app.settings import EngineSettings


def storage_here(
    data_dir: Path | None,
    database: str | None,
    *,
    trust_pickle: bool = False,
    trust_types: Sequence[str] | None = None,
    trust_code: Sequence[str] | None = None,
) -> EngineSettings:
    """What was said on the command line, else by the environment, else by `everloop.toml`; else `./everloop-data`. Raises UsageError."""
    from everloop.app.settings import EngineSettings, load_settings

    try:
        said = load_settings(
            {
                "engine.data_dir": data_dir,
                "engine.database": database,
                "engine.trust_pickle": trust_pickle or None,
                "engine.trust_types": tuple(trust_types) if trust_types else None,
                "engine.trust_code": tuple(trust_code) if trust_code else None,
            },
            environ=os.environ,
            cwd=Path.cwd(),
            defaults={"engine.data_dir": DATA_DIR},
        ).engine
    except InvalidInput as error:
        raise UsageError(error.message) from error
    folder = None if said.database is not None else said.data_dir or DATA_DIR
    return EngineSettings(
        data_dir=folder,
        database=said.database,
        trust_pickle=said.trust_pickle,
        trust_types=said.trust_types,
        trust_code=said.trust_code,
    )
