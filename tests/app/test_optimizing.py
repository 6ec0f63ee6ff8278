"""`everloop optimize`: examples from files and from what was recorded, the table, the file that it writes, and the numbers again."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.optimization.forms import given_rows, linear_artifact
from typer.testing import CliRunner

from everloop import Continuum, LearningConfig
from everloop.app.cli.commands import app
from everloop.core.hashing import artifact_digest
from everloop.optimization import variants
from everloop.optimization.opening import Cost
from everloop.runtime.artifact import Trust, read_model_file
from everloop.runtime.linear import LinearModel
from everloop.runtime.packaged import write_artifact

runner = CliRunner()
QUICK = ("--seconds", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and rows."""
    from sklearn.linear_model import LogisticRegression

    import everloop

    folder = tmp_path_factory.mktemp("optimizing")
    X = np.array(given_rows(300))
    y = (X @ [1.0, -2.0, 0.5, 0.25] > 0).astype(int)
    everloop.save_model(LogisticRegression().fit(X, y), folder / "sign.skops")
    write_artifact(folder / "sum.artifact", *linear_artifact(classes=False))
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "c", "d", "sign"])
        rows.writerows([*row, int(label)] for row, label in zip(X.tolist(), y, strict=True))
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(made)
    monkeypatch.setattr(variants, "measure_opening", lambda *_, **__: Cost(0.25, 0.001, 30_000_000))
    return made


def invoke(*arguments: str) -> Any:
    return runner.invoke(app, ["optimize", *arguments])


def test_a_faster_form_is_shown_written_and_found_again(folder: Path) -> None:
    done = invoke("sign.skops", "--data", "rows.csv", "--label", "sign", "--plot", "forms.png", *QUICK)
    assert done.exit_code == 0, done.output
    head, original = done.stdout.splitlines()[:2]
    assert head.split()[:3] == ["form", "runtime", "size"]
    assert original.split()[:2] == ["original", "sklearn"]
    assert "CHOSEN" in done.stdout
    assert "times as fast at 1 row" in done.stdout
    assert "comparing on 300 rows of rows.csv" in done.stderr
    assert (folder / "forms.png").read_bytes().startswith(b"\x89PNG")
    manifest, _ = read_model_file(folder / "sign.optimized.artifact", trust=Trust())
    assert manifest.lineage["optimization"]["data"]["labelled"] is True

    again = invoke("sign.skops", "--data", "rows.csv", "--label", "sign", "--verify", "sign.optimized.artifact", "-q")
    assert again.exit_code == 0, again.output
    assert "numbers come out again" in again.stdout
    other = invoke(
        "sign.skops",
        "--data",
        "rows.csv",
        "--label",
        "sign",
        "--limit",
        "299",
        "--verify",
        "sign.optimized.artifact",
        "--json",
    )
    assert other.exit_code == 1
    told = json.loads(other.stdout)
    assert "examples, SHA-256" in [check["what"] for check in told["checks"] if not check["holds"]]


def test_a_payload_that_was_put_in_its_place_is_noticed(folder: Path) -> None:
    done = invoke("sum.artifact", "--data", "rows.csv", "--label", "sign", "-o", "sum2.artifact", *QUICK)
    assert done.exit_code == 0, done.output
    manifest, payload = read_model_file(folder / "sum2.artifact", trust=Trust())
    plain, original = linear_artifact(classes=False)
    model = LinearModel.unpack(original)
    swapped = LinearModel(-model.weights, -model.bias, model.fill).pack()
    told = json.loads(json.dumps(manifest.lineage))
    for form in told["optimization"]["forms"]:
        if form["digest"] == artifact_digest(payload):
            form["digest"] = artifact_digest(swapped)
    write_artifact(folder / "swapped.artifact", msgspec.structs.replace(plain, lineage=told), swapped)
    again = ("sum.artifact", "--data", "rows.csv", "--label", "sign", "--json", "--verify")
    assert json.loads(invoke(*again, "sum2.artifact").stdout)["holds"] is True
    done = invoke(*again, "swapped.artifact")
    assert done.exit_code == 1
    failed = {check["what"] for check in json.loads(done.stdout)["checks"] if not check["holds"]}
    assert f"{told['optimization']['chosen']} in the file, passed" in failed


