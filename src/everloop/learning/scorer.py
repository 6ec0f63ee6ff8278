"""The probabilities behind answers that were labelled, asked of the versions that gave them, for `learning.quality`.

What is recorded of a request is its answer, not its scores: they are computed again, on the labelled rows, by a session of the
learner's own. That is off the way of a request, and it may take `SHARE` of the time at most: while labels come faster than a model can
be asked, it is asked about some of them. A version that cannot be opened, or whose scores are no probabilities, is not asked again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from everloop.core.clock import Clock
from everloop.core.errors import ModelFailed, NotSupported, explain
from everloop.core.types import Row
from everloop.learning.champion import Champion
from everloop.learning.quality import Scores
from everloop.policy.scores import probable
from everloop.runtime.session import Matrix, Session

SHARE = 0.1
_MOST_CREDIT = 0.25
"""Seconds of computing that can be saved up while there are no labels."""
_BLOCK = 64
"""Rows asked about at once: what may be computed beyond what there is time for."""
_MOST_OPEN = 2
"""Sessions beside the champion's: a challenger's, and that of the version before."""
_IDLE = 60.0
"""Seconds after which one of them that nobody has asked is closed: it may have a process of its own."""
_MOST_STRIKES = 10
"""Times in a row that a version may raise, or answer something else than probabilities."""
_MOST_REFUSED = 64


class Scorer:
    """Owned by one thread, but for `close`, after which it asks nobody."""

    def __init__(self, open_version: Callable[[int], Session], clock: Clock, cpu: Callable[[], float]) -> None:
        """`open_version` gives a session that is this scorer's to close, here or in a process of its own; may raise anything. `cpu`:
        seconds of processor time of this thread."""
        self._open_version = open_version
        self._clock = clock
        self._cpu = cpu
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._asked: dict[int, float] = {}
        """When each was asked for the last time."""
        self._waited = 0.0
        """Seconds for answers that were computed elsewhere: they count like this thread's own."""
        self._credit, self._at = _MOST_CREDIT, clock.monotonic()
        self.refused: dict[int, str] = {}
        """Versions that have no scores, and why."""
        self._strikes: dict[int, int] = {}

    def scores(self, version: int, rows: Sequence[Row], champion: Champion | None) -> Scores | None:
        """Of some or all of these rows; None where the version has none, or where there is no time."""
        now = self._clock.monotonic()
        self._credit, self._at = min(self._credit + SHARE * (now - self._at), _MOST_CREDIT), now
        if version in self.refused or self._credit <= 0:
            return None
        self._close_idle(now)
        started = self._spent()
        try:
            found = self._ask(version, rows, champion, started)
        except NotSupported as error:
            self._refuse(version, error.message)
        except Exception as error:  # whatever a model raises: its quality is without these rows' scores
            self._strikes[version] = self._strikes.get(version, 0) + 1
            if version not in self._sessions and (champion is None or champion.version != version):
                self._refuse(version, f"it cannot be opened: {explain(error)}")
            elif self._strikes[version] >= _MOST_STRIKES:
                self._refuse(version, explain(error))
        else:
            self._strikes.pop(version, None)
            return found
        finally:
            self._credit -= self._spent() - started
        return None

    def close(self) -> None:
        while self._sessions:
            self._sessions.popitem()[1].close()

    def _ask(self, version: int, rows: Sequence[Row], champion: Champion | None, started: float) -> Scores:
        session = self._session(version, champion)
        if session.classes is None:
            raise NotSupported("it has no classes that scores could be of")
        parts: list[npt.NDArray[np.float64]] = []
        done = 0
        while done < len(rows) and (done == 0 or self._spent() - started < self._credit):
            block = rows[done : done + _BLOCK]
            schema = session.schema
            X = schema.matrix(block, session.dtype if schema.numeric else None)
            values = session.scores(X) if version not in self._sessions else self._wait_for(session, X)
            if values is None:
                raise NotSupported("it gives no probabilities")
            if values.shape != (len(block), len(session.classes)):
                raise NotSupported(f"its scores have shape {values.shape} for {len(block)} rows")
            parts.append(np.asarray(values, np.float64))
            done += len(block)
        scores = Scores(np.arange(done), session.classes, np.concatenate(parts))
        if not probable(scores.values).any():
            raise ModelFailed("its scores are no probabilities")
        return scores

    def _wait_for(self, session: Session, X: Matrix) -> npt.NDArray[np.float64] | None:
        computed, begun = self._cpu(), self._clock.monotonic()
        try:
            return session.scores(X)
        finally:
            self._waited += max(0.0, self._clock.monotonic() - begun - (self._cpu() - computed))

    def _spent(self) -> float:
        return self._cpu() + self._waited

    def _session(self, version: int, champion: Champion | None) -> Session:
        if champion is not None and champion.version == version:
            return champion.session
        session = self._sessions.pop(version, None) or self._open_version(version)
        self._sessions[version] = session
        self._asked[version] = self._clock.monotonic()
        while len(self._sessions) > _MOST_OPEN:
            self._sessions.popitem(last=False)[1].close()
        return session

    def _close_idle(self, now: float) -> None:
        for version in [version for version in self._sessions if now - self._asked[version] > _IDLE]:
            self._sessions.pop(version).close()

    def _refuse(self, version: int, why: str) -> None:
        while len(self.refused) >= _MOST_REFUSED:
            del self.refused[next(iter(self.refused))]
        self.refused[version] = why
        self._strikes.pop(version, None)
        session = self._sessions.pop(version, None)
        if session is not None:
            session.close()
