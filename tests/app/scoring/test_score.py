"""What comes out for what goes in: every format to every other, bad rows, columns, and what is refused."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.app.scoring.conftest import Score

from everloop.app.scoring.job import Job, Summary
from everloop.core.errors import Conflict, EverloopError, InvalidInput, MissingExtra, ModelFailed, NotSupported

ROWS = [
    {"a": 1.0, "b": 2.0, "note": "plain"},
    {"a": -1.0, "b": -2.0, "note": 'a "quoted", note'},
    {"a": 0.5, "b": -3.25, "note": "two\nlines; ünïcode ☃"},
]
ANSWERS = ["yes", "no", "no"]


def write(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    rows = ROWS if rows is None else rows
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith(".ndjson"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        with (path.parent / "made.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
        text = (path.parent / "made.csv").read_bytes().decode()
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> list[dict[str, Any]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return pq.read_table(path).to_pylist()
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if name.endswith(".ndjson"):
        return [json.loads(line) for line in data.decode().split("\n")[:-1]]
    lines = data.decode().split("\n")
    delimiter = "\t" if name.endswith(".tsv") else ","
    return list(csv.DictReader((line + "\n" for line in lines[:-1]), delimiter=delimiter))


FORMATS = ["t.csv", "t.csv.gz", "t.tsv", "t.ndjson", "t.ndjson.gz", "t.parquet"]


@pytest.mark.parametrize("into", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_format_to_every_other(run: Score, folder: Path, skops: Path, source: str, into: str) -> None:
    write(folder / f"in-{source}")
    summary = run(str(skops), f"in-{source}", f"out-{into}", scores=True)
    assert (summary.rows, summary.written, summary.errors) == (3, 3, 0)
    found = read(folder / f"out-{into}")
    assert [row["prediction"] for row in found] == ANSWERS
    assert [row["note"] for row in found] == [row["note"] for row in ROWS]
    assert [(float(row["a"]), float(row["b"])) for row in found] == [(row["a"], row["b"]) for row in ROWS]
    for row in found:
        assert math.isclose(float(row["score_no"]) + float(row["score_yes"]), 1.0)
        assert (float(row["score_yes"]) > 0.5) == (row["prediction"] == "yes")
        assert len(row["model_digest"]) == 12
    assert sorted(path.name for path in folder.glob("out*")) == [f"out-{into}"], "nothing is left beside it"


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=9),
)
records = st.dictionaries(st.text(max_size=5).filter(lambda name: name != "prediction"), values, max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records, max_size=6))
def test_ndjson_keeps_every_value_as_it_is(run: Score, folder: Path, rows: list[dict[str, Any]]) -> None:
    write(folder / "t.ndjson", rows)
    run("fn:echo", "t.ndjson", "out.ndjson", force=True)
    assert read(folder / "out.ndjson") == [{**row, "prediction": row} for row in rows]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=2, max_size=2), min_size=1
    )
)
def test_csv_keeps_every_cell_as_it_is(run: Score, folder: Path, rows: list[list[str]]) -> None:
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["p", "q"], *rows])
    run("fn:echo", "t.csv", "out.csv", force=True, types={"p": "text", "q": "text"})
    with (folder / "out.csv").open(newline="\n", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert [row[:2] for row in found] == [["p", "q"], *rows]
    assert [json.loads(row[2]) for row in found[1:]] == [{"p": p or None, "q": q or None} for p, q in rows]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("x\n1\n2\n", ["int", "int"]),
        ("x\n1\n2.5\n", ["int", "float"]),
        ("x,y\n,1\nNaN,2\n3,3\n", ["NoneType", "NoneType", "int"]),
        ("x\n007\n", ["str"]),
        ("x\ntrue\nfalse\n", ["bool", "bool"]),
        ("x\r\n1\r\n\r\n2\r\n", ["int", "int"]),
        ("\n\nx\n1", ["int"]),
        ("\ufeffx\n1\n", ["int"]),
        ("x;y\n1;2\n", ["int"]),
        ("x|y\n1|2\n", ["int"]),
    ],
)
def test_a_function_is_given_values_not_texts(run: Score, folder: Path, text: str, kinds: list[str]) -> None:
    (folder / "t.csv").write_bytes(text.encode())
    run("fn:kind", "t.csv", "out.ndjson")
    assert [row["prediction"] for row in read(folder / "out.ndjson")] == kinds


def test_an_empty_file_has_no_rows(run: Score, folder: Path, skops: Path) -> None:
    (folder / "t.csv").write_text("a,b\n")
    (folder / "t.ndjson").write_text("\n\n")
    assert run(str(skops), "t.csv", "out.csv").rows == 0
    assert (folder / "out.csv").read_text() == "a,b,prediction,model_digest\n"
    run("fn:double", "t.ndjson", "out.ndjson")
    assert (folder / "out.ndjson").read_bytes() == b""
    run(str(skops), "t.csv", "out.parquet")
    assert pq.read_table("out.parquet").schema.names == ["a", "b", "prediction", "model_digest"]
    (folder / "t.csv").write_text("")
    with pytest.raises(InvalidInput, match=r"t\.csv is empty: expected a first line"):
        run(str(skops), "t.csv", "out2.csv")


@pytest.mark.parametrize("source", ["t.csv", "t.ndjson", "t.parquet"])
def test_columns_can_be_chosen_and_named(run: Score, folder: Path, skops: Path, source: str) -> None:
    write(folder / source)
    run(str(skops), source, "out.csv", keep=("note",), prediction="answer", version=False)
    assert list(read(folder / "out.csv")[0]) == ["note", "answer"]
    with pytest.raises(InvalidInput, match=r"two columns|has a column 'note' already"):
        run(str(skops), source, "out2.csv", prediction="note")


def test_features_are_found_by_name_by_choice_or_by_place(run: Score, folder: Path, skops: Path) -> None:
    write(folder / "t.csv", [{"q": 9, "b": 2, "a": 1, "c": -5}])
    run(str(skops), "t.csv", "out.csv", keep=())
    assert read(folder / "out.csv")[0]["prediction"] == "yes"
    run(str(skops), "t.csv", "out2.csv", features=("c", "b"))
    assert read(folder / "out2.csv")[0]["prediction"] == "no"
    for features, said in [
        (("a",), "takes 2 features"),
        (("a", "bb"), "no column 'bb'; did you mean 'b'"),
    ]:
        with pytest.raises(InvalidInput, match=said):
            run(str(skops), "t.csv", "out3.csv", features=features)
    write(folder / "t.csv", [{"a": 1, "x": 2}])
    with pytest.raises(InvalidInput, match=r"the input has no column 'b', which m.skops takes; it has a, x"):
        run(str(skops), "t.csv", "out3.csv")


BAD = "a,b,note\n1,2,fine\nx,2,bad number\n1,,missing\n1\n1,2,3,4\n-1,-2,fine\n"


def test_the_first_bad_row_ends_the_run_and_is_named(run: Score, folder: Path, skops: Path) -> None:
    (folder / "t.csv").write_text(BAD)
    with pytest.raises(InvalidInput, match=r"^t\.csv, line 3, column 'a': expected a finite number, got 'x'"):
        run(str(skops), "t.csv", "out.csv")
    assert not (folder / "out.csv").exists()


def test_bad_rows_can_be_skipped_kept_or_put_elsewhere(run: Score, folder: Path, skops: Path) -> None:
    (folder / "t.csv").write_text(BAD)
    said = [
        "column 'a': expected a finite number, got 'x'",
        "column 'b': a value is required, it is missing",
        "1 values, but the header names 3 columns",
        "4 values, but the header names 3 columns",
    ]
    skipped = run(str(skops), "t.csv", "skipped.csv", on_error="skip", dead_letter=Path("dead.ndjson"))
    assert (skipped.rows, skipped.written, skipped.errors) == (6, 2, 4)
    assert [row["prediction"] for row in read(folder / "skipped.csv")] == ["yes", "no"]
    dead = read(folder / "dead.ndjson")
    assert [letter["line"] for letter in dead] == [3, 4, 5, 6]
    assert dead[0]["row"] == {"a": "x", "b": "2", "note": "bad number"}
    assert dead[2]["row"] == ["1"]
    kept = run(str(skops), "t.csv", "kept.csv", on_error="keep")
    assert (kept.rows, kept.written, kept.errors) == (6, 6, 4)
    found = read(folder / "kept.csv")
    assert [row["error"] for row in found] == ["", *said, ""]
    assert [row["prediction"] for row in found] == ["yes", "", "", "", "", "no"]
    for into in ("kept.ndjson", "kept.parquet"):
        run(str(skops), "t.csv", into, on_error="keep", types={"a": "text", "b": "text"})
        assert [row["error"] for row in read(folder / into)] == [None, *said, None]


def test_bad_lines_of_ndjson(run: Score, folder: Path) -> None:
    lines = ['{"x": 1}', '{"x": ', "3", '{"x": "y"}', '{"x": NaN}', '{"x": Infinity}', "[5]", "{}", '{"x": 13}', "\xff"]
    (folder / "t.ndjson").write_bytes("\n".join(lines).encode("latin-1"))
    run("fn:pick", "t.ndjson", "out.ndjson", on_error="keep")
    found = read(folder / "out.ndjson")
    errors = [row["error"] for row in found]
    assert [row["prediction"] for row in found][:5:3] == [1, "y"]
    assert found[4] == {"x": None, "prediction": None, "error": None} or found[4]["prediction"] is None
    assert [error is None for error in errors] == [True, False, False, True, True, False, False, False, False, False]
    assert "not JSON" in errors[1]
    assert errors[2] == "expected a JSON object, got 3"
    assert errors[8].startswith("ValueError: thirteen (in pick, fn.py:")
    assert "not UTF-8" in errors[9]


def test_texts_in_another_encoding_are_bad_rows(run: Score, folder: Path) -> None:
    (folder / "t.csv").write_bytes("x,y\n1,fine\n2,caf\xe9\n3,\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="line 3, not UTF-8 text"):
        run("fn:double", "t.csv", "out.csv")
    run("fn:double", "t.csv", "out.csv", on_error="skip")
    assert [row["prediction"] for row in read(folder / "out.csv")] == ["2", "6"]


@pytest.mark.parametrize("batch", [False, True])
def test_a_row_that_fails_never_spoils_its_neighbours(run: Score, folder: Path, batch: bool) -> None:
    write(folder / "t.parquet", [{"x": x} for x in range(40)])
    summary = run("fn:doubles" if batch else "fn:pick", "t.parquet", "out.parquet", batch=batch, on_error="skip")
    assert (summary.written, summary.errors) == (39, 1)
    assert [row["x"] for row in read(folder / "out.parquet")] == [x for x in range(40) if x != 13]
    with pytest.raises(InvalidInput, match=r"t\.parquet, row 14, ValueError: thirteen"):
        run("fn:doubles" if batch else "fn:pick", "t.parquet", "out2.parquet", batch=batch)


def test_a_batch_must_answer_every_row(run: Score, folder: Path) -> None:
    write(folder / "t.csv", [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}])
    with pytest.raises(ModelFailed, match=r"was given 4 rows and answered 1|was given 3 rows and answered 1"):
        run("fn:short", "t.csv", "out.csv", batch=True)


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ("1.5", 1.5),
        ("'t'", "t"),
        ("None", None),
        ("float('nan')", None),
        ("True", True),
        ("[1, 2]", [1.0, 2.0]),
        ("{'a': [1]}", '{"a": [1]}'),
        ("__import__('numpy').float32(0.5)", 0.5),
        ("__import__('numpy').array([1, 2])", [1.0, 2.0]),
        ("__import__('datetime').date(2024, 1, 2)", "2024-01-02"),
        ("__import__('decimal').Decimal('1.10')", "1.10"),
        ("{'day': __import__('datetime').date(2024, 1, 2), 1: float('nan')}", '{"day": "2024-01-02", "1": null}'),
        ("{'a': __import__('numpy').float32(0.5), 'b': __import__('numpy').arange(2)}", '{"a": 0.5, "b": [0, 1]}'),
    ],
)
def test_what_a_function_answers_has_a_place_in_every_format(run: Score, folder: Path, answer: str, cell: Any) -> None:
    write(folder / "t.ndjson", [{"answer": answer}] * 3)
    for into in ("out.ndjson", "out.csv", "out.parquet"):
        run("fn:answer", "t.ndjson", into)
    assert read(folder / "out.parquet")[2]["prediction"] == cell
    assert len(read(folder / "out.csv")) == len(read(folder / "out.ndjson")) == 3


@pytest.mark.parametrize("into", ["out.csv", "out.ndjson", "out.parquet"])
@pytest.mark.parametrize(
    "answer",
    [
        "float('inf')",
        "object()",
        "{'a': [float('inf')]}",
        "{(1, 2): 3}",
        "[{1, 2}]",
        "'\\udc80'",
        "10 ** 5000",
        "(lambda a: a.append(a) or a)([])",
        "type('Odd', (), {'__repr__': lambda self: 1 / 0})()",
    ],
)
def test_what_no_file_can_hold_is_an_error_of_its_row(run: Score, folder: Path, answer: str, into: str) -> None:
    write(folder / "t.ndjson", [{"answer": answer}, {"answer": "1"}])
    with pytest.raises(InvalidInput, match=r"line 1, the function answered"):
        run("fn:answer", "t.ndjson", into)
    assert run("fn:answer", "t.ndjson", into, on_error="skip").errors == 1


@pytest.mark.parametrize("batch", [False, True])
def test_a_function_that_exits_or_fails_oddly_spoils_its_row_alone(run: Score, folder: Path, batch: bool) -> None:
    (folder / "odd.py").write_text("""
