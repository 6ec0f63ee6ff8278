"""What this process remembers between calls: dry runs by function, and the costs of this machine's workers.

A dry run is remembered for a function *and* the kind and size of its items: the same function over larger arrays is other work. Where it
misleads all the same, the engine notices and asks for another plan.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from everloop.parallel.cost import MachineCosts
from everloop.parallel.identity import func_hash, length
from everloop.parallel.probe import Probe

if TYPE_CHECKING:
    from everloop.parallel.history import History

MOST = 256


@dataclass
class _Memory:
    probes: OrderedDict[tuple[object, ...], Probe] = field(default_factory=OrderedDict)
    costs: dict[str, MachineCosts] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_memory = _Memory()


def forget() -> None:
    """Everything: the next call measures anew."""
    with _memory.lock:
        _memory.probes.clear()
        _memory.costs.clear()


def remember(func: Callable[[Any], Any], probe: Probe, first: Any = None) -> None:
    key = _key(func, first)
    with _memory.lock:
        _memory.probes[key] = probe
        _memory.probes.move_to_end(key)
        while len(_memory.probes) > MOST:
            _memory.probes.popitem(last=False)


def recall(func: Callable[[Any], Any], first: Any = None) -> Probe | None:
    with _memory.lock:
        if not _memory.probes:
            return None
    key = _key(func, first)
    with _memory.lock:
        return _memory.probes.get(key)


def machine_costs(history: History) -> MachineCosts:
    """As kept in the history's folder, read once."""
    place = str(history.folder)
    with _memory.lock:
        known = _memory.costs.get(place)
    if known is None:
        from everloop.parallel import costs
        from everloop.parallel.fingerprint import get_fingerprint

        known = costs.load(history.folder, get_fingerprint().key)
        with _memory.lock:
            _memory.costs[place] = known
    return known


def keep_machine_costs(history: History, now: MachineCosts) -> None:
    from everloop.parallel import costs
    from everloop.parallel.fingerprint import get_fingerprint

    with _memory.lock:
        _memory.costs[str(history.folder)] = now
    costs.keep(history.folder, get_fingerprint().key, now)


def _key(func: Callable[[Any], Any], first: Any) -> tuple[object, ...]:
    return func_hash(func), type(first), _size(first).bit_length()


def _size(item: Any) -> int:
    """Something that grows with the item."""
    size = length(item)
    if size is not None:
        return size
    try:
        return int(item.nbytes)
    except Exception:  # an attribute of somebody else's, of whatever kind
        return sys.getsizeof(item, 0)
