"""One group commit, wherever it is kept: what the queue held, and what becomes of its labels.

    Queued*  ──>  Group  ──>  the database: insert the predictions, look up what the labels refer to (`Found`)
                                │
                 Joiner(appends, found)  ──>  new examples and keys, and an outcome for each label

All that can be done before the commit is done by the `of` of what is queued, on the caller's thread, so that nothing that cannot
be stored ever joins a group. Predictions go in first, so that a label finds what was recorded before it. The joiner checks labels against what is
there and against each other; it touches no database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from everloop.core.errors import EverloopError, InvalidInput
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import Label, PredictionRecord, Scalar
from everloop.stores.joining import (
    Address,
    address_of,
    check_label,
    check_record,
    conflicting,
    dump_outcomes,
    event_values,
    no_such_row,
    not_found,
    pack_row,
    packed_row,
    reused_key,
    storable,
)
from everloop.stores.ports import AppendDone, Appended
from everloop.stores.rows import pack_answers

_encode = msgspec.json.Encoder().encode


class QueuedRecord(msgspec.Struct, frozen=True):
    parameters: tuple[Any, ...]
    size: int

    @classmethod
    def of(cls, record: PredictionRecord) -> QueuedRecord:
        """Raises InvalidInput: on the caller's thread, so that nothing that cannot be stored ever joins a group."""
        check_record(record)
        coding, answers = pack_answers(record.predictions)
        return cls(
            (
                storable(record.model, "model"),
                record.version,
                storable(record.lane_key, "lane_key"),
                record.first,
                record.count,
                record.rows,
                record.at,
                record.encoding,
                coding,
                answers,
                record.features,
                record.shadow,
            ),
            len(record.features) + len(answers) + 200,
        )


class QueuedEvent(msgspec.Struct, frozen=True):
    parameters: tuple[Any, ...]

    @classmethod
    def of(cls, event: Event) -> QueuedEvent:
        """Raises InvalidInput."""
        return cls(event_values(event))


class QueuedAppend(msgspec.Struct):
    """One call of `append`, with all that can be done before the commit done."""

    labels: Sequence[Label]
    texts: list[str]
    """The labels as JSON."""
    rows: list[tuple[Encoding, bytes] | None]
    addresses: list[Address | None]
    key: tuple[str, str] | None
    body: str
    at: float
    done: AppendDone

    @classmethod
    def of(cls, labels: Sequence[Label], done: AppendDone, *, key: str, body: str, at: float) -> QueuedAppend:
        """Raises InvalidInput."""
        texts: list[str] = []
        rows: list[tuple[Encoding, bytes] | None] = []
        addresses: list[Address | None] = []
        for label in labels:
            check_label(label)
            storable(label.model, "model")
            try:
                texts.append(_encode(label.label).decode())
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"label: {label.label!r} cannot be stored: {error}", field="label") from error
            if label.row is None:
                rows.append(None)
                addresses.append(address_of(label))
            else:
                rows.append(pack_row(label.row))
                addresses.append(None)
        return cls(
            labels,
            texts,
            rows,
            addresses,
            (labels[0].model, storable(key, "Idempotency-Key")) if key and labels else None,
            storable(body, "body"),
            at,
            done,
        )


class Group(msgspec.Struct):
    """What one transaction takes from the queue."""

    records: list[QueuedRecord]
    appends: list[QueuedAppend]
    events: list[QueuedEvent]


class Answered(msgspec.Struct, frozen=True):
    """The recorded prediction that a label refers to."""

    record: int
    """Its journal id."""
    model: str
    version: int
    count: int
    rows: int
    position: int
    """Which of its count * rows rows it is; 0 where the request had no such row."""
    encoding: Encoding
    features: bytes
    """That row, packed; empty where the encoding is msgpack: see `Found.features`."""
    answer: float | None
    """What was answered; None where it was no number: see `Found.answers`."""


