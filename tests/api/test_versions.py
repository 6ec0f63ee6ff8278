"""Versions over HTTP: handed in as files, named, tagged, chosen by header, exported and imported, collected."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from everloop.api.override import OverrideKeys
from everloop.api.services import Services

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Make = Callable[..., str]
KEY = "a-key-of-sixteen-characters"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Model files of one feature: y = 2 x and y = 3 x as skops, y = 4 x as ONNX, one of two features."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    import everloop

    folder = tmp_path_factory.mktemp("files")
    X = np.arange(10.0).reshape(-1, 1)
    made: dict[str, bytes] = {}
    for name, slope in (("two", 2), ("three", 3)):
        path = everloop.save_model(LinearRegression().fit(X, slope * X[:, 0]), folder / f"{name}.skops")
        made[name] = Path(path).read_bytes()
    made["four"] = to_onnx(LinearRegression().fit(X, 4 * X[:, 0]), X[:1].astype(np.float32)).SerializeToString()
    wide = LinearRegression().fit(np.c_[X, X], X[:, 0])
    made["wide"] = Path(everloop.save_model(wide, folder / "wide.skops")).read_bytes()
    return made


def hand_in(client: TestClient, model: str, payload: bytes, /, **query: Any) -> Any:
    headers = {"content-type": "application/octet-stream"}
    return client.post(f"/v1/models/{model}/versions", content=payload, params=query, headers=headers)


def answer(client: TestClient, name: str, x: float = 10.0, /, **headers: str) -> tuple[int, float]:
    got = client.post(f"/v1/models/{name}/predict", json={"features": [x]}, headers=headers)
    assert got.status_code == 200, got.text
    return got.json()["model_version"], round(got.json()["prediction"], 3)


def code(got: Any) -> tuple[int, str]:
    return got.status_code, got.json()["code"]


# --- handing in


def test_ci_hands_in_a_version_that_waits_and_one_that_serves(client: TestClient, files: dict[str, bytes]) -> None:
    first = hand_in(client, "m", files["two"], live=True, name="v1.0", note="from CI", file="two.skops")
    assert first.status_code == 201, first.text
    assert first.headers["location"] == "/v1/models/m/versions/1"
    told = first.json()
    assert (told["version"], told["status"], told["serving"], told["name"]) == (1, "live", True, "v1.0")
    assert (told["note"], told["share"], told["runtime"]) == ("from CI", 1.0, "sklearn")
    second = hand_in(client, "m", files["four"], name="v2.0", file="four.onnx")
    assert second.status_code == 201, second.text
    told = second.json()
    assert (told["version"], told["status"], told["serving"], told["share"]) == (2, "staging", False, 0.0)
    assert (told["note"], told["runtime"]) == ("from four.onnx", "onnx")
    assert answer(client, "m") == (1, 20.0)
    assert client.post("/v1/models/m/promote", json={"version": "v2.0"}).json()["serving"]
    assert answer(client, "m") == (2, 40.0)


def test_the_same_bytes_again_are_the_version_that_is_there(client: TestClient, files: dict[str, bytes]) -> None:
    hand_in(client, "m", files["two"], live=True)
    again = hand_in(client, "m", files["two"])
    assert (again.status_code, again.json()["version"], again.json()["status"]) == (200, 1, "live")
    assert len(client.get("/v1/models/m/versions").json()["versions"]) == 1


def test_a_version_is_handed_in_to_a_model_that_learns(
    client: TestClient, trained: Make, files: dict[str, bytes]
) -> None:
    name = trained(factor=2.0)
    got = hand_in(client, name, files["three"])
    assert (got.status_code, got.json()["version"]) == (201, 2)
    assert answer(client, name, 10.0)[0] == 1


def test_what_is_no_such_file_is_refused_and_leaves_nothing(client: TestClient, files: dict[str, bytes]) -> None:
    import pickle

    assert code(hand_in(client, "m", b"")) == (400, "malformed")
    assert code(hand_in(client, "m", b"not a model")) == (422, "not_supported")
    assert code(hand_in(client, "m", pickle.dumps({"a": 1}))) == (403, "untrusted")
    assert code(hand_in(client, "m", files["four"][: len(files["four"]) // 2]))[0] in (400, 422)
    assert code(hand_in(client, "m", files["two"], name="no name")) == (422, "invalid_input")
    assert code(hand_in(client, "m", files["two"], name="champion")) == (422, "invalid_input")
    assert code(hand_in(client, "bad name", files["two"])) == (422, "invalid_input")
    assert code(hand_in(client, "m", files["two"], live="perhaps")) == (422, "invalid_input")
    assert code(hand_in(client, "m", files["two"], note="x" * 1001)) == (422, "invalid_input")
    wrong = client.post("/v1/models/m/versions", json={"version": 1})
    assert code(wrong) == (415, "unsupported_media_type")
    assert code(client.get("/v1/models/bad name")) == (404, "model_not_found")


def test_what_is_damaged_is_the_fault_of_whoever_hands_it_in(client: TestClient, files: dict[str, bytes]) -> None:
    def zipped(**entries: str) -> bytearray:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, text in entries.items():
                file.writestr(name.replace("_", "."), text)
        return bytearray(buffer.getvalue())

    got = hand_in(client, "m", bytes(zipped(schema_json="{}")))
    assert code(got) == (400, "malformed"), got.text
    assert got.json()["field"] == "body"
    assert code(hand_in(client, "m", bytes(zipped(everloop_json="{}", payload="")))) == (400, "malformed")
    broken = bytearray(files["two"])
    broken[len(broken) // 3] ^= 255
    assert code(hand_in(client, "m", bytes(broken))) == (400, "malformed")
    for place, byte in ((6, 200), (46, 255)):  # a version of zip to come; a name that is no text
        forged = zipped(schema_json="{}")
        directory = forged.rindex(b"PK\x01\x02")
        forged[directory + 9] |= 8  # names are UTF-8
        forged[directory + place] = byte
        assert code(hand_in(client, "m", bytes(forged))) == (422, "not_supported")
    assert code(client.get("/v1/models/m")) == (404, "model_not_found")


def test_a_file_that_does_not_fit_the_model_is_a_conflict(client: TestClient, files: dict[str, bytes]) -> None:
    hand_in(client, "m", files["two"], live=True, name="v1.0")
    assert code(hand_in(client, "m", files["wide"])) == (409, "conflict")
    assert code(hand_in(client, "m", files["three"], name="v1.0")) == (409, "conflict")


def test_a_file_beyond_the_limit_is_refused_as_it_arrives(client: TestClient, services: Services) -> None:
    most = services.limits.max_upload

    def endless() -> Any:
        for _ in range(1000):
            yield b"x" * most

    headers = {"content-type": "application/octet-stream"}
    got = client.post("/v1/models/m/versions", content=endless(), headers=headers)
    assert code(got) == (413, "too_large")
    assert "max_upload" in got.json()["detail"]
    assert code(hand_in(client, "m", b"x" * (most + 1))) == (413, "too_large")


# --- what they are called


def test_a_version_is_named_tagged_and_noted(client: TestClient, files: dict[str, bytes]) -> None:
    hand_in(client, "m", files["two"], live=True)
    at = "/v1/models/m/versions/1"
    said = {"name": "v1.0", "note": "reviewed", "tags": {"who": "ann", "stage": "x"}}
    told = client.patch(at, json=said).json()
    assert (told["name"], told["note"], told["tags"]) == ("v1.0", "reviewed", {"who": "ann", "stage": "x"})
    assert client.patch(at, json={"tags": {"stage": None}}).json()["tags"] == {"who": "ann"}
    for ref in ("1", "v1.0", "champion", "m@v1.0"):
        assert client.get(f"/v1/models/m/versions/{ref}").json()["version"] == 1
    assert code(client.patch(at, json={"name": "7"})) == (422, "invalid_input")
    assert code(client.patch(at, json={"tags": {"a": 1}})) == (422, "invalid_input")
    assert code(client.patch("/v1/models/m/versions/9", json={"note": ""})) == (404, "version_not_found")
    assert code(client.get("/v1/models/m/versions/challenger")) == (404, "version_not_found")
    kinds = [e["kind"] for e in client.get("/v1/models/m/timeline?limit=20").json()["events"]]
    assert {"tagged", "noted"} <= set(kinds)


def test_aliases_are_set_moved_listed_and_removed(client: TestClient, files: dict[str, bytes]) -> None:
    hand_in(client, "m", files["two"], live=True)
    hand_in(client, "m", files["three"])
    at = "/v1/models/m/aliases"
    assert client.put(f"{at}/stable", json={"version": 1}).json()["aliases"] == {"champion": 1, "stable": 1}
    assert client.put(f"{at}/stable", json={"version": 2}).json()["aliases"] == {"champion": 1, "stable": 2}
    assert client.get(at).json() == {"model": "m", "aliases": {"champion": 1, "stable": 2}}
    assert client.get("/v1/models/m/versions/stable").json()["aliases"] == ["stable"]
    assert code(client.put(f"{at}/champion", json={"version": 1})) == (422, "invalid_input")
    assert code(client.put(f"{at}/best", json={"version": "none"})) == (404, "version_not_found")
    for _ in range(2):
        assert client.delete(f"{at}/stable").status_code == 204, "asking again does no harm"
    assert client.get(at).json()["aliases"] == {"champion": 1}


@pytest.mark.parametrize("ref", ["x", "0", "9" * 100, "9" * 5000, "²", "a@b", "m@", "@1", "nobody@1", "a/../b"])
def test_a_version_that_is_not_there_is_said_so(client: TestClient, trained: Make, ref: str) -> None:
    name = trained()
    got = client.post(f"/v1/models/{name}/promote", json={"version": ref})
    assert got.status_code in (404, 422), got.text
    assert client.get(f"/v1/models/{name}/versions/{ref.replace('/', '%2F')}").status_code in (404, 422)


def test_lineage_says_what_it_was_trained_on(client: TestClient, trained: Make, teach: Callable[..., None]) -> None:
    name = trained(factor=2.0)
    teach(name, 3.0, 50)
    told = client.get(f"/v1/models/{name}/versions/2/lineage").json()
    assert (told["version"], [a["version"] for a in told["chain"]]) == (2, [2, 1])
    assert told["chain"][0]["examples"] >= 40
    assert client.get(f"/v1/models/{name}/versions/1/lineage").json()["children"] == [2]


# --- choosing one by header


def test_without_a_key_nobody_chooses_a_version(
    client: TestClient, services: Services, files: dict[str, bytes]
) -> None:
    hand_in(client, "m", files["two"], live=True)

    def ask(**headers: str) -> Any:
        return client.post("/v1/models/m/predict", json={"features": [1.0]}, headers=headers)

    assert code(ask(**{"Everloop-Version": "1"})) == (403, "forbidden")
    services.override_keys = OverrideKeys([KEY])
    for headers in ({}, {"Everloop-Key": "wrong"}, {"Everloop-Key": KEY[:-1]}):
        got = ask(**{"Everloop-Version": "1"}, **headers)
        assert code(got) == (403, "forbidden")
        assert KEY not in got.text
    assert ask(**{"Everloop-Key": "wrong"}).status_code == 200, "a key alone asks for nothing"


def test_with_a_key_a_version_that_is_open_answers(
    client: TestClient, services: Services, files: dict[str, bytes]
) -> None:
    services.override_keys = OverrideKeys(["another-key-of-many-characters", KEY])
    for name in ("two", "three", "four"):
        hand_in(client, "m", files[name], live=name == "two", name=name)
    client.put("/v1/models/m/traffic", json={"weights": {"two": 0.9, "three": 0.1}})
    assert services.reconciler.wait_open("m", 2, 100), "it is tried in a process of its own first"
    for ref, expected in (("three", (2, 30.0)), ("2", (2, 30.0)), ("champion", (1, 20.0))):
        asked = {"Everloop-Version": ref, "Everloop-Key": KEY}
        assert answer(client, "m", **asked) == expected
    rows = client.post(
        "/v1/models/m/predict",
        json={"instances": [[1.0], [2.0]]},
        headers={"Everloop-Version": "three", "Everloop-Key": KEY},
    ).json()
    assert (rows["model_version"], [round(p) for p in rows["predictions"]]) == (2, [3, 6])
    for ref, expected_code in (("four", (409, "conflict")), ("nothing", (404, "version_not_found"))):
        got = client.post(
            "/v1/models/m/predict",
            json={"features": [1.0]},
            headers={"Everloop-Version": ref, "Everloop-Key": KEY},
        )
        assert code(got) == expected_code
    assert (
        "open"
        in client.post(
            "/v1/models/m/predict",
            json={"features": [1.0]},
            headers={"Everloop-Version": "four", "Everloop-Key": KEY},
        ).json()["detail"]
    )


# --- files out and in


def test_a_model_is_exported_and_imported(client: TestClient, files: dict[str, bytes]) -> None:
    hand_in(client, "m", files["two"], live=True, name="v1.0")
    hand_in(client, "m", files["four"])
    client.put("/v1/models/m/aliases/stable", json={"version": 1})
    out = client.get("/v1/models/m/export")
    assert (out.status_code, out.headers["content-type"]) == (200, "application/octet-stream")
    assert int(out.headers["content-length"]) == len(out.content)
    headers = {"content-type": "application/octet-stream"}
    made = client.post("/v1/imports", params={"name": "copy", "live": "true"}, content=out.content, headers=headers)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/v1/models/copy"
    assert answer(client, "copy")[1] == 20.0
    assert [v["name"] for v in client.get("/v1/models/copy/versions").json()["versions"]] == ["v1.0", ""]
    damaged = bytearray(out.content)
    damaged[len(damaged) // 2] ^= 1
    got = client.post("/v1/imports", params={"name": "bad"}, content=bytes(damaged), headers=headers)
    assert got.status_code in (400, 422), got.text
    assert code(client.get("/v1/models/bad")) == (404, "model_not_found")
    assert code(client.get("/v1/models/nobody/export")) == (404, "model_not_found")


def test_what_nobody_needs_is_collected(client: TestClient, files: dict[str, bytes]) -> None:
    hand_in(client, "m", files["two"], live=True)
    hand_in(client, "m", files["three"])
    client.post("/v1/models/m/archive", json={"version": 2})
    assert client.post("/v1/artifacts/collect", json={"archived": True, "keep": 1}).json()["artifacts"] == 0
    told = client.post("/v1/artifacts/collect", json={"archived": True}).json()
    assert told["versions"] == [["m", 2]]
    assert code(client.post("/v1/models/m/promote", json={"version": 2})) == (409, "conflict")
    assert client.post("/v1/artifacts/collect").status_code == 200
    assert answer(client, "m") == (1, 20.0)


def test_uploads_at_once_are_bounded(client: TestClient, services: Services, files: dict[str, bytes]) -> None:
    api = client.app.state.api  # type: ignore[attr-defined]
    with api.uploading(), api.uploading():
        got = hand_in(client, "m", files["two"])
    assert code(got) == (503, "overloaded")
    assert got.headers["retry-after"] == "1"
    assert hand_in(client, "m", files["two"]).status_code == 201
    assert io.BytesIO(files["two"]).read(2) == b"PK"