class Mute(Exception):
    def __str__(self):
        raise RuntimeError

def one(row):
    if row["x"] == 1:
        raise SystemExit(3)
    if row["x"] == 2:
        raise Mute
    return row["x"]

def many(rows):
    return list(map(one, rows))
""")
    write(folder / "t.csv", [{"x": x} for x in range(5)])
    run("odd:many" if batch else "odd:one", "t.csv", "out.ndjson", on_error="keep", batch=batch)
    found = read(folder / "out.ndjson")
    assert [row["prediction"] for row in found] == [0, None, None, 3, 4]
    assert found[1]["error"].startswith("SystemExit: 3 (in one, odd.py:")
    assert found[2]["error"].startswith("Mute (in one, odd.py:")


def test_the_values_of_a_bad_row_are_of_their_kinds(run: Score, folder: Path) -> None:
    (folder / "t.csv").write_text("x,y,z\n" + "1,2.5,7\n" * 999 + "13,2.5,NA\n" + "14,2.5,3\n15,no,3\n16\n")
    run("fn:pick", "t.csv", "out.ndjson", on_error="keep")
    found = [{name: row[name] for name in "xyz"} for row in read(folder / "out.ndjson")[999:]]
    assert found == [
        {"x": 13, "y": 2.5, "z": None},
        {"x": 14, "y": 2.5, "z": 3},
        {"x": 15, "y": "no", "z": 3},
        {"x": 16, "y": None, "z": None},
    ]


def test_infinity_is_not_quietly_lost_in_json(run: Score, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"x": [1.0, math.inf, None, math.nan], "deep": [[1.0], [2.0], [-math.inf], None]})
    pq.write_table(table, folder / "t.parquet")
    with pytest.raises(InvalidInput, match="row 2, column 'x': JSON has no infinity; leave the column out with --keep"):
        run("fn:kind", "t.parquet", "out.ndjson")
    assert run("fn:kind", "t.parquet", "out.ndjson", on_error="skip").errors == 2
    run("fn:kind", "t.parquet", "out.csv")
    assert [row["x"] for row in read(folder / "out.csv")] == ["1.0", "inf", "", ""]
    run("fn:kind", "t.parquet", "out.parquet")
    assert read(folder / "out.parquet")[1]["x"] == math.inf


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n", "é"])
def test_a_delimiter_is_one_character(run: Score, folder: Path, delimiter: str) -> None:
    (folder / "t.csv").write_text("x\ty\n1\t2\n")
    with pytest.raises(InvalidInput, match=r"--delimiter .*: expected one character"):
        run("fn:kind", "t.csv", "out.csv", delimiter=delimiter)
    for tab in ("\\t", "tab", "\t"):
        assert run("fn:kind", "t.csv", "out.csv", delimiter=tab, force=True).rows == 1


@pytest.mark.parametrize("header", ['x;"a\nb"', '"a\nb";x', '"a,\n,;b";x', "\r\n\n x ; y "])
def test_names_may_have_line_ends_in_them(run: Score, folder: Path, header: str) -> None:
    (folder / "t.csv").write_text(f"{header}\n1;2\n3;4\n")
    assert run("fn:echo", "t.csv", "out.ndjson").rows == 2
    assert "x" in read(folder / "out.ndjson")[0]["prediction"]


def test_only_ordinary_files_are_replaced_and_links_are_followed(run: Score, folder: Path) -> None:
    write(folder / "t.csv", [{"x": 1}])
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidInput, match="is no ordinary file; for a pipe or a device say -o -"):
        run("fn:kind", "t.csv", "pipe", force=True, output_format="csv")
    with pytest.raises(InvalidInput, match="is no ordinary file"):
        run("fn:kind", "t.csv", "out.csv", dead_letter=folder / "pipe", on_error="skip", force=True)
    assert (folder / "pipe").is_fifo()
    (folder / "link.csv").symlink_to("target.csv")
    run("fn:kind", "t.csv", "link.csv")
    assert (folder / "link.csv").is_symlink()
    assert len(read(folder / "target.csv")) == 1


@pytest.mark.parametrize("how", ["grown", "shrunk"])
def test_an_input_that_changes_meanwhile_is_told(run: Score, folder: Path, how: str) -> None:
    (folder / "t.csv").write_text("x,note\n" + "1,abcdefgh\n" * 200_000)
    (folder / "changing.py").write_text(f"""