class Found(msgspec.Struct, frozen=True):
    """What there is already of what the labels and keys of a group refer to."""

    labelled: dict[Address, tuple[int, Scalar, str]] = {}
    """Example, label and model. Below 0: the n-th new example of this group."""
    answered: dict[Address, Answered] = {}
    features: dict[int, bytes] = {}
    """All the features of a record, by its id, where they are msgpack."""
    answers: dict[int, list[Any]] = {}
    keys: dict[tuple[str, str], tuple[str, list[int | EverloopError]]] = {}
    """The body's digest and the outcomes."""


def addresses_of(appends: Sequence[QueuedAppend]) -> list[Address]:
    """Each once."""
    return list({address: None for one in appends for address in one.addresses if address is not None})


def keys_of(appends: Sequence[QueuedAppend]) -> list[tuple[str, str]]:
    return [one.key for one in appends if one.key is not None]


class Joiner:
    """The labels of one group: checked against what was found and against each other."""

    def __init__(self, appends: Sequence[QueuedAppend], found: Found) -> None:
        self._appends = appends
        self._found = found
        self.examples: list[tuple[Any, ...]] = []
        """The new ones, to be inserted in this order (`rows.EXAMPLE_COLUMNS`)."""
        self.appended = [self._take(one) for one in appends]
        """What became of each append. Final once `number` was called."""

    def number(self, last: int) -> None:
        """The new examples have ids up to `last`, without a gap."""
        base = last - len(self.examples)
        for one in self.appended:
            # The lists are shared with `_found.keys`, so a key keeps the final ids, too.
            one.outcomes[:] = [base - o if isinstance(o, int) and o < 0 else o for o in one.outcomes]

    def new_keys(self) -> list[tuple[Any, ...]]:
        """The new ones, to be inserted after `number` (`rows.KEY_COLUMNS`)."""
        return [
            (*a.key, a.body, dump_outcomes(o.outcomes).decode(), a.at)
            for a, o in zip(self._appends, self.appended, strict=True)
            if a.key is not None and self._found.keys.get(a.key, ("", None))[1] is o.outcomes
        ]

    def _take(self, one: QueuedAppend) -> Appended:
        if one.key is not None and one.key in self._found.keys:
            body, first = self._found.keys[one.key]
            if body != one.body:
                return Appended([reused_key(one.key[1]) for _ in one.labels])
            return Appended(list(first), duplicate=True)
        before = len(self.examples)
        outcomes = [self._add(one, i, label) for i, label in enumerate(one.labels)]
        accepted = any(isinstance(outcome, int) for outcome in outcomes)
        if one.key is not None and accepted:
            self._found.keys[one.key] = (one.body, outcomes)
        there = accepted and len(self.examples) == before and all(isinstance(o, int) for o in outcomes)
        return Appended(outcomes, duplicate=there)

    def _add(self, one: QueuedAppend, i: int, label: Label) -> int | EverloopError:
        packed = one.rows[i]
        if packed is not None:
            return self._keep(
                (label.model, one.texts[i], label.at, None, None, 0, None, None, label.validation, 0, *packed)
            )
        address = one.addresses[i]
        if address is None:
            return not_found(label)
        there = self._found.labelled.get(address)
        if there is not None and there[2] == label.model:  # what others were told of is nobody's to learn
            return there[0] if there[1] == label.label else conflicting(label, there[1])
        answered = self._found.answered.get(address)
        if answered is None:
            return not_found(label)
        if there is not None or answered.model != label.model:
            return not_found(label)
        if label.index >= answered.rows:
            return no_such_row(label, answered.rows)
        record, position = answered.record, answered.position
        row = answered.features
        if answered.encoding == "msgpack":
            whole = self._found.features[record]
            row = packed_row(answered.encoding, whole, answered.count * answered.rows, position)
        prediction = self._found.answers[record][position] if answered.answer is None else answered.answer
        example = self._keep(
            (
                label.model,
                one.texts[i],
                label.at,
                *address,
                _encode(prediction).decode(),
                answered.version,
                label.validation,
                record,
                answered.encoding,
                row,
            )
        )
        self._found.labelled[address] = (example, label.label, label.model)
        return example

    def _keep(self, parameters: tuple[Any, ...]) -> int:
        self.examples.append(parameters)
        return -len(self.examples)
