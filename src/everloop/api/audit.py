"""Who did what, and from where: one line of log and one event for every act that changes something.

The line goes to the logger `everloop.audit`. The event, of kind `audit`, goes to the timeline of the model that was acted on (of no model,
where it was the server), beside what the act itself tells there. What came to nothing, and what the door refused, is a line only: it has
changed nothing, and nobody must be able to fill a journal with it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from everloop.core.events import Event

if TYPE_CHECKING:
    from everloop.api.door import Caller
    from everloop.api.services import Services

DONE = "done"

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
    if outcome != DONE:
        return
    event = Event(model, "audit", services.clock.now(), message, data=data)
    services.journal.log(event)
    services.bus.emit(event)


def refused(operation: str, caller: Caller | None, *, address: str, code: str) -> None:
    """The door said no."""
    name = "nobody known" if caller is None else f"{caller.name} ({caller.id})"
    log.warning("%s by %s from %s: refused, %s", operation, name, address or "here", code)
