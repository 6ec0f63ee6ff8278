"""Every number that making a model faster came to: what is shown, and what the chosen form's manifest keeps (`lineage.optimization`).

All of it is JSON. With the original, the same rows and `seed`, `variants.optimise` comes to the same forms and the same differences; times
are the machine's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from everloop.optimization.evidence import Data
from everloop.optimization.opening import Cost
from everloop.optimization.parity import Parity
from everloop.policy.selection import Stretch

SERVED = "served"
"""The original as its runtime already answers from it: small linear models and trees compile when they are opened. Only compared with: what
it compiles to is a form of its own, which needs no library of the original's."""
Fate = Literal["chosen", "kept", "slower", "unfaithful", "not made"]
"""`kept`: part of what was chosen, or the original where another form was."""


class Form(msgspec.Struct, frozen=True):
    """One line of the table."""

    name: str
    runtime: str = ""
    fate: Fate = "not made"
    why: str = ""
    bytes: int = 0
    digest: str = ""
    exact: bool = True
    how: dict[str, Any] = {}
    parity: Parity | None = None
    seconds: list[float] = []
    """Of a call, for each of the sizes; the median."""
    rounds: list[list[float]] = []
    """For each of the sizes: the least and the most of the rounds."""
    cost: Cost | None = None
    """In a process of its own."""


class Figures(msgspec.Struct, frozen=True):
    original: str
    """The original's digest."""
    chosen: str
    """A form's name."""
    why: str
    """In one sentence."""
    data: Data
    sizes: list[int]
    """Rows of a call."""
    stretches: list[list[Any]]
    """From how many rows on which form answers."""
    forms: list[Form]
    """The original first."""
    wishes: dict[str, Any]
    machine: str
    load: list[float]
    """The machine's load averages before: times of a busy machine say less."""
    libraries: dict[str, str]
    seconds: float
    """That all of it took."""

    def form(self, name: str) -> Form:
        """Raises KeyError."""
        return {form.name: form for form in self.forms}[name]

    @property
    def speedups(self) -> list[float]:
        """Original, as it was trained, against chosen, for each of the sizes."""
        return self._against("original")

    @property
    def present(self) -> str:
        """What answers without any of this: the original may already be answered from a compiled form."""
        return _present({form.name: form for form in self.forms})

    @property
    def gains(self) -> list[float]:
        """What answers already against chosen, for each of the sizes."""
        return self._against(self.present)

    def gain(self, asked: Mapping[int, int]) -> float:
        """What answers already against chosen, over calls of so many rows -> how many there are of them; 1 where none of these was measured."""
        before, after = (
            math.fsum(asked.get(size, 0) * each for size, each in zip(self.sizes, self.form(name).seconds, strict=True))
            for name in (self.present, self.chosen)
        )
        return before / after if after else 1.0

    def _against(self, name: str) -> list[float]:
        before, after = self.form(name).seconds, self.form(self.chosen).seconds
        return [a / b for a, b in zip(before, after, strict=True)]


def _present(forms: Mapping[str, Form]) -> str:
    return SERVED if SERVED in forms and forms[SERVED].seconds else "original"


def reason(chosen: str, forms: Mapping[str, Form], sizes: Sequence[int], stretches: Sequence[Stretch]) -> str:
    """Why this form was chosen, in one sentence: what it gains on what answers already."""
    if chosen == "original":
        others = [form for form in forms.values() if form.fate == "slower"]
        if not others:
            return "the original stays: no other form could be made that answers alike"
        return "the original stays: no form that answers alike is faster"
    present = _present(forms)
    told = ", ".join(
        f"{times(a / b)} times as fast at {size:,} row{'s' * (size != 1)}"
        for size, a, b in zip(sizes, forms[present].seconds, forms[chosen].seconds, strict=True)
    )
    against = "against what is served already, " if present == SERVED else ""
    if len(stretches) == 1:
        return f"{against}{chosen} is {told}"
    which = ", ".join(f"{stretch.form} from {stretch.start:,}" for stretch in stretches)
    return f"{against}by number of rows ({which}) it is {told}"


def times(factor: float) -> str:
    """Three digits, no power of ten."""
    short = float(f"{factor:.3g}")
    return f"{short:,.0f}" if short >= 100 else f"{short:g}"
