"""Forms are cut where their boundary is, whatever is in their files; what is no form is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.api.http.forms import MOST_FIELDS, fields_of, is_form
from everloop.core.errors import EverloopError, InvalidInput, Malformed

NAMES = ("image", "top_k")
KIND = "multipart/form-data; boundary=xyz"


def form(*fields: tuple[str, bytes], boundary: bytes = b"xyz") -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n%b\r\n'
        % (boundary, name.encode(), content)
        for name, content in fields
    ]
    return b"".join(parts) + b"--%b--\r\n" % boundary


@given(st.binary(max_size=300), st.binary(max_size=30))
def test_files_come_out_as_they_went_in(image: bytes, number: bytes) -> None:
    boundary = b"a boundary that hypothesis does not guess"
    body = form(("image", image), ("top_k", number), boundary=boundary)
    kind = f'multipart/form-data; boundary="{boundary.decode()}"'
    assert is_form(kind)
    assert fields_of(body, kind, NAMES) == {"image": image, "top_k": number}


@given(st.binary(max_size=200), st.text(max_size=60))
def test_whatever_comes_is_refused_in_words_or_read(body: bytes, kind: str) -> None:
    for content_type in (KIND, kind, f"multipart/form-data; boundary={kind}"):
        for given_body in (body, b"--xyz" + body, b"--xyz\r\n" + body + b"\r\n--xyz--"):
            try:
                found = fields_of(given_body, content_type, NAMES)
            except EverloopError as error:
                found = {error.field: b""}
            assert None not in found


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"", Malformed, "no form"),
        (b"--xyz--\r\n"[:-4], Malformed, "cut off"),
        (form(("image", b"a"))[:-10], Malformed, "cut off"),
        (form(("other", b"a")), InvalidInput, "takes image, top_k"),
        (form(("image", b"a"), ("image", b"b")), InvalidInput, "twice"),
        (form(*[("image", b"")] * (MOST_FIELDS + 5)), Malformed, "fields"),
        (b"--xyz\r\nContent-Type: a/b\r\n\r\na\r\n--xyz--", Malformed, "no name"),
        (b"--xyz\r\nContent-Disposition: form-data\r\n\r\na\r\n--xyz--", Malformed, "no name"),
        (b"--xyz\r\nx" + b"a" * 5000 + b"\r\n\r\na\r\n--xyz--", Malformed, "no headers"),
    ],
)
def test_what_is_no_form_of_ours_is_refused(body: bytes, error: type[EverloopError], words: str) -> None:
    with pytest.raises(error, match=words):
        fields_of(body, KIND, NAMES)


def test_a_form_needs_its_boundary() -> None:
    with pytest.raises(Malformed, match="boundary"):
        fields_of(form(("image", b"a")), "multipart/form-data", NAMES)
