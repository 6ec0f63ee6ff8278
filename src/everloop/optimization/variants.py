"""From one artifact the fastest form that still gives the same answers.

`optimise` makes the forms (`making`), lets each prove that it answers as the original does (`parity`), measures those that do, all in turns
(`measuring`) and each in a process of its own (`opening`), and chooses (`policy.selection`): one form, or one for each stretch of batch
sizes. What cannot be made, answers otherwise or is slower is told with its reason. The original itself is one of the forms, so the worst
that comes of it is the original.

What is chosen carries every number in its manifest, under `lineage["optimization"]`, and `verify` comes to them again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from everloop.core.errors import EverloopError, InvalidInput, NotSupported, explain
from everloop.core.hashing import artifact_digest
from everloop.core.types import Row, Scalar
from everloop.optimization.candidates import Candidate, answers, differs, same
from everloop.optimization.evidence import gather
from everloop.optimization.figures import SERVED, Fate, Figures, Form, reason
from everloop.optimization.labels import strangers
from everloop.optimization.making import Maker, Material, makers
from everloop.optimization.measuring import FEWEST, ROUNDS, contenders, measure, medians
from everloop.optimization.opening import Cost, measure_opening
from everloop.optimization.parity import Parity, judge
from everloop.parallel import fingerprint
from everloop.policy.selection import Rounds, Stretch, select, slowdown
from everloop.runtime.artifact import library_versions, load_session
from everloop.runtime.compiled import as_trained
from everloop.runtime.session import Session
from everloop.runtime.tensors import tensor_model
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from everloop.runtime.artifact import Trust

SIZES = (1, 8, 64)
MOST_ROWS = 1_000_000
BY_SIZE = "by-size"
Progress = Callable[[str], None]

_CHOICES = 4
"""How often it is chosen again, where what was chosen turns out to be slower than it had seemed."""
_SLOWER = 1.05
"""Times the seconds of another form, from which on a form is clearly slower."""

_LIBRARIES = (
    "everloop",
    "numpy",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "skl2onnx",
    "onnxmltools",
    "torch",
    "xgboost",
    "lightgbm",
    "catboost",
)


@dataclass(frozen=True)
class Wishes:
    """How far it may go."""

    int8: bool = False
    """Whether forms that round on purpose may be chosen: INT8 and FP16. They need given rows, and are judged best with labels."""
    sizes: tuple[int, ...] = SIZES
    """Rows of a call, at which forms are compared: these, and those that the server really sees."""
    loss: float = 0.005
    """What a form that rounds may cost: of accuracy as a share (0.005 are 0.5 points), of an error as a share of the original's."""
    rows: int = 20_000
    """On how many rows a form has to agree; given ones, and as many drawn from them as are missing. Fewer where the original is slow."""
    drawn: int | None = None
    """How many are drawn, however long that takes; None: as `rows` says."""
    max_seconds: float = 60.0
    """About what measuring and comparing may take."""
    combine: bool = True
    """Whether several forms may be put together, each for the sizes at which it is fastest."""
    open_apart: bool = True
    """Whether each form is opened in a process of its own, for its memory and the seconds it takes."""
    only: tuple[str, ...] | None = None
    """Names of the forms that are tried; None: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) > 1_000_000:
            raise InvalidInput(f"sizes: expected numbers of rows from 1 to 1000000, got {self.sizes}", field="sizes")
        if not 0 <= self.loss < 1:
            raise InvalidInput(f"loss: expected a share from 0 to below 1, got {self.loss}", field="loss")
        for name, rows, least in (("rows", self.rows, 1), ("drawn", self.drawn, 0)):
            if rows is not None and not least <= rows <= MOST_ROWS:
                raise InvalidInput(f"{name}: expected from {least} to {MOST_ROWS} rows, got {rows}", field=name)
        if not 0 < self.max_seconds < float("inf"):
            raise InvalidInput(f"max_seconds: expected seconds above 0, got {self.max_seconds}", field="max_seconds")


@dataclass(frozen=True)
class Report:
    chosen: Candidate
    """Its manifest's `lineage["optimization"]` holds `figures`."""
    figures: Figures
    candidates: list[Candidate] = field(default_factory=list, repr=False)
    """All that were made and agree, the original first."""

    @property
    def changed(self) -> bool:
        """Whether another form than the original was chosen."""
        return self.chosen.name != "original"

    @property
    def why(self) -> str:
        return self.figures.why


