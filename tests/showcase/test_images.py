"""The built-in digits, and any image classifier, in programs without a server."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tests.runtime.image_nets import COLOURS, colour_net, encoded, plain
from tests.showcase.test_fetching import ALLOWED, answer, here, site
from typer.testing import CliRunner

from everloop.app.bench.digits import png_of, split
from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.hashing import artifact_digest
from everloop.runtime.image_saving import save_image_model
from everloop.runtime.packaged import read_artifact
from everloop.showcase.builtin import builtin_path
from everloop.showcase.images import ImageClassifier

ROOT = Path(__file__).parents[2]
RED = encoded(plain((250, 20, 60)))


@pytest.fixture(scope="module")
def digits() -> ImageClassifier:
    return ImageClassifier()


@pytest.fixture(scope="module")
def held_out() -> tuple[list[Any], list[str]]:
    """Images of 8 x 8 and what they show."""
    from sklearn.datasets import load_digits

    target, _, places = split()
    images = load_digits().images
    return [images[i] for i in places], [str(target[i]) for i in places]


def accuracy(classifier: ImageClassifier, files: list[bytes], labels: list[str]) -> float:
    answers = classifier.classify_batch(files, top_k=1)
    return float(np.mean([each.predictions[0].label == label for each, label in zip(answers, labels, strict=True)]))


def test_the_shipped_digits_are_what_the_report_tells(digits: ImageClassifier, held_out: Any) -> None:
    report = json.loads((ROOT / "benchmarks/showcase/digits.json").read_text())
    path = builtin_path("digits")
    _, payload = read_artifact(path.read_bytes())
    images, labels = held_out
    assert (artifact_digest(payload), len(labels)) == (report["digest"], report["rows"]["held_out"])
    assert path.stat().st_size < 1 << 20
    found = accuracy(digits, [png_of(image) for image in images], labels)
    assert found == pytest.approx(report["accuracy_held_out"], abs=1e-3)
    assert found >= 0.98


def test_of_what_shows_no_digit_it_is_not_sure(digits: ImageClassifier, held_out: Any) -> None:
    """Blank, noise, letters: as the page says, a low confidence is the sign."""
    from PIL import ImageDraw, ImageFont

    def sure(files: list[bytes]) -> list[float]:
        return sorted(each.predictions[0].confidence for each in digits.classify_batch(files, top_k=1))

    blank = [encoded(plain(colour, (side, side))) for side in (1, 40) for colour in ((255,) * 3, (0,) * 3, (128,) * 3)]
    assert sure([*blank, encoded(plain((0, 0, 0, 0), mode="RGBA"))])[-1] < 0.2
    draws = np.random.default_rng(8)
    noise = [encoded(PIL.Image.fromarray(draws.integers(0, 256, (n, n), np.uint8))) for n in (8, 32) for _ in range(20)]
    assert sure(noise)[-1] < 0.5
    letters = []
    for letter in "XWKT":
        page = PIL.Image.new("L", (60, 60), 255)
        ImageDraw.Draw(page).text((10, 5), letter, fill=0, font=ImageFont.load_default(40))
        letters.append(encoded(page))
    assert sure(letters)[-1] < 0.6
    assert np.median(sure([png_of(image) for image in held_out[0]])) > 0.8


def test_a_photograph_of_ink_on_paper_does_as_well(digits: ImageClassifier, held_out: Any) -> None:
    """The same digits dark on light, larger, off the middle, as JPEG."""
    images, labels = held_out
    files = []
    for image in images[:120]:
        page = PIL.Image.new("L", (150, 120), 235)
        ink = PIL.Image.fromarray((235 - image * (235 / 16)).astype(np.uint8)).resize(
            (64, 64), PIL.Image.Resampling.BICUBIC
        )
        page.paste(ink, (60, 20))
        files.append(encoded(page, "JPEG", quality=90))
    assert accuracy(digits, files, labels[:120]) >= 0.95


def test_an_image_is_given_as_bytes_base64_or_a_path(digits: ImageClassifier, held_out: Any, tmp_path: Path) -> None:
    (image, *_), (label, *_) = held_out
    file = png_of(image)
    (tmp_path / "digit.png").write_bytes(file)
    text = base64.b64encode(file).decode()
    digits.warmup()
    for given in (file, text, f"data:image/png;base64,{text}", tmp_path / "digit.png"):
        told = digits.classify(given, top_k=3)
        assert told.predictions[0].label == label
        assert len(told.predictions) == 3
        assert (told.model, told.request_id) == ("image-v1", "")
        assert told.latency_ms > 0
    assert digits.classify_batch([]) == []
    with pytest.raises(InvalidInput) as caught:
        digits.classify_batch([file, b"?"])
    assert caught.value.field == "image[1]"


@pytest.mark.parametrize("asked", [{}, {"image": RED, "image_url": "http://x"}, {"image": RED, "top_k": 0}])
def test_a_question_that_is_none_is_refused(digits: ImageClassifier, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        digits.classify(**asked)


def test_urls_are_fetched_where_that_is_allowed(digits: ImageClassifier, held_out: Any) -> None:
    with pytest.raises(NotSupported):
        digits.classify(image_url="http://example.com/digit.png")
    (image, *_), (label, *_) = held_out
    classifier = ImageClassifier(config=ALLOWED, way=here())
    with site(answer(png_of(image))) as found:
        told = classifier.classify(image_url=f"http://example.com:{found.port}/digit.png")
    assert told.predictions[0].label == label
    classifier.close()


def test_other_artifacts(tmp_path: Path) -> None:
    path = save_image_model(tmp_path / "colours", onnx=colour_net(), labels=COLOURS)
    classifier = ImageClassifier(path)
    assert classifier.classify(RED).predictions[0].label == "red"
    info = classifier.get_info()
    assert (info["model"], info["labels"], info["size"]) == ("colours-v1", COLOURS, [8, 8])
    with pytest.raises(InvalidInput, match="no image classifier"):
        ImageClassifier(builtin_path("shop"))


def test_the_three_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second as it is printed there, on a net of our own in the place of the export, whose tensors are as large; the third serves it."""
    from everloop.app.cli.commands import app

    page = (ROOT / "docs/showcase.md").read_text()
    (line,) = re.findall(r"^everloop (image pack .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("mobilenet.onnx").write_bytes(colour_net(size=224, softmax=False))
    Path("imagenet.txt").write_text("\n".join(COLOURS))
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    assert "images of 224 x 224 (RGB), 3 labels; it gives logits" in done.stderr
    assert "\neverloop serve image=mobilenet.artifact\n" in page
    told = ImageClassifier("mobilenet.artifact").classify(encoded(plain((250, 20, 60), (640, 480)), "JPEG"))
    assert told.predictions[0].label == "red"


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (["--size", "8x8", "--mean", "0.5", "--std", "0.5,0.5,0.5", "--crop", "1", "--json"], 0, '"mean": [0.5]'),
        (["--size", "big"], 2, "--size"),
        (["--mean", "a,b"], 2, "--mean"),
        (["--std", "0"], 1, "std"),
    ],
)
def test_the_command_and_what_it_refuses(tmp_path: Path, said: list[str], code: int, told: str) -> None:
    from everloop.app.cli.commands import app

    (tmp_path / "net.onnx").write_bytes(colour_net())
    (tmp_path / "labels.json").write_text(json.dumps(COLOURS))
    where = [str(tmp_path / "net.onnx"), "--labels", str(tmp_path / "labels.json"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["image", "pack", *where, *said])
    assert (done.exit_code, told in done.output) == (code, True), done.output


def test_what_the_page_on_images_draws_can_be_asked() -> None:
    """A digit as people draw one in a window: thick strokes, anti-aliased."""
    from PIL import ImageDraw

    page = PIL.Image.new("RGBA", (300, 300), (255, 255, 255, 0))
    ImageDraw.Draw(page).ellipse((90, 50, 210, 250), outline=(30, 30, 30, 255), width=28)
    out = io.BytesIO()
    page.save(out, "WEBP")
    assert ImageClassifier().classify(out.getvalue(), top_k=1).predictions[0].label == "0"