def test_without_examples_it_says_loudly_that_it_proves_little(folder: Path) -> None:
    done = invoke("sum.artifact", "--int8", "-o", "out.artifact", "--json", *QUICK)
    assert done.exit_code == 0, done.output
    assert "NO EXAMPLES" in done.stderr
    told = json.loads(done.stdout)
    assert told["data"]["source"] == "made up"
    assert [form["why"] for form in told["forms"] if form["name"] == "int8"] == ["there are no examples to prove it on"]
    assert told["written"] == "out.artifact"
    assert read_model_file(folder / "out.artifact", trust=Trust())[1]


def test_what_was_recorded_is_compared_on(folder: Path, tmp_path: Path) -> None:
    with Continuum(LearningConfig(min_samples=30, interval_sec=0), data_dir=tmp_path) as models:
        models.register_model("sum", "linear")
        for row in given_rows(120):
            models.add_training_example("sum", row, sum(row))
        models.train_model("sum")
    done = invoke("sum", "--data-dir", str(tmp_path), "--json", *QUICK)
    assert done.exit_code == 0, done.output
    assert "120 recorded rows of sum" in done.stderr
    told = json.loads(done.stdout)
    assert (told["data"]["rows"], told["data"]["labelled"]) == (120, True)
    assert told["forms"][0]["runtime"] == "linear"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sum.artifact", "--label", "sign"), 2, "--label names a column of --data FILE"),
        (("sum.artifact", "--data", "rows.csv", "--label", "sing"), 1, "has no column 'sing'"),
        (("sum.artifact", "--data", "rows.csv"), 1, "takes 4 features without names"),
        (("sum.artifact", "--verify", "x.artifact", "-o", "y.artifact"), 2, "--verify checks an artifact"),
        (("sum.artifact", "-o", "nowhere/y.artifact"), 2, "there is no folder nowhere"),
        (("sum.artifact", "--data", "rows.csv", "--label", "sign", "--verify", "sum.artifact"), 1, "does not tell how"),
        (("sum.artifact", "--plot", "forms.xyz"), 2, "a picture ends with"),
        (("math:sqrt",), 2, "is a function"),
        (("absent.onnx",), 1, "absent.onnx"),
    ],
)
def test_what_cannot_be_done_is_told(folder: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = invoke(*arguments)
    assert words in done.output
    assert done.exit_code == code


def test_a_bad_row_is_named_by_its_line(folder: Path) -> None:
    (folder / "bad.csv").write_text("a,b,c,d,y\n1,2,3,4,1\n1,x,3,4,0\n")
    done = invoke("sum.artifact", "--data", "bad.csv", "--label", "y")
    assert done.exit_code == 1
    assert "bad.csv, line 3, column 'b'" in done.output
    (folder / "bad.csv").write_text("a,b,c,d,y\n1,2,3,4,1\n1,2,3,4,\n")
    done = invoke("sum.artifact", "--data", "bad.csv", "--label", "y")
    assert "bad.csv, line 3: label" in done.output


def test_labels_that_are_no_classes_are_an_error_or_told(folder: Path) -> None:
    strange = "a,b,c,d,y\n" + "1,2,3,4,7\n" * 20
    (folder / "strange.csv").write_text(strange + "1,2,3,4,8\n")
    done = invoke("sign.skops", "--data", "strange.csv", "--label", "y", "--int8", *QUICK)
    assert done.exit_code == 1
    assert "--label y: none of the 21 labels (7, 8) is a class of this model, which has 0, 1" in done.output
    (folder / "strange.csv").write_text(strange + "1,2,3,4,1\n")
    done = invoke("sign.skops", "--data", "strange.csv", "--label", "y", "-o", "strange.artifact", *QUICK)
    assert done.exit_code == 0, done.output
    assert "20 of 21 labels are none of the model's classes" in done.stderr


def test_a_graph_alone_is_written_only_where_the_form_is_one(folder: Path) -> None:
    done = invoke("sum.artifact", "--data", "rows.csv", "--label", "sign", "-o", "sum.onnx", *QUICK)
    assert done.exit_code == 1
    assert "is no ONNX graph" in done.output