import os

def one(row):
    if row["x"] == 1 and not os.path.exists("done"):
        open("done", "w").close()
        if {how!r} == "grown":
            with open("t.csv", "a") as file:
                file.write("2,i\\n")
        else:
            os.truncate("t.csv", 1_000_000)
    return 1
""")
    said: list[str] = []
    if how == "shrunk":
        with pytest.raises(InvalidInput, match="was cut short while it was read: it had 2,200,007 bytes"):
            run("changing:one", "t.csv", "out.csv", said=said)
        assert not (folder / "out.csv").exists()
    else:
        run("changing:one", "t.csv", "out.csv", said=said)
        assert any("was changed while it was read" in each for each in said)


def test_an_answer_that_does_not_fit_its_column_is_an_error_of_its_row(run: Score, folder: Path) -> None:
    write(folder / "t.ndjson", [{"answer": "1"}, {"answer": "2.5"}, {"answer": "'x'"}, {"answer": "4"}])
    summary = run("fn:answer", "t.ndjson", "out.parquet", on_error="skip")
    assert summary.errors == 1
    assert [row["prediction"] for row in read(folder / "out.parquet")] == [1.0, 2.5, 4.0]


def test_a_column_that_comes_late_needs_a_decision(run: Score, folder: Path) -> None:
    write(folder / "t.ndjson", [{"x": 1}] * 2000 + [{"x": 2, "late": 3}])
    with pytest.raises(InvalidInput, match="line 2001, column 'late': not among the columns at the beginning"):
        run("fn:double", "t.ndjson", "out.csv")
    run("fn:double", "t.ndjson", "out.csv", keep=("x",), restart=True)
    run("fn:double", "t.ndjson", "out.ndjson")
    assert read(folder / "out.ndjson")[-1] == {"x": 2, "late": 3, "prediction": 4}


def test_a_file_of_one_json_array_says_how_to_convert_it(run: Score, folder: Path) -> None:
    (folder / "t.ndjson").write_text('[{"x": 1}, {"x": 2}]')
    with pytest.raises(InvalidInput, match=r"convert it first, e\.g\. jq -c"):
        run("fn:kind", "t.ndjson", "out.ndjson")


@pytest.mark.parametrize("into", ["out.csv", "out.ndjson", "out.parquet"])
def test_every_format_can_be_written_by_worker_processes(run: Score, folder: Path, into: str) -> None:
    write(folder / "t.ndjson", [{"x": x} for x in range(30_000)])  # more than are scored here before they are spread
    summary = run("fn:double", "t.ndjson", into, executor="process", workers=2)
    assert (summary.executor, summary.rows) == ("process", 30_000)
    assert [float(row["prediction"]) for row in read(folder / into)] == [2.0 * x for x in range(30_000)]


def test_values_of_several_kinds_have_no_place_in_parquet(run: Score, folder: Path) -> None:
    write(folder / "t.ndjson", [{"x": 1}, {"x": "one"}])
    with pytest.raises(InvalidInput, match="line 2, column 'x': expected int64, as further up in the file, got 'one'"):
        run("fn:echo", "t.ndjson", "out.parquet")
    write(folder / "t.ndjson", [{"x": 1}, {"x": [1]}])
    with pytest.raises(InvalidInput, match="column 'x' holds values of several kinds"):
        run("fn:echo", "t.ndjson", "out2.parquet")


def test_parquet_keeps_types_row_groups_of_any_size_and_nulls(run: Score, folder: Path) -> None:
    table = pa.table(
        {
            "x": pa.array(range(1000), pa.int32()),
            "when": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 999 + [None], pa.timestamp("us", "UTC")),
            "word": pa.array(["a", "b", None, "d"] * 250).dictionary_encode(),
            "parts": pa.array([[1, 2], None] * 500, pa.list_(pa.int8())),
        }
    )
    pq.write_table(table, folder / "t.parquet", row_group_size=77)
    run("fn:double", "t.parquet", "out.parquet")
    found = pq.read_table(folder / "out.parquet")
    assert found.drop_columns("prediction").to_pylist() == table.to_pylist()
    assert found.schema.field("x").type == pa.int32()
    assert found.schema.field("when").type == pa.timestamp("us", "UTC")
    assert found["prediction"].to_pylist() == [2.0 * x for x in range(1000)]
    for into in ("out.csv", "out.ndjson"):
        run("fn:double", "t.parquet", into)
        assert len(read(folder / into)) == 1000


def test_what_is_refused_says_why(run: Score, folder: Path, skops: Path) -> None:
    write(folder / "t.csv")
    (folder / "t.txt").write_text("a\n")
    (folder / "odd.csv").write_text("a,a\n1,2\n")
    (folder / "numbers.csv").write_text("1,2\n3,4\n")
    (folder / "mac.csv").write_bytes(b"a,b\r1,2\r")
    (folder / "no.parquet").write_text("no")
    (folder / "there.csv").write_text("")
    refused: list[tuple[type[EverloopError], str, dict[str, Any]]] = [
        (InvalidInput, r"there is no file t\.cvs; did you mean t\.csv", {"source": "t.cvs", "input_format": "csv"}),
        (InvalidInput, "its format is not clear", {"source": "t.txt"}),
        (InvalidInput, "two columns are named 'a'", {"source": "odd.csv"}),
        (InvalidInput, "the first line has only numbers", {"source": "numbers.csv"}),
        (InvalidInput, "line ends of old Macs", {"source": "mac.csv"}),
        (InvalidInput, "cannot be read as Parquet", {"source": "no.parquet"}),
        (InvalidInput, "is the input", {"output": "./t.csv"}),
        (InvalidInput, "there is no folder", {"output": "nowhere/out.csv"}),
        (InvalidInput, "is a folder", {"output": ".", "output_format": "csv"}),
        (InvalidInput, "Parquet cannot be streamed", {"output": "-", "output_format": "parquet"}),
        (InvalidInput, "no column 'nota'; did you mean 'note'", {"keep": ("nota",)}),
        (InvalidInput, "--type: the input has no column 'z'", {"types": {"z": "text"}}),
        (InvalidInput, "there is no module fm here", {"model": "fm:double"}),
        (InvalidInput, "fn has no dubble; did you mean double", {"model": "fn:dubble"}),
        (InvalidInput, "--scores is for models", {"model": "fn:double", "scores": True}),
        (InvalidInput, "--batch is for functions", {"batch": True}),
        (InvalidInput, "--dead-letter needs", {"dead_letter": Path("d.ndjson")}),
        (InvalidInput, "there is no such file, and no data folder", {"model": "churn"}),
        (NotSupported, "t.txt is", {"model": "./t.txt"}),
        (Conflict, "there.csv is there already; say --force", {"output": "there.csv"}),
    ]
    for error, said, options in refused:
        given_options = {"model": str(skops), "source": "t.csv", "output": "out.csv", **options}
        with pytest.raises(error, match=said):
            run(given_options.pop("model"), given_options.pop("source"), given_options.pop("output"), **given_options)
    assert sorted(path.name for path in folder.glob("*out*")) == []
    assert (folder / "there.csv").read_text() == ""


def test_a_registered_model_by_name_and_version(run: Score, folder: Path, skops: Path) -> None:
    from everloop import Continuum

    write(folder / "t.csv")
    with Continuum(data_dir=folder / "data") as models:
        models.register_model("m", skops)
    before = sorted((path, path.stat().st_mtime_ns) for path in (folder / "data").rglob("*.db"))
    run("m", "t.csv", "out.csv", storage=folder / "data")
    assert [(row["prediction"], row["model_version"]) for row in read(folder / "out.csv")] == [
        (each, "1") for each in ANSWERS
    ]
    for called in ("m@1", "m@champion"):
        run(called, "t.csv", "out2.csv", force=True, storage=folder / "data")
        assert (folder / "out2.csv").read_text() == (folder / "out.csv").read_text()
    assert sorted((path, path.stat().st_mtime_ns) for path in (folder / "data").rglob("*.db")) == before
    for name, said in [("n", "no model named 'n'"), ("m@7", "no version 7"), ("m@old", "no version 'old'")]:
        with pytest.raises(EverloopError, match=said):
            run(name, "t.csv", "out3.csv", storage=folder / "data")


def test_a_registered_model_of_a_database(
    run: Score, folder: Path, skops: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By workers of their own, for whom it is a file as long as the run lasts."""
    from everloop import Continuum

    write(folder / "t.csv")
    with Continuum(database=postgres) as models:
        models.register_model("m", skops)
    (folder / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "scratch"))
    run("m", "t.csv", "out.csv", storage=postgres, executor="process", workers=2)
    assert [row["prediction"] for row in read(folder / "out.csv")] == ANSWERS
    with pytest.raises(EverloopError, match="no version 7"):
        run("m@7", "t.csv", "out2.csv", storage=postgres)
    assert list((folder / "scratch").glob("everloop-*")) == []


