"""The command line. `main` is the entry point; everything else is imported once a command is known to need it."""

from __future__ import annotations


def main() -> None:
    """Run the command that `sys.argv` names and exit: 0 done, 1 it could not be done, 2 it was asked for wrongly."""
    from everloop.app.cli.commands import app

    app(prog_name="everloop")
