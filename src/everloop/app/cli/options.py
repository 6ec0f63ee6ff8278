"""Arguments and options that several commands share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="Its number, name or alias, `champion` or `challenger`.")
]
Note = Annotated[str, typer.Option(help="Why; kept in the timeline.")]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="A PostgreSQL database instead of a folder: postgresql://…"),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load pickled models. Whoever wrote one can run anything here.")
]
TrustType = Annotated[
    list[str] | None,
    typer.Option("--trust-type", metavar="TYPE", help="A type that skops files may contain; repeatable."),
]
TrustCode = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-code", metavar="CODE", help="Python code that models may run, package.module:Model; repeatable."
    ),
]
Url = Annotated[
    str | None,
    typer.Option(envvar="EVERLOOP_URL", metavar="URL", help="The server.", show_default="http://127.0.0.1:3000"),
]
