"""How a rollout looks on a terminal: as a page, as one line, and line by line until it has ended."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from everloop.app.cli.output import pairs, say, share, table, when
from everloop.app.client import model_path
from everloop.core.errors import EverloopError
from everloop.core.wording import counted, lasting

if TYPE_CHECKING:
    from everloop.app.client import Client

POLL_SECONDS = 0.5
QUIET_SECONDS = 10.0
"""Without a terminal: a line at each change, and so often in between."""
PATIENCE_SECONDS = 60.0
"""How long a server may be away (it restarts, it is busy) before a follower gives up."""
PASSING = frozenset({"starting", "draining", "overloaded", "store_unavailable", "closed"})
"""Refusals that pass by themselves."""
ENDED = frozenset({"promoted", "rolled_back", "inconclusive"})


def standing(found: dict[str, Any]) -> str:
    """One line: `fraud: version 7 (canary) is running, step 2 of 3 (5 %): 120 of 500 requests`."""
    state = found["state"].replace("_", " ")
    told = f"{found['model']}: version {found['challenger']} ({found['plan']['strategy'].replace('_', '-')}) is {state}"
    reason = found["reason"]
    if found["state"] in ENDED or not found["plan"]["steps"]:
        return f"{told}: {reason}" if reason else told
    where = _where(found)
    return f"{told}, {where}: {reason}" if reason and where not in reason else f"{told}, {reason or where}"


def show_rollout(found: dict[str, Any]) -> None:
    """The whole of it on stdout."""
    evidence = found["evidence"]
    against = "" if found["champion"] is None else f" against {found['champion']}"
    entries: list[tuple[str, Any]] = [
        ("rollout", f"{found['id']} of {found['model']}"),
        ("version", f"{found['challenger']}{against}"),
        ("plan", found["summary"]),
        ("state", found["state"].replace("_", " ")),
    ]
    if found["state"] not in ENDED and found["plan"]["steps"]:
        entries.append(("step", _where(found)))
        if evidence is not None:
            entries.append(("in this step", _progress(found["plan"]["steps"][found["step"]], evidence["step"])))
    entries += [
        ("verdict", f"{found['verdict'].replace('_', ' ')}: {found['reason']}"),
        ("started", " ".join(filter(None, (when(found["started_at"]), f"by {found['by']}", found["note"])))),
    ]
    if found["ended_at"] is not None:
        entries.append(
            ("ended", f"{when(found['ended_at'])}, after {lasting(found['ended_at'] - found['started_at'])}")
        )
    entries.append(("revision", found["revision"]))
    pairs(entries)
    if evidence is not None:
        _show_evidence(evidence)


def follow(client: Client, found: dict[str, Any]) -> dict[str, Any]:
    """The rollout as it ended, told on stderr meanwhile. A server that restarts is waited for. Raises ConnectionError after a
    minute without one."""
    told = _Told()
    away_since: float | None = None
    model, number = found["model"], found["id"]
    try:
        while True:
            told.tell(found)
            if found["state"] in ENDED:
                told.end()
                return found
            time.sleep(POLL_SECONDS)
            try:
                found = _look(client, model, number)
                away_since = None
            except (ConnectionError, EverloopError) as error:
                if isinstance(error, EverloopError) and error.code not in PASSING:
                    raise
                away_since = time.monotonic() if away_since is None else away_since
                if time.monotonic() - away_since > PATIENCE_SECONDS:
                    raise
    except KeyboardInterrupt:
        told.end()
        say(f"it goes on; look again with `everloop rollout show {model}`")
        raise typer.Exit(130) from None


def _look(client: Client, model: str, number: int) -> dict[str, Any]:
    """That very rollout, also where a newer one has begun."""
    found: dict[str, Any] = client.get(model_path(model, "rollout"))
    if found["id"] == number:
        return found
    earlier = client.get(model_path(model, "rollouts"))["rollouts"]
    return next(each for each in earlier if each["id"] == number)


class _Told:
    """What a follower has been shown: one line that changes on a terminal, a line at each change elsewhere."""

    def __init__(self) -> None:
        self._screen = sys.stderr.isatty()
        self._key: Any = None
        self._line = ""
        self._at = 0.0

    def tell(self, found: dict[str, Any]) -> None:
        line, key = standing(found), (found["state"], found["step"], found["verdict"])
        if line == self._line:
            return
        now = time.monotonic()
        if self._screen:
            # A step that is over stays on the screen; the one at hand is written over.
            typer.echo("\r\x1b[2K" if key == self._key else "\n" if self._key is not None else "", nl=False, err=True)
            typer.echo(line, nl=False, err=True)
        elif key == self._key and now - self._at < QUIET_SECONDS:
            return
        else:
            say(f"{when(time.time())}  {line}")
        self._key, self._line, self._at = key, line, now

    def end(self) -> None:
        if self._screen and self._line:
            typer.echo("", err=True)


def _where(found: dict[str, Any]) -> str:
    steps = found["plan"]["steps"]
    what = "shadow" if found["plan"]["strategy"] == "shadow" else share(steps[found["step"]]["share"])
    return f"step {found['step'] + 1} of {len(steps)} ({what})"


def _progress(asked: dict[str, Any], had: dict[str, Any]) -> str:
    parts = [
        f"{had['samples']:,} of {counted(asked['samples'], 'request')}",
        f"{lasting(had['seconds'])} of {lasting(asked['seconds'])}",
    ]
    if asked["labels"] or had["labels"]:
        parts.insert(1, f"{had['labels']:,} of {counted(asked['labels'], 'label')}")
    return ", ".join(parts)


def _show_evidence(evidence: dict[str, Any]) -> None:
    from everloop.app.cli.output import data

    data("")
    table(
        ("version", "part", "requests", "failed", "p50 ms", "p99 ms"),
        [
            (
                arm["version"],
                part,
                arm["requests"],
                _failed(arm),
                *(None if arm[f"{p}_seconds"] is None else arm[f"{p}_seconds"] * 1000 for p in ("p50", "p99")),
            )
            for part in ("champion", "challenger")
            for arm in (evidence[part],)
        ],
    )
    split = evidence["split"]
    gates = evidence["gates"]
    if split is not None:
        gates = [{**split, "gate": "split", "verdict": "broken" if split["broken"] else "continue"}, *gates]
    if gates:
        data("")
        table(
            ("gate", "verdict", "evidence", "needed", "in words"),
            [
                (
                    g["gate"],
                    g["verdict"].replace("_", " "),
                    _e_value(g["e_value"]),
                    _e_value(g["needed"]),
                    g["text"].removeprefix("the ").removeprefix(f"{g['gate']}: "),
                )
                for g in gates
            ],
        )
    if evidence["shadow"]:
        data("")
        pairs([(f"shadow.{name}", value) for name, value in evidence["shadow"].items()])


def _failed(arm: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in arm["failures"].items())
    return f"{arm['failed']} ({kinds})" if kinds else str(arm["failed"])


def _e_value(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else "over a million"
