"""Your own scikit-learn pipeline, served over HTTP, learning from labels that come later, swapped while it answers.

    python examples/sklearn_server.py            a world that changes half-way, in some seconds
    python examples/sklearn_server.py --serve    only the server, on http://127.0.0.1:3000, until Ctrl-C

The client below is plain HTTP, as any language has it: predict, keep the request id, send the label when it is known.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.request
from typing import Any

from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import everloop

rng = random.Random(0)
MONTHS = 60
"""At most. Learning takes a second; the new version then proves itself on half of the requests for some more."""


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def flat() -> list[float]:
    """A flat: square metres, floor."""
    return [rng.uniform(20, 120), float(rng.randint(0, 9))]


def price(features: list[float], a_square_metre: float) -> float:
    return a_square_metre * features[0] + 3 * features[1] + rng.gauss(0, 5)


def models() -> everloop.Continuum:
    """A pipeline that was fitted as always, on last year's prices; it answers at once, as version 1."""
    history = [flat() for _ in range(500)]
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(history, [price(features, 4.0) for features in history])
    made = everloop.Continuum(everloop.LearningConfig(min_samples=50, interval_sec=2))
    made.register_model("rent", pipeline)
    return made


def month(url: str, a_square_metre: float, flats: int) -> tuple[float, int]:
    """Predict for every flat; learn the true prices a moment later. The mean error, and the version that answered last."""
    open_cases = []
    for _ in range(flats):
        features = flat()
        answer = post(f"{url}/v1/models/rent/predict", {"features": features})
        open_cases.append((answer, price(features, a_square_metre)))
    labels = [{"request_id": answer["request_id"], "label": truth} for answer, truth in open_cases]
    post(f"{url}/v1/models/rent/feedback", {"examples": labels})
    time.sleep(0.5)
    error = sum(abs(answer["prediction"] - truth) for answer, truth in open_cases) / flats
    return error, open_cases[-1][0]["model_version"]


def main() -> None:
    if "--serve" in sys.argv:
        models().serve(port=3000)
        return
    with models().serving() as url:
        print(f"serving at {url}")
        number, error = 0, float("inf")
        while number < 5 or (
            error > 10 and number < MONTHS
        ):  # the world changes after the fourth; until that is learned
            a_square_metre = 4.0 if number < 4 else 7.0
            error, version = month(url, a_square_metre, 100)
            print(
                f"month {number + 1:2}: {a_square_metre:.0f} a square metre, mean error {error:6.1f}, version {version}"
            )
            number += 1
        with urllib.request.urlopen(f"{url}/v1/models/rent/timeline") as answer:
            for event in json.load(answer)["events"]:
                print(f"  {event['kind']:<12} {event['message']}")


if __name__ == "__main__":
    main()
