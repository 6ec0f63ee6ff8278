"""`everloop recommend …`: a recommender from a file of who did what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everloop.app.cli.group import Group
from everloop.app.cli.options import Json

HELP = """Make a recommender from a file of who did what.

\b
  everloop recommend train ratings.csv -o films.artifact
  everloop serve recommender=films.artifact
"""
recommend = typer.Typer(cls=Group, help=HELP, no_args_is_help=True, rich_markup_mode=None)

TRAIN = """Train a recommender from FILE: lines of user,item,rating,timestamp, as MovieLens has them.

A header may name the columns (userId, movieId …); rating and timestamp may be missing. Columns are parted by a comma, a tab, a semicolon
or ::. How good it is, is told: what users did in the last fifth is held against what they would have been recommended, and against what is
popular.
"""


@recommend.callback()
def _group() -> None:
    """With it, typer keeps `train` a command of its own."""


@recommend.command(help=TRAIN)
def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Who did what.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The artifact to write.")],
    items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of the items: item,title,category … with a header; what callers can ask for."
        ),
    ] = None,
    factors: Annotated[int, typer.Option(help="Numbers that describe an item.", min=1, max=1024)] = 32,
    dislike_below: Annotated[
        float, typer.Option(metavar="RATING", help="A rating of at most that means that the item was not liked.")
    ] = 0.0,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say
    from everloop.runtime.factors_model import FactorParameters
    from everloop.runtime.packaged import write_artifact
    from everloop.showcase.interactions import read_interactions, read_items
    from everloop.showcase.training import train_and_judge

    given = read_interactions(file)
    catalogue = None if items is None else read_items(items)
    parameters = FactorParameters(factors=factors, dislike_below=dislike_below)
    learner, recall = train_and_judge(given, catalogue, parameters)
    path = write_artifact(out, *learner.freeze())
    model = learner.model
    if json:
        told = None if recall is None else {**recall._asdict(), "ratio": recall.ratio}
        data(as_json({"path": str(path), "users": len(model.users), "items": len(model.catalogue), "recall": told}))
        return
    say(f"{len(given):,} interactions of {len(model.users):,} users with {len(model.catalogue):,} items")
    if recall is None:
        say("too few to hold any out: how good it is, is not known")
    else:
        say(
            f"recall@{recall.k} on the last fifth: {recall.recall:.3f}, of what is popular {recall.popular:.3f} "
            f"({recall.ratio:.2f} times; the difference is {recall.recall - recall.popular:+.3f} ± {recall.spread:.3f}, "
            f"{recall.users:,} users)"
        )
    say(f"wrote {path}; everloop serve recommender={path}")
