"""How every command fails: one sentence on stderr and the right exit code, never a traceback for what a user can cause.

1: it was asked for rightly and could not be done. 2: it was asked for wrongly. A traceback means a bug in everloop.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from everloop.core.errors import EverloopError


class UsageError(Exception):
    """The command line itself is wrong: exit code 2."""


class Group(TyperGroup):
    """Turns everloop's errors, and those of the network and the file system, into a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        from everloop.app.cli.output import complain

        try:
            return super().invoke(ctx)
        except UsageError as error:
            complain(str(error))
            raise typer.Exit(2) from error
        except EverloopError as error:
            complain(error.message)
            raise typer.Exit(1) from error
        except BrokenPipeError as error:  # `everloop … | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except OSError as error:
            complain(str(error))
            raise typer.Exit(1) from error
