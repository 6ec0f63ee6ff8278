"""Who waits for tensors on a connection of the fast lane: what came, and how its answer is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everloop.api.http import oip_codec
from everloop.api.oip_infer import Chosen, answer_of
from everloop.core.errors import EverloopError
from everloop.core.types import request_id

if TYPE_CHECKING:
    from everloop.api.http.fastlane import FastLane
    from everloop.api.inference import InferAsked
    from everloop.serving.batcher import Batcher


class TensorTicket:
    """A `serving.tickets.Ticket` of one connection, which has no other request in flight."""

    __slots__ = ("_asked", "_chosen", "_connection")

    def __init__(self, connection: FastLane, asked: InferAsked, chosen: Chosen) -> None:
        self._connection = connection
        self._asked = asked
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
        connection, asked = self._connection, self._asked
        if connection.disconnected:
            return
        try:
            told = request_id(batcher.key, number)
            encoded = oip_codec.encode_infer(answer_of(asked, self._chosen, predictions, told, batcher.version), asked)
        except EverloopError as error:
            connection.fail(error)
            return
        if connection.observed is not None:
            connection.observed.settled(batcher, number, self._chosen.rows)
        json, _, tensors = connection.shared.answers.of(connection.server_state.default_headers)
        head = json if encoded.header_length is None else tensors % encoded.header_length
        connection.write(200, head, encoded.body)

    def fail(self, error: EverloopError) -> None:
        self._connection.fail(error)
