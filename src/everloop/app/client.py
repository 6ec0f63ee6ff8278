"""The HTTP client that the command line and the demo speak with: one keep-alive connection, the server's own errors.

A refusal arrives as problem+json with a stable `code`, and leaves here as the very error class that the server raised; so what
a caller catches does not depend on whether the model is in this process or behind a socket. A server that cannot be reached
raises `ConnectionError`. A `Client` belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from everloop.api.tracing import TRACEPARENT
from everloop.core import errors
from everloop.core.errors import EverloopError, InvalidInput

DEFAULT_URL = "http://127.0.0.1:3000"
SAFE = frozenset({"GET", "HEAD", "DELETE", "PUT"})
_CLASSES = {
    each.code: each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, EverloopError)
}


class Client:
    """`timeout` is in seconds, for connecting and for each wait on the socket. `key`: for a server that asks for one. Over `https` the
    server's certificate must be signed by one that the system trusts, or by one in the file that `SSL_CERT_FILE` names. `traceparent`:
    the span (W3C Trace Context) that the requests belong to. Raises InvalidInput for a bad `url` or `key`."""

    def __init__(
        self, url: str = DEFAULT_URL, *, timeout: float = 30.0, key: str | None = None, traceparent: str | None = None
    ) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        bad = port == -1 or any(c <= " " or c == "\x7f" for c in url)
        if bad or parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"url: expected something like {DEFAULT_URL}, got {url!r}", field="url")
        self.url = url
        self._prefix = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=timeout)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InvalidInput("key: has characters that a header cannot carry", field="key")
        self._always = {} if key is None else {"Authorization": f"Bearer {key}"}
        if traceparent and TRACEPARENT.fullmatch(traceparent):
            self._always["traceparent"] = traceparent
        self._used = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._used = False

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def predict(self, model: str, features: Any) -> dict[str, Any]:
        """One row: `prediction`, `model_version`, `request_id`."""
        answer: dict[str, Any] = self.call("POST", f"{_at(model)}/predict", {"features": features}, again=True)
        return answer

    def predict_rows(self, model: str, rows: list[Any]) -> dict[str, Any]:
        """Many rows by one version: `predictions`, `model_version`, `request_id`."""
        answer: dict[str, Any] = self.call("POST", f"{_at(model)}/predict", {"instances": rows}, again=True)
        return answer

    def feedback(self, model: str, examples: list[dict[str, Any]], *, key: str | None = None) -> dict[str, Any]:
        """`accepted`, `duplicate`, `rejected`. Sent with an idempotency key, so that a repeat counts once."""
        answer: dict[str, Any] = self.call(
            "POST",
            f"{_at(model)}/feedback",
            {"examples": examples},
            headers={"Idempotency-Key": key or token_hex(16)},
            again=True,
        )
        return answer

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> Any:
        """The decoded answer, None where it has no body.

        A kept connection that the server has closed meanwhile is opened anew, once, if asking twice does no harm (`again`).
        Raises ConnectionError, or the EverloopError of the server's refusal."""
        payload = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        head = {"Accept": "application/json", **(headers or {})}
        if payload is not None:
            head["Content-Type"] = "application/json"
        status, content, retry_after = self._exchange(method, path, payload, head, again=again or method in SAFE)
        return _decode(status, content, retry_after)

    def upload(self, path: str, payload: bytes, query: Mapping[str, str]) -> Any:
        """POST a file as it is; the decoded answer. Raises as `call`."""
        head = {"Accept": "application/json", "Content-Type": "application/octet-stream"}
        target = f"{path}?{urlencode(query)}" if query else path
        return _decode(*self._exchange("POST", target, payload, head, again=False))

    def download(self, path: str) -> bytes:
        """The body of a GET, which is a file. Raises as `call`."""
        status, content, retry_after = self._exchange("GET", path, None, {}, again=True)
        if status >= 400:
            _decode(status, content, retry_after)
        return content

    def _exchange(
        self, method: str, path: str, payload: bytes | None, head: Mapping[str, str], *, again: bool
    ) -> tuple[int, bytes, str | None]:
        """Status, body and Retry-After."""
        retry = self._used and again
        while True:
            try:
                self._connection.request(method, self._prefix + path, payload, {**self._always, **head})
                response = self._connection.getresponse()
                content = response.read()
                break
            except (http.client.HTTPException, OSError) as error:
                self.close()
                if not retry or isinstance(error, TimeoutError):
                    raise self._unreachable(error) from error
                retry = False
        self._used = True
        return response.status, content, response.getheader("Retry-After")

    def text(self, path: str) -> str:
        """The body of a GET as it is, for what is not JSON."""
        try:
            self._connection.request("GET", self._prefix + path, headers=self._always)
            response = self._connection.getresponse()
            return response.read().decode(errors="replace")
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise self._unreachable(error) from error

    def events(self, *, model: str | None = None, after: int | None = None) -> Iterator[dict[str, Any]]:
        """Server-sent events as they happen, until the server ends the stream; occupies this client's connection."""
        query = f"?model={quote(model, safe='')}" if model else ""
        headers = {**self._always, "Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        try:
            self._connection.request("GET", f"{self._prefix}/v1/events{query}", headers=headers)
            response = self._connection.getresponse()
            if response.status != 200:
                _decode(response.status, response.read(), None)
            data: list[str] = []
            reset = False  # The server has another journal than `after` is of; no event of a model.
            while line := response.readline():
                text = line.decode().rstrip("\r\n")
                if text.startswith("data:"):
                    data.append(text[5:].lstrip(" "))
                elif text:
                    reset = reset or text == "event: reset"
                else:
                    if data and not reset:
                        yield json.loads("\n".join(data))
                    data, reset = [], False
        except (http.client.HTTPException, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            self.close()

    def wake(self) -> None:
        """End `events` from another thread: the blocked read returns."""
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # it has just ended by itself
                sock.shutdown(socket.SHUT_RDWR)

    def _unreachable(self, error: BaseException) -> ConnectionError:
        if isinstance(error, ConnectionRefusedError):
            reason = "nothing listens there; start one with `everloop serve`, or say where it is with --url"
        elif isinstance(error, TimeoutError):
            reason = "no answer in time"
        elif isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message.rstrip(".")
            reason = f"its certificate is refused: {why}; one of your own authority is trusted with SSL_CERT_FILE=FILE"
        elif isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            reason = "it does not speak TLS; ask with http://"
        elif isinstance(error, http.client.RemoteDisconnected) and not self._secure:
            reason = "it hung up without an answer; if it speaks TLS, ask with https://"
        elif isinstance(error, socket.gaierror):
            reason = "there is no host of that name"
        else:
            reason = str(error) or type(error).__name__
        return ConnectionError(f"cannot reach the server at {self.url}: {reason}")


def model_path(name: str, *more: str) -> str:
    """`/v1/models/NAME/…` with every part quoted."""
    return "/".join((_at(name), *(quote(part, safe="") for part in more)))


def _at(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _decode(status: int, content: bytes, retry_after: str | None) -> Any:
    try:
        body = json.loads(content) if content else None
    except ValueError:
        body = None
        if status < 400:
            raise EverloopError(f"the server's answer ({status}) is not JSON: {_short(content)}") from None
    if status < 400:
        return body
    problem = body if isinstance(body, dict) else {}
    detail = problem.get("detail") or problem.get("error") or _short(content) or "no reason given"
    kind = _CLASSES.get(str(problem.get("code")), EverloopError)
    if not problem:
        detail = f"{detail} (is this an everloop server?)"
    if kind is EverloopError:
        detail = f"the server answered {status}: {detail}"
    after = float(retry_after) if retry_after and retry_after.isdigit() else None
    raise kind(str(detail), field=problem.get("field"), retry_after=after)


def _short(content: bytes) -> str:
    text = " ".join(content.decode(errors="replace").split())
    return text if len(text) <= 100 else text[:99] + "…"