def test_parquet_without_its_extra_says_how_to_get_it(
    run: Score, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "t.csv")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'everloop\[parquet\]'"):
        run("fn:echo", "t.csv", "out.parquet")


def test_the_same_rows_whatever_the_blocks(
    run: Score, folder: Path, skops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everloop.app.scoring import pace
    from everloop.app.scoring import run as spine

    lines = [f'{i % 7 - 3},{i % 5 - 2},"n{i}\n"' if i % 3 else f"x,{i},bad" for i in range(300)]
    (folder / "t.csv").write_text("a,b,note\n" + "\n".join(lines) + "\n")
    outputs = set()
    for most in (1, 3, 1000):
        monkeypatch.setattr(pace, "MOST_ROWS", most)
        monkeypatch.setattr(spine, "MOST_BYTES", 40 * most)
        run(str(skops), "t.csv", "out.csv", on_error="keep", types={"a": "text"}, force=True)
        outputs.add((folder / "out.csv").read_bytes())
    assert len(outputs) == 1


odd = st.lists(
    st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b"1", b"\xff", b"\x00", b"{", b"}", b'{"x":1}', b"[2]", b" "]),
    max_size=24,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    odd,
    st.sampled_from(["csv", "ndjson"]),
    st.sampled_from(["out.csv", "out.ndjson", "out.parquet"]),
    st.integers(1, 30),
)
def test_whatever_is_in_a_file_rows_are_never_lost_or_mixed_up(
    run: Score, folder: Path, pieces: list[bytes], kind: str, into: str, size: int
) -> None:
    from everloop.app.scoring import run as spine

    data = b"x,y\n" * (kind == "csv") + b"".join(pieces)
    (folder / f"t.{kind}").write_bytes(data)
    types = {"x": "text", "y": "text"} if kind == "csv" else {}
    found = []
    for most in (size, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spine, "MOST_BYTES", most)
            try:
                summary = run("fn:echo", f"t.{kind}", into, on_error="keep", force=True, restart=True, types=types)
            except InvalidInput:
                found.append("refused")
                continue
        assert summary.rows == summary.written == len(read(folder / into))
        found.append(str((summary.rows, summary.errors, read(folder / into))))
    assert len(set(found)) == 1, "the size of the blocks is of no matter"


def test_a_summary_tells_the_rate() -> None:
    assert Summary("m", "in", "out", rows=30, resumed=10, seconds=2.0).rate == 10.0
    assert Job("m", "in").output == "-"
