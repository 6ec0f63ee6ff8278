"""The demo's server: `python -m everloop.app.demo.host`, a child process with the real engine, and models of many kinds.

What to register comes as JSON on the command line; the address goes to stdout as JSON once it serves. The parent holds this
process's stdin: when that closes, whether because the parent is done or because it is dead, the server drains and ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import msgspec

from everloop.app.build import Engine, build_engine
from everloop.app.demo.play import Play
from everloop.app.listening import Address
from everloop.app.logs import configure
from everloop.app.server import run
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.core.errors import EverloopError, InvalidInput
from everloop.learning.config import LearningConfig


def models(name: str) -> Any:
    """What the demo registers for a bundled stream: on purpose a different sort of model for each, none of which takes long."""
    if name == "slope":
        return "linear"
    if name == "phishing":
        return "logistic"
    if name == "approval":
        from river import compose, linear_model, preprocessing

        # Without the date: a model that serves for a while would extrapolate it.
        scaled = compose.Discard("ordinal_date") | preprocessing.StandardScaler()
        return scaled | linear_model.LinearRegression(intercept_lr=0.1)
    if name == "loans":
        from sklearn.tree import DecisionTreeClassifier

        return DecisionTreeClassifier(max_depth=8, min_samples_leaf=3, random_state=0)
    if name == "segments":
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(n_estimators=20, random_state=0)
    if name == "digits":
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    raise InvalidInput(f"cast: the demo has no model for a stream named {name!r}", field="cast")


def main() -> int:
    play = msgspec.json.decode(sys.argv[1].encode(), type=Play)
    configure("warning", as_json=False)
    learning = LearningConfig(
        min_samples=play.min_samples, interval_sec=play.interval_sec, drift_threshold=play.drift_threshold
    )
    engine = build_engine(EngineSettings(learning=learning))
    threading.Thread(target=_end_with_parent, name="everloop-parent", daemon=True).start()
    try:
        settings = ServerSettings(port=play.port, notice=0.0, grace=5.0)
        return run(engine, settings, prepare=lambda: _register(engine, play), on_ready=_tell)
    except EverloopError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1


def _register(engine: Engine, play: Play) -> None:
    for each in play.registrations:
        model = models(each.cast) if each.cast else each.kind
        engine.register(each.name, model, each.parameters or None)
        if each.schema is not None:
            engine.services.registry.fix_schema(each.name, each.schema, each.target)


def _tell(address: Address) -> None:
    sys.stdout.write(json.dumps({"url": address.url}) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that waits inside a buffered reader is in the way of the interpreter's end.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
