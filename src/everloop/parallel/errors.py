"""What can go wrong with an item or a worker. All are `EverloopError`s, raised to the caller of `execute` or `stream`."""

from __future__ import annotations

from everloop.core.errors import EverloopError


class NotPicklable(EverloopError, TypeError):
    """The function, an item or a result cannot be sent between processes; the message says which part and what to do."""

    code = "not_picklable"
    fault = "caller"


class ItemFailed(EverloopError, RuntimeError):
    """An item failed in a way that its own exception cannot tell (that exception could not be sent back)."""

    code = "item_failed"
    fault = "model"


class WorkerDied(ItemFailed):
    """The worker that ran this item was killed or crashed, as often as was allowed: the item is poison."""

    code = "worker_died"


class ItemTimeout(ItemFailed, TimeoutError):
    """The item took longer than `timeout` seconds, as often as was allowed."""

    code = "item_timeout"


class CheckpointMismatch(EverloopError, ValueError):
    """The checkpoint file belongs to another function or to other data; nothing was overwritten."""

    code = "checkpoint_mismatch"
    fault = "caller"
