"""Cutting streams into lines: however the bytes arrive, the lines are the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selfilter_ray.service.http.lines import LineCutter

LIMIT = 8


def cut(chunks, limit=LIMIT):
    cutter = LineCutter(limit)
    lines = [line for chunk in chunks for line in cutter.feed(chunk)]
    lines += cutter.finish()
    return [(line.number, line.text) for line in lines]


def plain(text, limit=LIMIT):
    """The same by splitting the whole."""
    said = []
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if len(line) > limit:
            said.append((number, None))
        elif line.strip(b" \t\n\r\x0b\x0c"):
            said.append((number, line))
    return said


@given(
    st.lists(st.text(alphabet="ab \r\n", max_size=30).map(str.encode), max_size=8),
)
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks):
    assert cut(chunks) == plain(b"".join(chunks))


def test_a_line_as_long_as_the_limit_passes_with_any_end():
    line = b"x" * LIMIT
    assert cut([line + b"\r\n" + line + b"\n" + line]) == [(1, line), (2, line), (3, line)]


def test_a_line_over_the_limit_is_told_and_not_held():
    cutter = LineCutter(LIMIT)
    for _ in range(1000):
        assert list(cutter.feed(b"x" * 1000)) == []
        assert len(cutter._held) <= LIMIT + 1
    ended = list(cutter.feed(b"\ngood\n"))
    assert [(line.number, line.text) for line in ended] == [(1, None), (2, b"good")]
