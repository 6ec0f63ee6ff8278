"""Files of interactions and of items: every form that MovieLens has, and errors that name line and field."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.showcase.interactions import Interaction, read_interactions, read_items

WANTED = [Interaction("1", "31", 2.5, 100.0), Interaction("7", "1029", 4.0, 200.0)]


@pytest.mark.parametrize(
    "text",
    [
        "user,item,rating,timestamp\n7,1029,4,200\n1,31,2.5,100\n",
        "userId,movieId,rating,timestamp\n1,31,2.5,100\n7,1029,4.0,200\n",
        "\ufeffUserID,MovieID,Rating,Timestamp\r\n1,31,2.5,100\r\n\r\n7,1029,4.0,200\r\n",
        "1::31::2.5::100\n7::1029::4::200\n",
        "1\t31\t2.5\t100\n7\t1029\t4\t200\n",
        "1,31,2.5,100\n7,1029,4,200\n",
        "timestamp;rating;item;user;note\n100;2.5;31;1;x\n200;4;1029;7;y\n",
        'user,item,rating,timestamp\n1,31,2.5,1970-01-01T00:01:40\n7,"1029",4,1970-01-01T00:03:20+00:00\n',
    ],
)
def test_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ratings"
    path.write_bytes(text.encode())
    assert read_interactions(path) == WANTED


def test_rating_and_time_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "took.csv"
    path.write_text("user,item\nb,2\na,1\n")
    assert read_interactions(path) == [Interaction("b", "2", 1.0, 0.0), Interaction("a", "1", 1.0, 0.0)]


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "path", "is empty"),
        ("user,item,rating\n", "path", "no interactions"),
        ("user,item,rating\n1,2,good\n", "rating", "line 2: rating: expected a finite number, got 'good'"),
        ("user,item,rating\n1,2,nan\n", "rating", "line 2"),
        ("user,item,rating,timestamp\n1,2,3,1\n1,2,3,noon\n", "timestamp", "line 3: timestamp"),
        ("user,item,rating\n1,2,3\n1,2\n", "path", "line 3: expected 3 columns, got 2"),
        ("user,item,rating\n,2,3\n", "user", "line 2: user: expected 1 to 256 characters"),
        ("user,thing,rating\n1,2,3\n", "path", "no column item"),
        ("a,b,c,d,e\n", "path", "no column user and item"),
        ("1,2,3,4,5\n", "path", "got 5 columns"),
        ('user,item\n1,"2\n', "path", "line 2"),
        ('user,item\n1,2\n1,"2\n' + "3,4\n" * 50, "path", "line 3: unexpected end of data (a quote that begins here"),
        ("user,item,rating,timestamp\n5,6,3,7,8\n", "path", "line 2: expected 4 columns, got 5"),
        ("5,6,3,7\n5,6,3,7,8\n", "path", "line 2: expected 4 columns, got 5"),
        (
            "user,item,rating\n1,2,3\n1,2,1e308\n",
            "rating",
            "line 3: rating: expected a number from -1,000,000 to 1,000,000",
        ),
        ("user,item,timestamp\n1,2,1e300\n", "timestamp", "line 2: timestamp"),
        ("user,item\n1\0,2\n", "user", "line 2: user"),
        ('user,item\n1,"2\n3,4"\n', "item", "line 2: item: it goes over several lines"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, field: str, says: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_interactions(path)
    assert caught.value.field == field
    assert says in caught.value.message
    assert "ratings.csv" in caught.value.message


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no file"):
        read_interactions(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"user,item\n\xff,1\n")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_interactions(tmp_path / "bytes.csv")
    with pytest.raises(InvalidInput):
        read_interactions(tmp_path)


def test_items(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text('movieId,title,genres\n1,"Toy Story (1995)",Adventure|Animation\n2,Heat (1995),Action\n3,,\n')
    found = read_items(path, ids=["9"])
    assert found.ids == ["9", "1", "2", "3"]
    assert found.title(1) == "Toy Story (1995)"
    assert found.title(3) == "3"
    assert {value: places.tolist() for value, places in found.attributes["genres"].items()} == {
        "Action": [2],
        "Adventure": [1],
        "Animation": [1],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title,genres\nx,y\n", "a column item"),
        ("item,title\n1,a\n1,b\n", "line 3: item '1' is there twice"),
        ("item,title\n1\n", "line 2: expected 2 columns"),
    ],
)
def test_items_that_are_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_items(path)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_interactions, read_items):
        with contextlib.suppress(InvalidInput):
            read(path)
