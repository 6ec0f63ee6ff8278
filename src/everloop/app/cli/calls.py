"""`everloop predict` and `everloop feedback`: what a person types, as requests."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from everloop.app.cli.group import UsageError
from everloop.app.cli.output import as_json as to_json
from everloop.app.cli.output import complain, data, say
from everloop.app.client import DEFAULT_URL, Client
from everloop.core.errors import EverloopError, InvalidInput

CHUNK = 1000
"""Rows in one request; longer input is sent in several."""


KEY_VARIABLE = "EVERLOOP_KEY"
"""What is sent to servers that ask for a key. Not an option: those of a command line are seen by every user of the machine."""
TRACE_VARIABLE = "TRACEPARENT"
"""Whoever starts a command as a part of a trace says so here. Source: OpenTelemetry, environment variables as context carriers."""


def connect(url: str | None, *, timeout: float = 60.0) -> Client:
    key, traceparent = os.environ.get(KEY_VARIABLE, "").strip() or None, os.environ.get(TRACE_VARIABLE)
    try:
        return Client(url or DEFAULT_URL, timeout=timeout, key=key, traceparent=traceparent)
    except InvalidInput as error:
        raise UsageError(error.message) from error


def predict(model: str, text: str, url: str | None, *, as_json: bool) -> None:
    parsed = read_features(text)
    with connect(url) as client:
        if isinstance(parsed, Rows):
            for start in range(0, len(parsed.rows), CHUNK):
                answer = client.predict_rows(model, parsed.rows[start : start + CHUNK])
                if as_json:
                    data(to_json(answer))
                else:
                    data("\n".join(map(_plain, answer["predictions"])))
                    say(
                        f"{model} version {answer['model_version']}, request {answer['request_id']}, "
                        f"rows {start}–{start + len(answer['predictions']) - 1} are its index 0–{len(answer['predictions']) - 1}"
                    )
            return
        answer = client.predict(model, parsed)
        if as_json:
            data(to_json(answer))
            return
        data(_plain(answer["prediction"]))
        say(
            f"{model} version {answer['model_version']}; once you know better: "
            f"everloop feedback {model} --request-id {answer['request_id']} --label VALUE"
        )


def feedback(
    model: str,
    label: str | None,
    request_id: str | None,
    index: int,
    features: str | None,
    *,
    validation: bool,
    key: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    examples = _examples(label, request_id, index, features)
    if validation:
        examples = [{**example, "validation": True} for example in examples]
    accepted, rejected, duplicate = 0, [], False
    with connect(url) as client:
        for start in range(0, len(examples), CHUNK):
            part_key = key if key is None or start == 0 else f"{key}#{start}"
            answer = client.feedback(model, examples[start : start + CHUNK], key=part_key)
            accepted += answer["accepted"]
            duplicate = duplicate or answer["duplicate"]
            rejected += [{**each, "index": each["index"] + start} for each in answer["rejected"]]
    if as_json:
        data(to_json({"accepted": accepted, "duplicate": duplicate, "rejected": rejected}))
    else:
        data(str(accepted))
        say(f"{accepted} label{'s' if accepted != 1 else ''} kept" + (", known already" if duplicate else ""))
    for each in rejected:
        complain(f"example {each['index']}: {each['detail']}")
    if rejected:
        raise EverloopError(f"{len(rejected)} of {len(examples)} labels were refused")


class Rows:
    """Many rows, as opposed to one."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows


def read_features(text: str) -> Any:
    """One row (list or object), or `Rows`. Raises UsageError saying what was expected."""
    source = read_source(text)
    try:
        parsed = _read(source)
    except ValueError as error:
        parsed = _loose(source, text, error)
    if isinstance(parsed, (int, float)) and not isinstance(parsed, bool):
        parsed = [parsed]
    if isinstance(parsed, Rows):
        return parsed
    if isinstance(parsed, list) and parsed and all(isinstance(row, (list, dict)) for row in parsed):
        return Rows(parsed)
    if isinstance(parsed, (list, dict)) and parsed:
        return parsed
    raise UsageError(f"features: expected a JSON list or object, e.g. '[1.5, 2]', got {_short(source)}")


def read_source(text: str) -> str:
    """The text itself, or what it points to: `@FILE`, or `-` for stdin."""
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    path = Path(text[1:]).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from None


def parse_label(text: str) -> Any:
    """A JSON number, boolean or string; anything else is taken as a text as it stands."""
    try:
        value = _read(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool, str)) else text


def _examples(label: str | None, request_id: str | None, index: int, features: str | None) -> list[dict[str, Any]]:
    if (request_id is None) == (features is None):
        raise UsageError("say either --request-id (the prediction the label belongs to) or --features")
    if request_id is not None:
        if label is None:
            raise UsageError("--label is missing: what would have been right?")
        return [{"request_id": request_id, "index": index, "label": parse_label(label)}]
    assert features is not None
    parsed = read_features(features)
    if label is not None:
        if isinstance(parsed, Rows):
            raise UsageError('--label is for one row; give many as lines like {"features": …, "label": …}')
        return [{"features": parsed, "label": parse_label(label)}]
    rows = parsed.rows if isinstance(parsed, Rows) else [parsed]
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or "label" not in row or not ("features" in row or "request_id" in row):
            raise UsageError(
                f'row {i}: without --label each row is like {{"features": …, "label": …}}, not {_short(row)}'
            )
    return rows


def _loose(source: str, text: str, error: ValueError) -> Any:
    """Numbers with commas between, or one JSON document a line."""
    lines = [line for line in source.splitlines() if line.strip()]
    if text == "-" or text.startswith("@"):
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row = _read(line)
            except ValueError as wrong:
                raise UsageError(f"{text}, line {number}: not JSON ({wrong}): {_short(line)}") from None
            if not isinstance(row, (list, dict)):
                raise UsageError(f"{text}, line {number}: expected a JSON list or object, got {_short(line)}")
            rows.append(row)
        if rows:
            return Rows(rows)
        raise UsageError(f"{text}: no rows")
    if source.lstrip()[:1] not in ("[", "{"):
        try:
            return [float(part) for part in source.split(",")]
        except ValueError:
            pass
    raise UsageError(f"features: not JSON ({error}): {_short(source)}; quote it for the shell, e.g. '[1.5, 2]'")


def _read(text: str) -> Any:
    """JSON; the NaN that Python and pandas write into it is a missing value."""
    return json.loads(text, parse_constant=lambda _: None)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:59] + "…")
