"""What a key is, and what a quota lets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy import keys
from everloop.policy.keys import KeyRecord, digest_of, id_of, same, text_of
from everloop.policy.quota import Bucket


@given(st.binary(min_size=6, max_size=6), st.binary(min_size=32, max_size=32))
def test_a_key_names_its_id_and_any_other_text_none(key_id: bytes, secret: bytes) -> None:
    text = text_of(key_id, secret)
    assert id_of(text) == key_id.hex()
    assert text.isascii()
    assert id_of(text[:-1]) is None
    assert id_of(text + "x") is None
    assert same(digest_of(text), digest_of(text))
    assert not same(digest_of(text), digest_of(text + " "))


@given(st.text())
def test_a_foreign_text_is_no_key(text: str) -> None:
    assert id_of(text) is None or text.startswith("evl_")
    assert len(digest_of(text)) == 64


def test_a_record_does_not_show_its_digest_and_knows_its_state() -> None:
    record = KeyRecord("0a" * 6, "d" * 64, "ci", 100.0, expires_at=200.0)
    assert "ddd" not in repr(record)
    assert [record.state(now) for now in (150.0, 200.0)] == ["active", "expired"]
    gone = KeyRecord("0a" * 6, "d" * 64, "ci", 100.0, expires_at=200.0, revoked_at=120.0)
    assert gone.state(150.0) == "revoked"


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a\nb"}),
        ("scopes", {"scopes": ()}),
        ("scopes", {"scopes": ("root",)}),
        ("models", {"models": ()}),
        ("rate", {"rate": 0.0}),
        ("rate", {"rate": float("nan")}),
        ("burst", {"rate": 1.0, "burst": 0}),
        ("burst", {"burst": 5}),
        ("expires", {"expires_at": 1.0}),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_field(field: str, changed: dict[str, object]) -> None:
    fields = {"id": "0a" * 6, "digest": "d" * 64, "name": "ci", "created_at": 100.0, **changed}
    with pytest.raises(InvalidInput) as raised:
        keys.check(KeyRecord(**fields))  # type: ignore[arg-type]
    assert raised.value.field == field


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = Bucket(2.0, 4, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0] * 4
    assert bucket.take(100.0) == pytest.approx(0.5)
    assert (bucket.left, bucket.reset, bucket.window) == (0, 2, 2)
    assert bucket.take(100.5) == 0.0
    assert bucket.take(100.5) > 0.0
    assert bucket.take(1000.0) == 0.0
    assert bucket.left == 3


@given(
    rate=st.floats(0.01, 1e5),
    capacity=st.integers(1, 1000),
    gaps=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate_and_waiting_is_always_enough(
    rate: float, capacity: int, gaps: list[float]
) -> None:
    bucket, now, taken = Bucket(rate, capacity, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        if wait == 0.0:
            taken += 1
        else:
            now += wait
            assert bucket.take(now) == 0.0
            taken += 1
        assert taken <= capacity + rate * now + 1e-3 * taken
        assert 0 <= bucket.left <= capacity