def optimise(
    manifest: Manifest,
    payload: bytes,
    rows: Sequence[Row],
    labels: Sequence[Scalar] | None = None,
    *,
    wishes: Wishes = Wishes(),
    trust: Trust,
    progress: Progress | None = None,
) -> Report:
    """`rows`: checked, in the schema's order, as `Schema.rows` gives them; without any, some are made up and nothing may round. `labels`:
    one a row, of the target's kind.

    Raises InvalidInput, NotSupported (a model that is asked by tensors), and what opening and asking the original raises."""
    with ExitStack() as stack:
        return _Attempt(
            _Task(manifest, payload, rows, labels, wishes, trust), progress or (lambda _: None), stack
        ).run()


@dataclass(frozen=True)
class _Task:
    """What `optimise` was given."""

    manifest: Manifest
    payload: bytes
    rows: Sequence[Row]
    labels: Sequence[Scalar] | None
    wishes: Wishes
    trust: Trust

    def check(self) -> None:
        if not self.manifest.schema.fields or self.manifest.task == "tensors":
            raise NotSupported("this model is asked by tensors: there are no rows to compare its forms on")
        if self.labels is not None and len(self.labels) != len(self.rows):
            raise InvalidInput(
                f"labels: expected one for each of {len(self.rows)} rows, got {len(self.labels)}", field="labels"
            )
        strangers(self.labels or (), self.manifest.classes)


