"""Who did what, and from where: one line of log and one event for every act that changes something.

The line goes to the logger `everloop.audit`. The event, of kind `audit`, goes to the timeline of the model that was acted on (of no model,
where it was the server), beside what the act itself tells there. What came to nothing, what was only read, and what the door refused, is
a line only: it has changed nothing, and nobody must be able to fill a journal with it. Nor a log: of refusals there are at most
`MOST_REFUSALS` lines a second, and how many were left out is told with the next.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from everloop.core.clock import SystemClock
from everloop.core.events import Event
from everloop.policy.quota import Bucket

if TYPE_CHECKING:
    from everloop.api.door import Caller
    from everloop.api.services import Services
    from everloop.core.clock import Clock

DONE = "done"
MOST_REFUSALS = 10

log = logging.getLogger("everloop.audit")


def audit(
    services: Services,
    operation: str,
    caller: Caller,
    *,
    address: str,
    outcome: str,
    model: str = "",
    target: str = "",
    via: str = "http",
    reading: bool = False,
) -> None:
    """`operation`: its name in the table of operations. `outcome`: `done`, or the code of the error. `target`: what was asked for, without
    its contents: a path. `address`: where from."""
    data: dict[str, Any] = {
        "operation": operation,
        "by": caller.name,
        "key": caller.id,
        "from": address,
        "via": via,
        "outcome": outcome,
        "target": target[:500],
    }
    message = (
        f"{operation} by {caller.name}{f' ({caller.id})' if caller.id else ''} from {address or 'here'}: {outcome}"
    )
    log.info("%s: %s", model or "server", message, extra={"facts": {**data, "model": model}})
    if outcome != DONE or reading:
        return
    event = Event(model, "audit", services.clock.now(), message, data=data)
    services.journal.log(event)
    services.bus.emit(event)


class Refusals:
    """What the door refused, in lines. Safe from any thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._bucket = Bucket(MOST_REFUSALS, MOST_REFUSALS, self._clock.monotonic())
        self._left_out = 0

    def tell(self, operation: str, caller: Caller | None, *, address: str, code: str) -> None:
        with self._lock:
            if self._bucket.take(self._clock.monotonic()) > 0.0:
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
        name = "nobody known" if caller is None else f"{caller.name} ({caller.id})"
        more = f" ({left_out} more before it)" if left_out else ""
        log.warning("%s by %s from %s: refused, %s%s", operation, name, address or "here", code, more)
