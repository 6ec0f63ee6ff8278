"""The fast lane: predictions, inference and labels answered inside uvicorn's protocol class, without ASGI.

    connection ─► process ─► decode ─► batcher / intake ─► … ─► one transport.write
                     └► whatever is not plainly a fast request ─► the Starlette app

Everything that is not plainly a fast request goes uvicorn's own way, to the app that serves the very same routes: other
routes and methods, query strings, chunked bodies, `Expect`, upgrades, `Connection: close`, HTTP/1.0, requests that pipeline
behind an unanswered one, large bodies, content types that are not JSON, requests of foreign pages, unknown models, a server
that drains. Where the fast lane finds that out only after reading the body, it hands the request over with its body.

How bytes become requests and answers become bytes is `http.connection`'s.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from everloop.api.http import codec, oip_codec
from everloop.api.http.connection import Connection
from everloop.api.http.fast_tensors import QuestionTicket, TensorTicket
from everloop.api.http.heads import Head, refusal_head
from everloop.api.http.operations import OPERATIONS
from everloop.api.http.problems import problem
from everloop.api.http.showcase_codec import decode_question
from everloop.api.oip_infer import choose, deadline_of
from everloop.core.errors import EverloopError, InvalidInput, Malformed

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from everloop.api.http.shared import Shared
    from everloop.api.observing import Observer
    from everloop.api.services import Services
    from everloop.serving.batcher import Batcher
    from everloop.stores.ports import Appended


class _Wire:
    """What the fast lane keeps for one lane's batcher."""

    __slots__ = ("several", "single", "width")

    def __init__(self, batcher: Batcher, most_features: int) -> None:
        template = codec.AnswerTemplate(batcher.version, batcher.key)
        self.single = template.single
        self.several = template.several
        schema = batcher.runner.schema
        width = len(schema.fields)
        self.width = width if schema.numeric and width <= most_features else -1
        """How long a plain row is; -1 where rows are never plain numbers."""


_ROUTES = {operation.id: operation.path for operation in OPERATIONS}
_ROLES = {operation.id: operation.role for operation in OPERATIONS}


