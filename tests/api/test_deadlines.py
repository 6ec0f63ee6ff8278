"""The header `Everloop-Timeout`."""

from __future__ import annotations

import pytest

from everloop.api.http.deadlines import seconds_of
from everloop.core.errors import InvalidInput


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("0", 0.0), ("0.5", 0.5), ("1e3", 1000.0)])
def test_seconds_are_a_decimal_number(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header) == seconds


@pytest.mark.parametrize("header", ["", "-1", "nan", "inf", "1e999", "1_0", "soon", "\xff"])
def test_what_is_none_is_refused(header: str) -> None:
    with pytest.raises(InvalidInput, match="expected seconds"):
        seconds_of(header)
