"""What a connection of the fast lane puts in the place of uvicorn's flow control and of its events."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Reads on only when there is room. A request that waits for the rest of its body has none behind it, so that cannot lock up."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline and not self.write_paused:
            super().resume_reading()


class NobodyWaits:
    """In the place of the event that uvicorn sets for an ASGI application."""

    def set(self) -> None:
        return