class FastLane(Connection):
    """A connection that answers. As a `serving.tickets.Ticket` it stands for its one request that is in flight."""

    # -- through --

    def process(self, known: Head, body: bytes) -> None:
        """Decode and submit. Must not raise: it may run inside the parser."""
        services = self.services
        if not known.name:
            known.name = getattr(services.showcase, _ROLES[known.verb])
        if services.observer is not None:
            self._observe(services.observer, known)
        if services.door.closed and not self._let_in(known):
            return
        table = self._table.current
        lane = table.lanes.get(known.name)
        if lane is None or services.draining:
            # Why there is none, the registry knows, and the first labels of a model fix its schema: both may touch a disk.
            self.hand_over(known, body)
            return
        try:
            if known.verb != "predict":
                if not _OTHERS[known.verb](self, known, body):
                    self.hand_over(known, body)
                return
            asked = codec.decode_usual(body, services.limits)
            unit, arm = codec.unit_of(asked, known.unit), None
            if known.name in table.splits:
                arm = table.splits[known.name].route(unit)
                lane = arm.lane
            self.batcher = batcher = lane.batcher_for(self.loop)
            deadline = None if known.timeout is None else perf_counter() + known.timeout
            if isinstance(asked, codec.PlainRow):
                if len(asked.features) == self._wire(batcher).width:
                    batcher.submit(self, asked.features, arm, deadline)
                    return
                asked = codec.decode_predict(body, services.limits)
            if asked.instances is not None:
                batcher.submit_rows(self, lane.checked(asked.instances), arm, deadline)
            else:
                assert asked.features is not None
                batcher.submit(self, lane.schema.row(asked.features), arm, deadline)
        except (InvalidInput, Malformed) as error:
            self.fail(error)
        except EverloopError as error:
            if error.code in ("overloaded", "draining", "deadline_exceeded"):
                self.fail(error)
            else:
                self.hand_over(known, body)
        except Exception:
            # A defect: the app meets it again, logs it and answers 500.
            self.hand_over(known, body)

    def _let_in(self, known: Head) -> bool:
        """Whether the caller may, who is known with the head. If not, the answer has been written."""
        door = self.services.door
        try:
            if known.caller is None or not door.stands(known.caller):
                known.caller = None
                known.caller = door.enter(known.credential)
            door.allow(known.caller, "feedback" if known.verb == "feedback" else "predict", known.name)
        except EverloopError as error:
            address = self.client[0] if self.client else ""
            self.services.refusals.tell(known.verb, known.caller, address=address, code=error.code)
            self.fail(error)
            return False
        return True

    def _infer(self, known: Head, body: bytes) -> bool:
        """False: it names a version that not everybody may. Raises EverloopError."""
        services = self.services
        asked = oip_codec.decode_infer(known.name, known.version, body, known.json_length, known.unit)
        number = None
        if known.version:
            number = int(known.version)
            if self._table.current.lanes[known.name].version != number:
                return False
        chosen = choose(services, asked, number)
        deadline = None if known.timeout is None else perf_counter() + known.timeout
        deadline = deadline_of(asked.parameters, deadline)
        self.batcher = batcher = chosen.lane.tensors_for(self.loop)
        batcher.submit_payload(TensorTicket(self, asked, chosen), chosen.payload, chosen.rows, chosen.arm, deadline)
        return True

    def _ask(self, known: Head, body: bytes) -> bool:
        """False: it names a model that the door has not looked at. Raises EverloopError."""
        services, began = self.services, perf_counter()
        question = decode_question(known.verb, body, services.showcase)
        if question.model != known.name:
            return False
        asked = question.asked(self._table.current.lanes[known.name])
        if known.unit is not None:
            asked.parameters = {"unit": codec.text_of_unit(known.unit)}
        chosen = choose(services, asked)
        deadline = None if known.timeout is None else began + known.timeout
        self.batcher = batcher = chosen.lane.tensors_for(self.loop)
        ticket = QuestionTicket(self, question, chosen, began)
        batcher.submit_payload(ticket, chosen.payload, chosen.rows, chosen.arm, deadline)
        return True

    def _label(self, known: Head, body: bytes) -> bool:
        services = self.services
        items = codec.decode_feedback(body, services.limits)
        services.intake.accept(known.name, items, partial(self.shared.call_soon, self.committed))
        return True

    def _wire(self, batcher: Batcher) -> _Wire:
        wire: _Wire | None = batcher.wire
        if wire is None:
            wire = batcher.wire = _Wire(batcher, self.services.limits.max_features)
        return wire

    def _observe(self, observer: Observer, known: Head) -> None:
        self.observed = observer.begin(
            "POST",
            known.url,
            _ROUTES[known.verb],
            known.request_id,
            self.client,
            known.traceparent,
        )

    # -- out: a ticket's methods, on the loop's thread --

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        if self.disconnected:
            return
        try:
            body = self._wire(batcher).single % (codec.encode(prediction), number)
        except (TypeError, ValueError) as error:
            self.fail(batcher.runner.failed(f"its answer cannot be written as JSON: {error}"))
            return
        if self.observed is not None:
            self.observed.settled(batcher, number, 1)
        self.write(200, self.shared.answers.of(self.server_state.default_headers)[0], body)

    def deliver_rows(self, predictions: list[Any], batcher: Batcher, number: int) -> None:
        if self.disconnected:
            return
        try:
            body = self._wire(batcher).several % (codec.encode(predictions), number)
        except (TypeError, ValueError) as error:
            self.fail(batcher.runner.failed(f"its answers cannot be written as JSON: {error}"))
            return
        if self.observed is not None:
            self.observed.settled(batcher, number, len(predictions))
        self.write(200, self.shared.answers.of(self.server_state.default_headers)[0], body)

    def committed(self, result: Appended | EverloopError) -> None:
        """The labels of this request are durable, or they are not."""
        if self.disconnected:
            return
        refused = result if isinstance(result, EverloopError) else codec.refused_whole(result)
        if refused is not None or isinstance(result, EverloopError):
            self.fail(cast("EverloopError", refused))
            return
        head = self.shared.answers.of(self.server_state.default_headers)[1]
        self.write(202, head, codec.encode_feedback(result))

    def fail(self, error: EverloopError) -> None:
        if self.disconnected:
            return
        known = self.head
        assert known is not None
        services = self.services
        services.traffic.refuse(known.verb, error)
        if self.observed is not None:
            self.observed.code = error.code
        made = services.errors.heard(known.verb, error, request_id=known.request_id, model=known.name)
        refused = problem(error, request_id=made)
        head = refusal_head(refused, self.server_state.default_headers)
        self.write(refused.status, head, refused.body)


_OTHERS: dict[str, Callable[[FastLane, Head, bytes], bool]] = {
    "feedback": FastLane._label,
    "infer": FastLane._infer,
    "infer_version": FastLane._infer,
    "predict_sentiment": FastLane._ask,
    "predict_batch": FastLane._ask,
    "predict_recommend": FastLane._ask,
}
"""Of operations besides `predict`: who reads and submits them. What answers False is handed over to the app."""


def make_protocol(services: Services) -> type[FastLane]:
    """The protocol class of one server: hand it to uvicorn as `http=`."""
    servers: weakref.WeakKeyDictionary[ServerState, Shared] = weakref.WeakKeyDictionary()
    return type("FastLane", (FastLane,), {"services": services, "servers": servers})
