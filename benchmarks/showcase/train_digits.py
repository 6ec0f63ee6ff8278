"""Train the built-in classifier of handwritten digits, and write its artifact and its report.

    python benchmarks/showcase/train_digits.py            → src/everloop/showcase/data/digits.artifact, benchmarks/showcase/digits.json

Data: `sklearn.datasets.load_digits`, 1,797 digits of 43 people, 8 x 8 pixels of 0 to 16, light on dark (E. Alpaydin and C. Kaynak, Optical
Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49; scikit-learn ships its test part).
A fifth of it, the same share of each digit, is held out (`everloop.app.bench.digits.split`) and looked at once, at the end; what was chosen (the net, its
training) was chosen by the last fifth of the remaining rows. The set does not tell who wrote a digit, so both parts have digits of the same people.

Both training and measuring see an image as the server does: encoded, decoded, cut to its ink, brought to 8 x 8. Training turns, shifts and
stretches it a little (`_moved`), since people do so; and a quarter of what it sees is no digit (`nothing_of`: blank, noise, digits with their
pixels or their strips shuffled, bars and blocks, letters), with all ten answers equally right, so that the net is not sure of what it does
not know. In the report `sure` is the median confidence in what was held out, `unsure` that in images without a digit that were not trained on.
Needs the extras `torch` and `images`; takes about a minute.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from everloop.app.bench.digits import SPLIT_SEED, png_of, split
from everloop.core.hashing import artifact_digest
from everloop.core.tensors import Tensor
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.image_saving import pack_image_model
from everloop.runtime.packaged import write_artifact
from everloop.runtime.picture import Preprocessing, decode, tensor_of

HERE = Path(__file__).parent
ARTIFACT = HERE.parents[1] / "src/everloop/showcase/data/digits.artifact"
REPORT = HERE / "digits.json"
TORCH_SEED = 7
EPOCHS, BATCH, RATE = 60, 64, 4e-3
NOTHING = 1 / 3
"""Of the digits' number, so many images more show none."""
LETTERS = "AEFHKMNRXWPV"
UNSEEN_LETTERS = "TY@&#%?kx+*"
"""Which a hand does not make of a digit's strokes. Drawn by Pillow's own font, at random sizes; the second are only asked about."""
RECORDED_BYTES = 4096
"""An image of a digit is recorded itself: it is small, and shadows can then be shown it."""
WANTED = Preprocessing(
    size=(8, 8), mode="L", fit="stretch", resample="box", invert="light_ground", trim=0.12, scale=1 / 255
)


def seen_as(files: list[bytes]) -> np.ndarray:
    """(n, 1, 8, 8), as the server sees them."""
    return tensor_of([decode(file, WANTED, 20_000, "image")[0] for file in files], WANTED, np.float32)


def net() -> Any:
    from torch import nn

    def block(given: int, made: int) -> list[Any]:
        return [nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]

    return nn.Sequential(
        *block(1, 24), *block(24, 24), nn.MaxPool2d(2), *block(24, 48), *block(48, 48), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.4), nn.Linear(48 * 4, 10),
    )  # fmt: skip


