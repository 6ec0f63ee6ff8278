"""PyTorch in all its forms: `python examples/runtimes/pytorch.py FOLDER` writes the files, says what to serve and a row to ask each.

A program of `torch.export` needs nobody's trust, weights with their code that of the code, and TorchScript that of whoever wrote it.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_digits, load_iris
from torch import nn

import everloop


class Gated(nn.Module):
    """Its `forward` decides by values, so it cannot be exported: it is served with this file's source."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.inner(x)
        return scores if bool((x.abs() < 1e3).all()) else torch.zeros_like(scores)


def trained(model: nn.Module, X: torch.Tensor, y: torch.Tensor, steps: int = 60) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    return model


def main(folder: Path) -> None:
    torch.manual_seed(0)
    iris = load_iris()
    X, y = torch.tensor(iris.data, dtype=torch.float32), torch.tensor(iris.target)
    names, kinds = ["sepal_length", "sepal_width", "petal_length", "petal_width"], iris.target_names
    flower = json.dumps(dict(zip(names, iris.data[0].tolist(), strict=True)))

    model = trained(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), X, y)
    print(f"iris={everloop.save_model(model, folder / 'iris.pt2', feature_names=names, classes=kinds)}")
    print(flower)

    gated = trained(Gated(4, 3), X, y)
    arguments = {"width": 4, "classes": 3}
    file = everloop.save_model(
        gated, folder / "gated.safetensors", example=X, feature_names=names, classes=kinds, arguments=arguments
    )
    print(f"gated={file} --trust-code {Path(__file__).name}:Gated")
    print(flower)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather see torch.export
        script = torch.jit.script(model.eval())
    print(
        f"script={everloop.save_model(script, folder / 'script.pt', feature_names=names, classes=kinds)} --trust-pickle"
    )
    print(flower)

    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    seeing = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    seeing = trained(seeing, images[:500], torch.tensor(digits.target[:500]), steps=20)
    print(f"digits={everloop.save_model(seeing, folder / 'digits.pt2', example=images[:2])}")
    asked = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": images[0].flatten().tolist()}
    print(json.dumps({"inputs": [asked]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
