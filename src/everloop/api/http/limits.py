"""How much one request may ask for. Each limit is checked before the work it bounds is done."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.core.errors import InvalidInput


@dataclass(frozen=True)
class Limits:
    """Beyond `max_body`, `max_rows` and `max_features` a request is refused as `too_large` (413)."""

    max_body: int = 10 << 20
    """Bytes of a request's body, with or without a Content-Length."""
    max_upload: int = 256 << 20
    """Bytes of an uploaded file: of a version, or of an exported model."""
    max_uploads: int = 2
    """Uploads at once; each is held in memory."""
    max_rows: int = 10_000
    """Rows of one prediction request, examples of one feedback request."""
    max_features: int = 10_000
    """Values in one row."""
    max_depth: int = 16
    """How deep lists and objects may nest where the body is free-form (`parameters`, `learning`)."""
    max_name: int = 128
    """Characters of a model's name."""
    max_key: int = 255
    """Characters of an Idempotency-Key."""
    head_sec: int = 10
    """Seconds in which a request's line and headers have to come."""
    body_sec: int = 20
    """Seconds in which its body has to come, and one more for each 1,000 bytes of it."""
    max_connections: int = 8192
    """Connections open at once, and never more than the system lets the process have; one too many is told so (503) and closed."""
    max_waiting: int = 512 << 20
    """Bytes of decoded input that wait for their runs, of all models together; one model alone gets four fifths."""
    max_page: int = 1000
    """Entries of one page: of a timeline, of an event replay."""
    max_streams: int = 64
    """Event streams open at once."""
    stream_queue: int = 256
    """Events waiting for one slow reader of `/v1/events`; beyond it the stream ends, and the reader comes back with
    Last-Event-ID."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name}: expected a whole number of at least 1, got {value!r}", field=name)
