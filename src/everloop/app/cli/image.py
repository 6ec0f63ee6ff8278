"""`everloop image …`: an image classifier from an ONNX file and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from everloop.app.cli.group import Group
from everloop.app.cli.options import Json

HELP = """Make an image classifier from an ONNX file and its labels.

\b
  everloop image pack mobilenet.onnx --labels imagenet.txt --preset imagenet -o mobilenet.artifact
  everloop serve image=mobilenet.artifact
"""
image = typer.Typer(cls=Group, help=HELP, no_args_is_help=True, rich_markup_mode=None)

PACK = """Put the network FILE.onnx, its labels and its preprocessing into one artifact.

It takes one input of images, [n, channels, height, width] or [n, height, width, channels], and gives one score a class; logits become
probabilities. How it was trained to see cannot be read from the file: --preset imagenet is what torchvision's and most of timm's
networks saw; otherwise say --mean, --std and --crop.
"""
_NUMBERS = "One number, or one a channel with commas between, of values from 0 to 1."


@image.callback()
def _group() -> None:
    """With it, typer keeps `pack` a command of its own."""


@image.command(help=PACK)
def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The network.")],
    *,
    labels: Annotated[
        Path, typer.Option(metavar="FILE", help="In the order of its scores, one a line or a JSON list.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The artifact to write.")],
    preset: Annotated[
        Literal["plain", "imagenet"], typer.Option(help="How it was trained to see; plain: values from 0 to 1.")
    ] = "plain",
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="Of its input where the file leaves it open: 224, or HEIGHTxWIDTH.")
    ] = "",
    mean: Annotated[str, typer.Option(metavar="NUMBERS", help=f"Taken off each value. {_NUMBERS}")] = "",
    std: Annotated[str, typer.Option(metavar="NUMBERS", help="What that is divided by, likewise.")] = "",
    crop: Annotated[
        float | None, typer.Option(help="Share of the shorter side that is kept: 0.875 for 224 of 256.")
    ] = None,
    fit: Annotated[
        Literal["crop", "stretch", "pad"] | None, typer.Option(help="What is done about another aspect ratio.")
    ] = None,
    resample: Annotated[
        Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] | None, typer.Option(help="The filter.")
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="NAME", help="Which output holds the scores.")] = None,
    record_bytes: Annotated[
        int, typer.Option(metavar="BYTES", help="Record files up to this size whole; of others a few numbers.", min=0)
    ] = 0,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say
    from everloop.runtime.image import options_of
    from everloop.runtime.image_saving import pack_image_model
    from everloop.runtime.packaged import write_artifact

    said: dict[str, Any] = {"crop": crop, "fit": fit, "resample": resample}
    said["mean"], said["std"] = _numbers(mean, "--mean"), _numbers(std, "--std")
    manifest, payload = pack_image_model(
        file,
        labels,
        preset=preset,
        size=_size(size),
        output=output,
        recorded_bytes=record_bytes,
        **{name: value for name, value in said.items() if value is not None},
    )
    path = write_artifact(out, manifest, payload)
    options = options_of(manifest)
    height, width = options.preprocessing.size
    if json:
        told = manifest.options["image"]
        data(as_json({"path": str(path), "labels": len(manifest.classes or ()), "bytes": len(payload), "image": told}))
        return
    scores = "probabilities" if options.scores == "given" else "logits, which become probabilities"
    say(
        f"images of {width} x {height} ({options.preprocessing.mode}), {len(manifest.classes or ()):,} labels; it gives {scores}"
    )
    say(f"wrote {path}; everloop serve image={path}")


def _numbers(text: str, option: str) -> tuple[float, ...] | None:
    from everloop.app.cli.group import UsageError

    try:
        return tuple(float(each) for each in text.split(",")) if text else None
    except ValueError as error:
        raise UsageError(f"{option}: expected numbers with commas between, got {text!r}") from error


def _size(text: str) -> int | tuple[int, int] | None:
    from everloop.app.cli.group import UsageError

    if not text:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"--size: expected 224 or HEIGHTxWIDTH, got {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
