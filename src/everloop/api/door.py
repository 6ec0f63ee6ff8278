"""Who calls, and whether they may: the one place that every protocol asks before it does anything else.

    caller = door.enter(credential)            who is it: Unauthenticated
    door.allow(caller, "predict", "churn")     may they:  Forbidden; too often: QuotaExceeded

`credential` is the value of the header `Authorization` (of the metadata `authorization` in gRPC): `Bearer KEY`.

Theory of operation. The door is open as long as no key was ever made and the server did not say that it needs them: then everybody is
`ANYBODY`, who may do everything, and `closed` is False, which is all that a hot path has to look at. Otherwise each key is a `Caller`
in a dictionary by the key's id, made from the records of the store, and replaced whole when those change: here at once, elsewhere
within `LOOK_SECONDS`, because a thread of each server watches the store's revision. A protocol that keeps a caller for a connection
asks `door.stands(caller)` before it uses it again; a caller of a withdrawn, expired or changed key does not stand any more, and `enter`
says why. When the store cannot be read, the keys that were known go on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from everloop.core.clock import SystemClock
from everloop.core.errors import EverloopError, Forbidden, QuotaExceeded, Unauthenticated
from everloop.policy import keys
from everloop.policy.keys import SCOPES, KeyRecord, Scope
from everloop.policy.quota import Bucket

if TYPE_CHECKING:
    from everloop.core.clock import Clock
    from everloop.stores.ports import KeyStore

Need = Literal["open", "own", "key", "predict", "feedback", "admin"]
"""What an operation asks of its caller: nothing; any key, and it shows only the models of that key; any key; a key with this scope."""
LOOK_SECONDS = 0.5
"""How soon a key that another process made or withdrew is seen."""
USED_SECONDS = 60.0
"""How exactly it is kept when a key was last used."""

log = logging.getLogger("everloop.door")


class Caller:
    """Whoever has a key. Its text is not here."""

    __slots__ = ("bucket", "expires_at", "id", "limited", "live", "models", "name", "record", "scopes", "used")

    def __init__(self, record: KeyRecord | None, *, key_id: str, name: str, bucket: Bucket | None = None) -> None:
        self.id = key_id
        """Of the key; empty where the door is open."""
        self.name = name
        self.record = record
        """None: it may do everything, for ever."""
        self.scopes: frozenset[Scope] = frozenset(SCOPES if record is None else record.scopes)
        self.models = None if record is None or record.models is None else frozenset(record.models)
        """The only models it may touch; None: all."""
        self.expires_at = None if record is None else record.expires_at
        self.bucket = bucket
        self.limited = 0
        """Requests that came too early."""
        self.live = True
        """False once the key is not what it was; see `Door.stands`."""
        self.used = False
        """Since the store was told last."""

    def __repr__(self) -> str:
        return f"<Caller {self.id or 'anybody'} {self.name!r}>"

    def has(self, scope: Need) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def reaches(self, model: str) -> bool:
        """Whether it may know of a model at all."""
        return self.models is None or model in self.models


ANYBODY = Caller(None, key_id="", name="anybody")


class Door:
    """Of one server. Safe from any thread. `given`: texts of further keys with every scope, from the server's own configuration."""

    def __init__(
        self,
        store: KeyStore | None = None,
        clock: Clock | None = None,
        *,
        given: Iterable[str] = (),
        required: bool = False,
    ) -> None:
        self.store = store
        self._clock: Clock = clock or SystemClock()
        self._counting = threading.Lock()
        self._reading = threading.Lock()  # held while the store is asked; nobody who calls waits for it
        self._callers: dict[str, Caller] = {}
        self._given: tuple[tuple[str, Caller], ...] = ()
        self._required = required
        self._revision = -1
        self._told = self._clock.monotonic()
        self._failing = False
        self.closed = required
        """Whether callers need a key."""
        if given:
            self.give(given)
        self.refresh()

    def __repr__(self) -> str:
        return f"<Door {'closed' if self.closed else 'open'}, {len(self._callers) + len(self._given)} keys>"

    # -- for protocols --

    def enter(self, credential: str | None) -> Caller:
        """Raises Unauthenticated, in words."""
        if not self.closed:
            return ANYBODY
        if not credential:
            raise Unauthenticated(
                "this server asks for a key; send it as `Authorization: Bearer KEY` (`everloop keys create` makes one)",
                field="Authorization",
            )
        scheme, _, text = credential.partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthenticated("Authorization: expected `Bearer KEY`", field="Authorization")
        return self._holder(text)

    def stands(self, caller: Caller) -> bool:
        """Whether a caller that was let in before is still the one that `enter` would give."""
        if not caller.live:
            return False
        if caller.record is None:
            return caller is not ANYBODY or not self.closed
        return caller.expires_at is None or self._clock.now() < caller.expires_at

    def allow(self, caller: Caller, need: Need, model: str | None = None, *, counted: bool = True) -> None:
        """Raises Forbidden, QuotaExceeded with `retry_after`, Unauthenticated (the caller does not stand). `model` None: the operation concerns the whole server. Not `counted`: the
        request was counted before."""
        if need == "open":
            return
        if not self.stands(caller):
            raise Unauthenticated(
                "the key has ended since this began, or there was none; come back with one", field="Authorization"
            )
        record = caller.record
        if record is None:
            return
        caller.used = True
        if need not in ("key", "own") and not caller.has(need):
            raise Forbidden(
                f"the key {caller.name!r} is for {' and '.join(record.scopes)}, and this needs {need}",
                field="Authorization",
            )
        if caller.models is not None and need != "own" and (model is None or model not in caller.models):
            raise Forbidden(
                f"the key {caller.name!r} is only for the models {', '.join(sorted(caller.models))}"
                + (", and this concerns all of them" if model is None else ""),
                field="Authorization",
            )
        if counted and caller.bucket is not None:
            self.count(caller)

    def count(self, caller: Caller) -> None:
        """One request of a caller. Raises QuotaExceeded."""
        bucket = caller.bucket
        if bucket is None:
            return
        with self._counting:
            wait = bucket.take(self._clock.monotonic())
            caller.limited += wait > 0.0
        if wait > 0.0:
            raise QuotaExceeded(
                f"the key {caller.name!r} may make {bucket.rate:g} requests a second (up to {bucket.capacity} at once); "
                f"come back in {wait:.2g} s",
                retry_after=wait,
            )

    # -- for the server --

    def require(self) -> None:
        """From now on callers need a key, also while there is none."""
        self._required = True
        self.closed = True

    def give(self, texts: Iterable[str]) -> None:
        """Keys with every scope besides those of the store. Their rules are those of `policy.keys` but for the form: any text."""
        self._given = tuple(
            (keys.digest_of(text), Caller(None, key_id=f"given-{number}", name=f"given key {number}"))
            for number, text in enumerate(texts, 1)
        )
        self.closed = self.closed or bool(self._given)

    def active(self) -> list[Caller]:
        """Holders of keys of the store that could come now."""
        now = self._clock.now()
        return [
            caller
            for caller in list(self._callers.values())
            if caller.record is not None and caller.record.state(now) == "active"
        ]

    @property
    def has_keys(self) -> bool:
        """Whether there is a key that somebody could use now."""
        return bool(self._given) or bool(self.active())

    def refresh(self) -> None:
        """Read the keys anew. Raises StoreUnavailable."""
        store = self.store
        if store is None:
            return
        with self._reading:
            self._revision = store.revision()
            records = store.keys()
            now = self._clock.monotonic()
            callers: dict[str, Caller] = {}
            for record in records:
                before = self._callers.get(record.id)
                if before is not None and before.record == record:
                    callers[record.id] = before
                    continue
                callers[record.id] = made = Caller(record, key_id=record.id, name=record.name)
                if record.rate is not None:
                    made.bucket = Bucket(record.rate, record.capacity, now)
                if before is not None:
                    before.live = False
                    made.limited = before.limited
                    if made.bucket is not None and before.bucket is not None:  # a change is no pause
                        made.bucket.tokens = min(float(made.bucket.capacity), before.bucket.tokens)
            for gone in self._callers.keys() - callers.keys():
                self._callers[gone].live = False
            self._callers = callers
            self.closed = self._required or bool(self._given) or bool(callers)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the store, on a thread, for the time of a `with` block."""
        if self.store is None:
            yield
            return
        stopping = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stopping,), name="everloop-door", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def look(self) -> None:
        """What the watching thread does each time: see what changed, and tell the store now and then who came."""
        store = self.store
        assert store is not None
        try:
            if store.revision() != self._revision:
                self.refresh()
            if self._clock.monotonic() - self._told >= USED_SECONDS:
                self.tell()
        except EverloopError as error:
            if not self._failing:
                log.warning("the keys cannot be read (those that are known go on): %s", error.message)
            self._failing = True
        else:
            self._failing = False

    def tell(self) -> None:
        """Tell the store which keys were used. Raises StoreUnavailable."""
        self._told = self._clock.monotonic()
        used = [caller for caller in list(self._callers.values()) if caller.used]
        if used and self.store is not None:
            for caller in used:
                caller.used = False
            self.store.touch_keys([caller.id for caller in used], self._clock.now())

    def _watch(self, stopping: threading.Event) -> None:
        while not stopping.wait(LOOK_SECONDS):
            self.look()
        try:
            self.tell()
        except EverloopError as error:
            log.warning("when keys were last used could not be kept: %s", error.message)

    def _holder(self, text: str) -> Caller:
        digest = keys.digest_of(text)
        found: Caller | None = None
        for known, caller in self._given:
            if keys.same(known, digest):
                found = caller
        if found is not None:
            return found
        caller = self._callers.get(keys.id_of(text) or "", ANYBODY)
        record = caller.record
        # Compared in any case, so that an unknown id takes as long as a known one.
        if not keys.same(digest, _NOBODYS if record is None else record.digest) or record is None:
            raise Unauthenticated("this is no key of this server", field="Authorization")
        state = record.state(self._clock.now())
        if state != "active":
            raise Unauthenticated(f"the key {record.name!r} is {state}; ask for a new one", field="Authorization")
        return caller


_NOBODYS = "0" * 64
"""A digest that no text is known to have."""