class _Attempt:
    """One run of `optimise`: what is known so far of each form."""

    def __init__(self, task: _Task, say: Progress, stack: ExitStack) -> None:
        task.check()
        self.begun = time.monotonic()
        self.load = [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else []
        self.task, self.say, self.stack = task, say, stack
        self.manifest, self.payload = task.manifest, task.payload
        self.wishes, self.trust = task.wishes, task.trust
        self.sizes = sorted(set(task.wishes.sizes))
        self.candidates: dict[str, Candidate] = {}
        self.sessions: dict[str, Session] = {}
        """Of those that agree."""
        self.forms: dict[str, Form] = {}

    def run(self) -> Report:
        wishes = self.wishes
        original = Candidate("original", as_trained(self.manifest), self.payload, how={"by": "training"})
        session = self._open(original)
        self.signature = tensor_model(session).signature
        self.say("asking the original")
        self.evidence = evidence = gather(
            session,
            self.task.rows,
            self.task.labels,
            total=wishes.rows,
            drawn=wishes.drawn,
            seconds=wishes.max_seconds / 16,
            calibrate=wishes.int8,
            loss=wishes.loss,
            seed=wishes.seed,
        )
        if refused := evidence.data.refused:
            self.say(
                f"{refused:,} row{'s are' if refused > 1 else ' is'} refused by the original: nothing is compared on them"
            )
        self._admit(original, session, None)
        material = Material(self.manifest, self.payload, evidence.shown, evidence.shown_labels, self.trust)
        if original.manifest != self.manifest:
            self._try(Maker(SERVED, lambda given: (given.manifest, given.payload), {"by": "loading"}), material)
        made_up = evidence.data.source == "made up"
        for maker in makers(int8=wishes.int8 and not made_up):
            if wishes.only is None or maker.name in wishes.only:
                self._try(maker, material)
        if wishes.int8 and made_up:
            self.forms["int8"] = Form("int8", why="there are no examples to prove it on", exact=False)
        self.say(f"measuring {', '.join(self.sessions)}")
        taken = self._measure(list(self.sessions), wishes.max_seconds / 16, FEWEST)
        hopeful = contenders({name: self.forms[name].seconds for name in self.sessions if name != SERVED})
        if len(hopeful) > 1:
            self.say(f"measuring {', '.join(hopeful)} again")
            served = [SERVED] if SERVED in self.sessions else []
            taken = self._measure([*hopeful, *served], wishes.max_seconds / 4)
        chosen, stretches = self._settle({name: taken[name] for name in hopeful})
        return self._report(chosen, stretches)

    # -- making and judging --

    def _open(self, candidate: Candidate) -> Session:
        session = load_session(candidate.manifest, candidate.payload, trust=self.trust)
        self.stack.enter_context(closing(session))
        return session

    def _try(self, maker: Maker, material: Material) -> None:
        """Make it, and let it prove itself; what becomes of it is in `forms`."""
        self.say(f"making {maker.name}")
        refused = Form(maker.name, exact=maker.exact, how=maker.how)
        try:
            manifest, payload = material.made[maker.name] = maker.make(material)
        except EverloopError as error:
            self.forms[maker.name] = msgspec.structs.replace(refused, why=error.message)
            return
        except Exception as error:  # a converter's own trouble costs its form, never the others
            self.forms[maker.name] = msgspec.structs.replace(refused, why=f"making it failed: {explain(error)}")
            return
        candidate = Candidate(maker.name, manifest, payload, maker.exact, maker.how)
        twin = next((each.name for each in self.candidates.values() if same(each, candidate)), None)
        different = differs(self.manifest, manifest) or (f"the same as {twin}" if twin is not None else "")
        if different:
            self.forms[maker.name] = _form(candidate, "not made", different)
            return
        try:
            session = self._open(candidate)
            parity = judge(self.evidence, session, exact=maker.exact)
        except Exception as error:  # whatever a form raises where the original answers
            self.forms[maker.name] = _form(candidate, "unfaithful", explain(error))
            return
        if not answers(self.signature, tensor_model(session).signature):
            why = "it is asked by other tensors: clients of the Open Inference Protocol would have to change"
            self.forms[maker.name] = _form(candidate, "unfaithful", why, parity)
            return
        if parity.passed:
            self._admit(candidate, session, parity)
        else:
            self.forms[maker.name] = _form(candidate, "unfaithful", parity.why, parity)

    def _admit(self, candidate: Candidate, session: Session, parity: Parity | None) -> None:
        """To what is measured, if it also opens where nothing is loaded yet."""
        form = _form(candidate, "slower", parity.why if parity is not None else "", parity)
        if self.wishes.open_apart:
            cost = self._cost(candidate)
            form = msgspec.structs.replace(form, cost=cost)
            if cost.error and candidate.name != "original":
                told = f"it cannot be used in a process of its own: {cost.error}"
                self.forms[candidate.name] = msgspec.structs.replace(form, fate="unfaithful", why=told)
                return
        self.forms[candidate.name] = form
        self.candidates[candidate.name] = candidate
        self.sessions[candidate.name] = session

    def _cost(self, candidate: Candidate) -> Cost:
        if candidate.name == SERVED and (known := self.forms["original"].cost) is not None:
            return known
        self.say(f"opening {candidate.name} in a process of its own")
        return measure_opening(candidate.manifest, candidate.payload, self.evidence.rows[:8], trust=self.trust)

    # -- measuring and choosing --

    def _measure(self, names: Sequence[str], seconds: float, rounds: int = ROUNDS) -> Rounds:
        taken = measure(
            {name: self.sessions[name] for name in names},
            self.evidence.rows[: self.evidence.data.rows],
            self.sizes,
            seconds=seconds,
            rounds=rounds,
            seed=self.wishes.seed,
        )
        for name, by_size in medians(taken).items():
            self.forms[name] = msgspec.structs.replace(
                self.forms[name], seconds=by_size, rounds=[[min(each), max(each)] for each in taken[name]]
            )
        return taken

    def _settle(self, compared: Rounds) -> tuple[Candidate, list[Stretch]]:
        """One candidate, and which form answers which sizes in it: a form for all sizes, or several put together.

        No form is taken at one measurement's word. What is chosen is measured once more; if it then turns out to be clearly slower than
        what it would replace, the choice is made again without it, and ends at the original."""
        left, combine = dict(compared), self.wishes.combine
        for _ in range(_CHOICES):
            stretches, single = (
                select(self.sizes, left, original="original", combine=several) for several in (combine, False)
            )
            if stretches == [Stretch(1, "original")]:
                break
            candidate = self._reopened(stretches)
            if candidate is not None and not self._slower(candidate, stretches, single[0].form):
                return candidate, stretches
            if len(stretches) > 1:
                combine = False
            else:
                del left[stretches[0].form]
            if not left:
                break
        return self.candidates["original"], [Stretch(1, "original")]

    def _reopened(self, stretches: list[Stretch]) -> Candidate | None:
        """What was chosen, in a session of its own; None where several forms cannot be put together, as `forms` then tells."""
        if len(stretches) == 1:
            candidate = self.candidates[stretches[0].form]
            self.sessions[candidate.name] = self._open(candidate)  # a form's time may be the luck of its session
            return candidate
        from everloop.runtime.by_size import combine

        parts = [self.candidates[stretch.form] for stretch in stretches]
        how = {"by": "size", "stretches": [[stretch.start, stretch.form] for stretch in stretches]}
        exact = all(part.exact for part in parts)
        try:
            manifest, payload = combine(
                [(stretch.start, part.manifest, part.payload) for stretch, part in zip(stretches, parts, strict=True)]
            )
            candidate = Candidate(BY_SIZE, manifest, payload, exact, how)
            session = self._open(candidate)
        except EverloopError as error:
            self.forms[BY_SIZE] = Form(BY_SIZE, why=error.message, exact=exact, how=how)
            return None
        parities = [parity for stretch in stretches if (parity := self.forms[stretch.form].parity) is not None]
        self._admit(candidate, session, max(parities, key=lambda parity: parity.worst))
        return self.candidates.get(BY_SIZE)

    def _slower(self, chosen: Candidate, stretches: list[Stretch], single: str) -> bool:
        """Whether it is clearly slower, at some size, than what answers already; or, put together of several, than the one form that would
        be chosen instead, if that one is nowhere slower than what answers already."""
        present = SERVED if SERVED in self.sessions else "original"
        others = {present, single} - {chosen.name}
        beside = sorted(others | {stretch.form for stretch in stretches} - {chosen.name})
        self.say(f"measuring {chosen.name} once more beside {', '.join(beside)}")
        taken = self._measure([chosen.name, *beside], self.wishes.max_seconds / 8)
        if single not in (present, chosen.name) and self._slower_at(taken[single], taken[present]):
            others.discard(single)
        for other in sorted(others):
            if size := self._slower_at(taken[chosen.name], taken[other]):
                why = f"measured once more, it is slower than {other} at {size:,} row{'s' * (size != 1)}"
                self.forms[chosen.name] = msgspec.structs.replace(self.forms[chosen.name], why=why)
                return True
        return False

    def _slower_at(self, ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> int | None:
        """The first size at which it is clearly slower, by the seconds of each round at each size."""
        each = zip(self.sizes, ours, theirs, strict=True)
        return next((size for size, our, their in each if slowdown(our, their) > _SLOWER), None)

    # -- telling --

    def _report(self, chosen: Candidate, stretches: list[Stretch]) -> Report:
        parts = {stretch.form for stretch in stretches}
        for name in self.sessions:
            fate: Fate = (
                "chosen" if name == chosen.name else "kept" if name in parts | {"original", SERVED} else "slower"
            )
            self.forms[name] = msgspec.structs.replace(self.forms[name], fate=fate)
        figures = Figures(
            original=artifact_digest(self.payload),
            chosen=chosen.name,
            why=reason(chosen.name, self.forms, self.sizes, stretches),
            data=self.evidence.data,
            sizes=self.sizes,
            stretches=[[stretch.start, stretch.form] for stretch in stretches],
            forms=list(self.forms.values()),
            wishes=msgspec.json.decode(msgspec.json.encode(self.wishes)),
            machine=fingerprint.get_fingerprint().line(),
            load=self.load,
            libraries=library_versions(*_LIBRARIES),
            seconds=round(time.monotonic() - self.begun, 2),
        )
        lineage = {**chosen.manifest.lineage, **self.manifest.lineage, "optimization": msgspec.to_builtins(figures)}
        base = self.manifest if chosen.name == "original" else chosen.manifest
        manifest = msgspec.structs.replace(base, lineage=lineage, metrics=self.manifest.metrics)
        made = Candidate(chosen.name, manifest, chosen.payload, chosen.exact, chosen.how)
        return Report(made, figures, [self.candidates[name] for name in self.sessions])


def _form(candidate: Candidate, fate: Fate, why: str, parity: Parity | None = None) -> Form:
    return Form(
        candidate.name,
        candidate.manifest.runtime,
        fate,
        why,
        len(candidate.payload),
        artifact_digest(candidate.payload),
        candidate.exact,
        candidate.how,
        parity,
    )
