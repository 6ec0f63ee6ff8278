"""The models that come with everloop, by name: small artifact files beside this module, each made by a script in `benchmarks/showcase`."""

from __future__ import annotations

import os
from pathlib import Path

from everloop.core.errors import InvalidInput

PREFIX = "builtin:"
"""How a source is named that means one of them: `builtin:sentiment`."""
BUILTIN = {name: Path(__file__).with_name("data") / f"{name}.artifact" for name in ("sentiment", "digits", "shop")}


def builtin_path(name: str) -> Path:
    """The artifact file of a built-in model. Raises InvalidInput where there is none of that name."""
    path = BUILTIN.get(name)
    if path is None:
        raise InvalidInput(f"there is no built-in model {name[:60]!r}; there are {', '.join(BUILTIN)}", field="model")
    if not path.is_file():
        raise InvalidInput(
            f"the built-in model {name!r} is missing from this installation ({path.name}): install everloop again",
            field="model",
        )
    return path


def located(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Where a source is: the file of a built-in model that is named, anything else as it is. Raises InvalidInput."""
    if isinstance(source, str) and source.startswith(PREFIX):
        return builtin_path(source.removeprefix(PREFIX))
    return source
