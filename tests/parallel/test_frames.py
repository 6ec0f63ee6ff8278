"""Frames arrive whole, however the pipe cuts them."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.parallel.executors.frames import HEAD, RESULT, Frame, Outbox, Reader, pieces

sizes = st.integers(0, 300) | st.sampled_from([65_479, 65_480, 65_481, 65_536, 70_000, 200_000])


class Pipe:
    def __init__(self, *, blocking: bool = False) -> None:
        self.out, self.into = os.pipe()
        os.set_blocking(self.out, False)
        os.set_blocking(self.into, blocking)

    def close(self) -> None:
        for end in (self.out, self.into):
            os.close(end)


def content(seed: int, size: int) -> bytes:
    return bytes((seed + n) % 251 for n in range(min(size, 251))) * (size // 251 + 1)


def taken(reader: Reader) -> list[Frame]:
    found = []
    while reader.fill():
        while (frame := reader.next()) is not None:
            found.append(frame)
    return found


@settings(max_examples=50)
@given(st.lists(st.tuples(sizes, st.lists(sizes, max_size=3)), max_size=4), st.data())
def test_frames_come_as_they_were_sent_in_whatever_pieces(
    frames: list[tuple[int, list[int]]], data: st.DataObject
) -> None:
    sent = []
    stream = b""
    for number, (size, parts) in enumerate(frames):
        body = content(number, size)[:size]
        extra = [content(number + 1 + n, part)[:part] for n, part in enumerate(parts)]
        sent.append((number, body, extra))
        stream += b"".join(
            pieces(RESULT, number, body, [memoryview(part) for part in extra], numbers=(1.0, 2.0, 3.0), count=number)
        )
    pipe = Pipe()
    reader = Reader(pipe.out)
    found: list[Frame] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.sampled_from([7, HEAD.size, 1000, 60_000, 60_000]))
        at += os.write(pipe.into, stream[at : at + step])
        found += taken(reader)
    pipe.close()
    assert [(f.number, bytes(f.payload), [bytes(part) for part in f.parts]) for f in found] == sent
    assert all(f.size == len(body) + sum(map(len, extra)) for f, (_, body, extra) in zip(found, sent, strict=True))
    assert all(f.numbers == (1.0, 2.0, 3.0) for f in found)
    assert not reader.midway


@given(st.lists(sizes, min_size=1, max_size=8))
def test_an_outbox_writes_everything_once_as_the_pipe_empties(lengths: list[int]) -> None:
    pipe = Pipe()
    outbox, reader = Outbox(pipe.into), Reader(pipe.out)
    found: list[Frame] = []
    for number, length in enumerate(lengths):
        assert outbox.put(pieces(RESULT, number, content(number, length)[:length]))
    while outbox:
        found += taken(reader)
        assert outbox.flush()
    found += taken(reader)
    pipe.close()
    assert [bytes(f.payload) for f in found] == [content(n, length)[:length] for n, length in enumerate(lengths)]


def test_more_buffers_than_one_system_call_takes() -> None:
    parts = [bytes([n % 256]) * 9 for n in range(3000)]
    pipe = Pipe()
    outbox, reader = Outbox(pipe.into), Reader(pipe.out)
    assert outbox.put(pieces(RESULT, 1, b"", [memoryview(part) for part in parts]))
    found = taken(reader)
    while outbox:
        assert outbox.flush()
        found += taken(reader)
    pipe.close()
    assert [bytes(part) for part in found[0].parts] == parts


def test_the_end_of_the_other_side_is_told() -> None:
    pipe = Pipe()
    reader = Reader(pipe.out)
    assert not reader.fill()
    assert not reader.ended
    os.write(pipe.into, pieces(RESULT, 1, b"half")[0][:20])
    os.close(pipe.into)
    assert reader.fill()
    assert reader.next() is None
    assert not reader.fill()
    assert reader.ended
    os.close(pipe.out)


def test_nobody_reads_any_more() -> None:
    pipe = Pipe()
    os.close(pipe.out)
    outbox = Outbox(pipe.into)
    assert not outbox.put(pieces(RESULT, 1, b"x"))
    assert not outbox.put(pieces(RESULT, 1, b"x" * 100_000))
    os.close(pipe.into)
