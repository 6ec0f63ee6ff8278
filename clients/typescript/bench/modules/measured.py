"""What the bridge's benchmarks call."""

from __future__ import annotations

import asyncio
import gc
import time

from everloop_bridge import fast


@fast
def score(user, features, tags):
    return {"user": user, "score": features[0] + features[1], "tags": tags}


def score_in_pool(user, features, tags):
    return {"user": user, "score": features[0] + features[1], "tags": tags}


async def score_awaited(user, features, tags):
    return {"user": user, "score": features[0] + features[1], "tags": tags}


@fast
def same(value):
    return value


def same_in_pool(value):
    return value


def burn(seconds):
    until = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < until:
        turns += 1
    return turns


def fail(message):
    raise ValueError(message)


async def sleep(seconds):
    await asyncio.sleep(seconds)


def collect():
    gc.collect()
