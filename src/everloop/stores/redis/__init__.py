"""What processes share of their caches: answers in a Redis server (or Valkey, which speaks the same), by its URL.

connecting   the URL, and how a client is made
answers      the `AnswerStore` port

Its library is the extra `redis`.
"""

from everloop.stores.redis.answers import RedisAnswers
from everloop.stores.redis.connecting import get_redis

__all__ = ["RedisAnswers", "get_redis"]
