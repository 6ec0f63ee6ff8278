"""Who waits for tensors on a connection of the fast lane: what came, and how its answer is written.

Two kinds: who asked by the Open Inference Protocol, and who asked about a text or a user and gets an answer in words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from everloop.api.http import codec, oip_codec
from everloop.api.oip_infer import Chosen, answer_of
from everloop.api.questions import Told, answer
from everloop.api.showcase import classes_of
from everloop.core.errors import EverloopError
from everloop.core.tensors import Tensors
from everloop.core.types import request_id

if TYPE_CHECKING:
    from everloop.api.http.fastlane import FastLane
    from everloop.api.inference import InferAsked
    from everloop.api.questions import Question
    from everloop.serving.batcher import Batcher


class _Waiting(ABC):
    """A `serving.tickets.Ticket` of one connection, which has no other request in flight."""

    __slots__ = ("_chosen", "_connection")

    def __init__(self, connection: FastLane, chosen: Chosen) -> None:
        self._connection = connection
        self._chosen = chosen

    @property
    def disconnected(self) -> bool:
        return self._connection.disconnected

    @property
    def caller(self) -> Any:
        return getattr(self._connection, "caller", None)

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        self.deliver_rows(prediction, batcher, number)

    def deliver_rows(self, predictions: Any, batcher: Batcher, number: int) -> None:
        connection = self._connection
        if connection.disconnected:
            return
        try:
            body, header_length = self._written(predictions, batcher, number)
        except EverloopError as error:
            connection.fail(error)
            return
        if connection.observed is not None:
            connection.observed.settled(batcher, number, self._chosen.rows)
        json, _, tensors = connection.shared.answers.of(connection.server_state.default_headers)
        connection.write(200, json if header_length is None else tensors % header_length, body)

    def fail(self, error: EverloopError) -> None:
        self._connection.fail(error)

    @abstractmethod
    def _written(self, found: Tensors, batcher: Batcher, number: int) -> tuple[bytes, int | None]:
        """The body, and how much of it is JSON where bytes follow. Raises EverloopError."""


class TensorTicket(_Waiting):
    """Waits for tensors, as tensors."""

    __slots__ = ("_asked",)

    def __init__(self, connection: FastLane, asked: InferAsked, chosen: Chosen) -> None:
        super().__init__(connection, chosen)
        self._asked = asked

    def _written(self, found: Tensors, batcher: Batcher, number: int) -> tuple[bytes, int | None]:
        told = request_id(batcher.key, number)
        encoded = oip_codec.encode_infer(
            answer_of(self._asked, self._chosen, found, told, batcher.version), self._asked
        )
        return encoded.body, encoded.header_length


class QuestionTicket(_Waiting):
    """Waits for the answer to a question."""

    __slots__ = ("_began", "_question")

    def __init__(self, connection: FastLane, question: Question, chosen: Chosen, began: float) -> None:
        super().__init__(connection, chosen)
        self._question = question
        self._began = began

    def _written(self, found: Tensors, batcher: Batcher, number: int) -> tuple[bytes, int | None]:
        classes = classes_of(self._connection.services, self._chosen, batcher.version)
        told = Told(self._question.model, batcher.version, classes, batcher.key, number, self._began)
        return codec.encode(answer(self._question, found, told)), None