def fit(X: np.ndarray, y: np.ndarray, seed: int = TORCH_SEED) -> Any:
    """AdamW under one cycle of the rate, with label smoothing; the answer is the running average of the weights."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    images, labels = torch.tensor(X), torch.tensor(y, dtype=torch.long)
    model = net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    draws, letters = np.random.default_rng(seed), seen_as(letter_files(LETTERS))
    right = torch.nn.functional.one_hot(labels, 10).float()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            none = torch.tensor(nothing_of(draws, X, letters, math.ceil(len(rows) * NOTHING)))
            seen = torch.cat([_moved(images[rows]), none])
            wanted = torch.cat([right[rows], torch.full((len(none), 10), 0.1)])
            optimizer.zero_grad()
            loss_of(model(seen), wanted).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
    return average.module.eval()


def _moved(images: Any) -> Any:
    """Each a little turned, sheared, stretched and shifted."""
    import torch

    n = len(images)
    angle, shear = (torch.rand(2, n) - 0.5) * 0.5
    across, down = 1 + (torch.rand(2, n) - 0.5) * 0.24
    shift = (torch.rand(n, 2) - 0.5) * 0.28
    turn = torch.stack(
        [
            torch.stack([across * angle.cos(), across * (shear - angle.sin()), shift[:, 0]], 1),
            torch.stack([down * angle.sin(), down * angle.cos(), shift[:, 1]], 1),
        ],
        1,
    )
    grid = torch.nn.functional.affine_grid(turn, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def letter_files(letters: str) -> list[bytes]:
    """Each in several sizes and strengths."""
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    found = []
    for letter in letters:
        for size in (12, 24, 40, 90):
            for grey in (0, 110):
                page = PIL.Image.new("L", (140, 140), 255)
                font = PIL.ImageFont.load_default(size)
                PIL.ImageDraw.Draw(page).text((20, 10), letter, fill=grey, font=font, stroke_width=size // 30)
                found.append(_file(page))
    return found


def nothing_of(draws: np.random.Generator, digits: np.ndarray, letters: np.ndarray, n: int) -> np.ndarray:
    """(n, 1, 8, 8) that show no digit, of one kind each."""
    made = np.empty((n, 1, 8, 8), np.float32)
    for out in made[:, 0]:
        digit = digits[draws.integers(len(digits)), 0]
        kind = draws.integers(8)
        if kind == 0:  # blank
            out[:] = draws.choice([0.0, draws.random()])
        elif kind == 1:  # noise, of any strength
            out[:] = np.clip(draws.random() + draws.random() * draws.normal(size=(8, 8)), 0, 1)
        elif kind == 2:
            out[:] = draws.permutation(digit.ravel()).reshape(8, 8)
        elif kind == 3:  # strips of two, of several digits
            rows = digits[draws.integers(len(digits), size=4), 0]
            out[:] = np.concatenate([each[2 * draws.integers(4) :][:2] for each in rows])
        elif kind == 4:  # a block, or a frame that is no oval
            top, left = draws.integers(0, 3, 2)
            out[:] = 0
            out[top : 8 - draws.integers(3), left : 8 - draws.integers(3)] = 0.3 + 0.7 * draws.random()
        elif kind == 5:  # a bar across, or several
            out[:] = 0
            out[draws.integers(0, 8, draws.integers(1, 4))] = 0.3 + 0.7 * draws.random()
        elif kind == 6:  # spots
            out[:] = draws.random((8, 8)) < 0.3 * draws.random()
        else:
            out[:] = letters[draws.integers(len(letters)), 0]
    return made


def unsure(session: Any) -> dict[str, Any]:
    """How sure it is of images that show no digit: the largest probability, blank ones at most, others on average and at the 95th percentile."""
    import PIL.Image

    draws = np.random.default_rng(1)
    kinds = {
        "blank": [_file(PIL.Image.new("RGBA", (side, side), colour)) for side in (1, 28, 100)
                  for colour in ("white", "black", "grey", "red", (0, 0, 0, 0))],
        "noise": [_file(PIL.Image.fromarray(draws.integers(0, 256, (side, side), np.uint8))) for side in (8, 16, 64) for _ in range(100)],
        "letters": letter_files(UNSEEN_LETTERS),
    }  # fmt: skip
    told = {}
    for name, files in kinds.items():
        given = np.empty(len(files), object)
        given[:] = files
        arrays = session.tensors.take([Tensor("image", "BYTES", given)])
        told[name] = session.tensors.infer(arrays, ("probabilities",))["probabilities"].max(axis=1)
    return {
        name: {"images": len(found), "mean": round(float(found.mean()), 4), "p95": round(float(np.quantile(found, 0.95)), 4),
               "max": round(float(found.max()), 4)}
        for name, found in told.items()
    }  # fmt: skip


def _file(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def onnx_of(model: Any) -> bytes:
    """The net with the softmax behind it, for any number of images."""
    import torch

    whole = torch.nn.Sequential(model, torch.nn.Softmax(dim=1)).eval()
    program = torch.onnx.export(
        whole,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )
    out: bytes = program.model_proto.SerializeToString()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="Measure on the last fifth of the training rows only.")
    asked = parser.parse_args()
    from sklearn.datasets import load_digits

    images = load_digits().images
    target, train, held_out = split()
    files = [png_of(image) for image in images]
    X = seen_as(files)
    if asked.choose:
        cut = len(train) * 4 // 5
        train, held_out = train[:cut], train[cut:]
    manifest, payload = pack_image_model(
        onnx_of(fit(X[train], target[train])),
        [str(digit) for digit in range(10)],
        recorded_bytes=RECORDED_BYTES,
        **{name: getattr(WANTED, name) for name in ("fit", "resample", "invert", "trim", "scale")},
    )
    session = load_session(manifest, payload, trust=Trust())
    given = np.empty(len(held_out), object)
    given[:] = [files[i] for i in held_out]
    asked_for = ("prediction", "probabilities")
    answers = session.tensors.infer(session.tensors.take([Tensor("image", "BYTES", given)]), asked_for)
    right = answers["prediction"].astype(int) == target[held_out]
    accuracy, n = float(right.mean()), len(held_out)
    wrong = [
        {"row": int(i), "digit": int(target[i]), "answered": str(answer)}
        for i, answer, fine in zip(held_out, answers["prediction"], right, strict=True)
        if not fine
    ]
    report = {
        "data": "sklearn.datasets.load_digits",
        "rows": {"training": len(train), "held_out": n},
        "split_seed": SPLIT_SEED,
        "torch_seed": TORCH_SEED,
        "accuracy_held_out": round(accuracy, 6),
        "interval_95": [round(bound, 4) for bound in _wilson(int(right.sum()), n)],
        "wrong": wrong,
        "sure": round(float(np.median(answers["probabilities"].max(axis=1))), 4),
        "unsure": unsure(session),
        "parameters": sum(p.numel() for p in net().parameters()),
        "bytes": len(payload),
        "digest": artifact_digest(payload),
    }
    print(json.dumps(report, indent=2))
    if asked.choose:
        return
    import msgspec

    manifest = msgspec.structs.replace(manifest, metrics={"accuracy": accuracy}, lineage={"reason": report["data"]})
    print(write_artifact(ARTIFACT, manifest, payload))
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


def _wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


if __name__ == "__main__":
    main()
