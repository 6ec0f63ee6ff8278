"""Modules that tests save with their code: a file of its own, as `everloop.save_model` asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Deciding(nn.Module):
    """Its `forward` decides by values, so it cannot be exported."""

    def __init__(self, width: int, bias: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 1)
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        if float(y.abs().sum()) > 1e9:
            y = y * 0
        return y + self.bias


class Seeing(nn.Module):
    """Several inputs of other types, several outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.words = nn.Embedding(9, 4)

    def forward(self, image: torch.Tensor, word: torch.Tensor, shown: torch.Tensor) -> dict[str, Any]:
        seen = self.look(image).mean((2, 3)) * shown.float()[:, None] + self.words(word)
        return {"seen": seen, "best": seen.argmax(1)}


class Counting(nn.Module):
    """Changes a weight of its own while it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return (x * self.count).sum(1)


class Doubling(nn.Module):
    """Changes its input in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2).sum(1)
