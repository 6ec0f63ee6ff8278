"""`/docs`: a page that reads `/openapi.json` and shows it, with a form to try each operation.

One file, `docs.html`, with nothing loaded from elsewhere: it works on a machine without a network. The policy that goes with it
allows exactly the style and the script that are in the file, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources


def page() -> tuple[bytes, str]:
    """The HTML, and the Content-Security-Policy to send with it."""
    html = resources.files("everloop.api.http").joinpath("docs.html").read_text("utf-8")
    rules = [
        "default-src 'none'",
        f"style-src {_digest(html, 'style')}",
        f"script-src {_digest(html, 'script')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return html.encode(), "; ".join(rules)


def _digest(html: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert found is not None, f"docs.html has no <{tag}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
