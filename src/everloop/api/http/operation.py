"""What is said of one operation of the server: the columns of the table in `http.operations`."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from everloop.api.door import Need
from everloop.api.http.deadlines import TIMEOUT_HEADER
from everloop.api.override import KEY_HEADER, VERSION_HEADER
from everloop.serving.split import LONGEST_UNIT

Tag = Literal[
    "predictions", "showcase", "inference", "models", "versions", "rollouts", "learning", "keys", "cache", "server"
]
JSON = "application/json"
FILE = "application/octet-stream"


class Parameter(NamedTuple):
    name: str
    where: Literal["query", "header"]
    schema: dict[str, Any]
    description: str


ASKING = (
    Parameter(
        TIMEOUT_HEADER,
        "header",
        {"type": "number", "minimum": 0},
        "Seconds within which the answer is of use; what cannot be answered by then is refused, and not run.",
    ),
    Parameter(
        "Everloop-Unit",
        "header",
        {"type": "string", "maxLength": LONGEST_UNIT},
        "A user or session, who meets the same version each time; a body's `unit` goes before it.",
    ),
    Parameter(
        VERSION_HEADER,
        "header",
        {"type": "string", "maxLength": 128},
        "For tests: the version that shall answer, by number, name or alias. Needs a key; does not count in a rollout.",
    ),
    Parameter(KEY_HEADER, "header", {"type": "string"}, "One of the server's `override_keys`."),
)
"""Headers of whatever asks a model for rows, texts, images or users."""


class Operation(NamedTuple):
    id: str
    """The name of its endpoint."""
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    tag: Tag
    summary: str
    body: Any = None
    """A type that msgspec decodes, `bytes` for a file as it is; None takes no body."""
    body_required: bool = True
    example: Any = None
    """A body to begin with, shown on `/docs`."""
    answer: Any = None
    """A type, several of which one, or None for an answer that is not JSON."""
    status: int = 200
    media_type: str = JSON
    refusals: tuple[str, ...] = ()
    """Codes of `api.status`, besides those that follow from a path parameter or a body."""
    parameters: tuple[Parameter, ...] = ()
    also: tuple[tuple[int, str], ...] = ()
    """Further statuses with the same answer, and what they mean."""
    role: Literal["", "sentiment", "image", "recommender"] = ""
    """Of a route that asks a model without naming it: which of `showcase.config`'s names that is."""
    uploads: bool = False
    """Whether it takes its body as a form with a file (`multipart/form-data`), too."""
    scope: Need | None = None
    """What it asks of its caller; None: any key for a GET, `admin` for what changes something."""

    @property
    def need(self) -> Need:
        return self.scope or ("key" if self.method == "GET" else "admin")
