"""What a server remembers of its answers, and how it is told to forget: no protocol in it, as `api.verbs`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from glob import escape
from typing import Annotated

import msgspec
from msgspec import Meta

from everloop.api.services import Services
from everloop.api.verbs import find_model
from everloop.core.errors import EverloopError
from everloop.registry.clearing import clear_answers
from everloop.serving.config import effective

_WILD = frozenset("*?[")


class CachedVersion(msgspec.Struct, frozen=True):
    version: int
    entries: int
    """Answers in this process's memory."""


class CachedModel(msgspec.Struct, frozen=True):
    model: str
    on: bool
    """Whether its answers are repeated."""
    ttl_sec: float
    hits: int
    """Requests that this process answered from memory, since it started."""
    shared: int
    """From what processes share."""
    joined: int
    """With the answer that another request was already waiting for."""
    misses: int
    """By the model."""
    versions: list[CachedVersion]


class SharedCache(msgspec.Struct, frozen=True):
    name: str
    """Where it is."""
    trouble: str
    """What it cannot do now; empty if all is well."""
    skipped: int
    """Lookups and answers that were left out for that, or because too much was waiting."""


class CacheInfo(msgspec.Struct, frozen=True):
    bytes: int
    capacity: int
    entries: int
    evicted: int
    """Answers that went because there was no room."""
    expired: int
    shared: SharedCache | None
    models: list[CachedModel]


class ClearCache(msgspec.Struct, forbid_unknown_fields=True):
    """Whose answers to forget."""

    model: Annotated[str, Meta(description="A model, or a pattern of names: `*` for any text, `?` for one character")]
    version: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="This version of it only")] = None


class ClearedCache(msgspec.Struct, frozen=True):
    models: list[str]
    """They forget everywhere, by the time this is told here and within moments wherever else they are served."""
    entries: int
    """Answers whose memory was given back here."""
    shared: int | None
    """And in what processes share; None where that could not be reached: nobody looks for them there any more, and they expire."""


def show(services: Services) -> CacheInfo:
    cache = services.cache
    counts, held = cache.counts(), cache.held()
    models = []
    for record in services.registry.list():
        config = effective(services.serving, record.serving)
        found = counts.get(record.name)
        if found is None and not config.cache:
            continue
        versions = [CachedVersion(v, n) for (model, v), n in sorted(held.items()) if model == record.name]
        models.append(
            CachedModel(
                model=record.name,
                on=config.cache,
                ttl_sec=config.cache_ttl_sec,
                versions=versions,
                **(found or dict.fromkeys(("hits", "shared", "joined", "misses"), 0)),
            )
        )
    entries, second = cache.entries, cache.second
    return CacheInfo(
        bytes=entries.size,
        capacity=entries.most,
        entries=len(entries),
        evicted=entries.evicted,
        expired=entries.expired,
        shared=None if second is None else SharedCache(second.name, cache.trouble, second.skipped),
        models=models,
    )


def clear(services: Services, asked: ClearCache, *, by: str) -> ClearedCache:
    """Raises ModelNotFound (a name that is no pattern), VersionNotFound (likewise)."""
    pattern, version = asked.model, asked.version
    if _WILD.isdisjoint(pattern):
        names = [find_model(services, pattern).name]
        if version is not None:
            services.registry.version(pattern, version)
    else:
        names = [record.name for record in services.registry.list() if fnmatchcase(record.name, pattern)]
    for name in names:
        clear_answers(services.registry, name, version, by=by)
    services.reconciler.step()
    entries = sum(services.cache.forget(escape(name), version) for name in names)
    try:
        shared: int | None = sum(services.cache.forget_shared(escape(name), version) for name in names)
    except EverloopError:  # told by None, and by /health
        shared = None
    return ClearedCache(names, entries, shared)
