"""The Python half of everloop's bridge: functions of ordinary Python files, called from Node.

It needs msgspec and nothing else of the machine's packages. A module that is called through the bridge imports at most `fast`.
"""

from everloop_bridge.calls import fast

__all__ = ["fast"]
