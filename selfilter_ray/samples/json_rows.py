"""JSON rows with their own text: what a plain ``json.load`` of a list would throw away.

A broken element costs only itself as long as its end can be found by its brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from selfilter_ray.errors import DataError
from selfilter_ray.samples.quarantine import BadRow

_SPACE = re.compile(r"[ \t\n\r]*")
_STRUCTURE = re.compile(r'["\[\]{},]')
_STRING_END = re.compile(r'(?:[^"\\]++|\\.)*+"', re.DOTALL)  # possessive: keeps no way back
# Each error of Python's decoder counts the lines of the whole file up to it. After this many,
# elements are cut out before they are decoded: slower for good ones, but never quadratic.
_MANY_ERRORS = 64


class _NotFiniteError(Exception):
    pass


def _refuse_constant(name: str) -> None:
    raise _NotFiniteError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode_row(text: str) -> tuple[Any, BadRow | None]:
    """One row from its text, or the reason it is not one."""
    value, _, error = _decoded(text, 0, whole=True)
    return value, error


def _decoded(text: str, start: int, whole: bool = False) -> tuple[Any, int, BadRow | None]:
    """The value at ``start``, where it ends, and the reason where there is none."""
    try:
        if whole:
            return _DECODER.decode(text), len(text), None
        return (*_DECODER.raw_decode(text, start), None)
    except _NotFiniteError as error:
        return None, start, BadRow("not_finite", f"{error} is not JSON")
    except RecursionError:
        return None, start, BadRow("json_invalid", "nested too deeply")
    except ValueError as error:  # JSONDecodeError, and integers of more digits than Python reads
        return None, start, BadRow("json_invalid", str(error)[:200])


def iterate_list(text: str, name: str) -> Iterator[tuple[str, Any, BadRow | None]]:
    """The elements of a JSON list: text, value, and the reason where it has none.

    Args:
        text: the whole file.
        name: how to call it in an error.

    Raises:
        DataError: when the text is no list, or its elements cannot be told apart any more.
    """
    position = _skip_space(text, 0)
    if position == len(text):
        raise DataError(f"{name} holds only white space: there is nothing to select from.")
    if text[position] != "[":
        raise DataError(
            f"{name} must be a JSON list of records, it starts with {text[position]!r}."
        )
    position = _skip_space(text, position + 1)
    if text[position : position + 1] == "]":
        raise DataError(f"{name} is an empty list: there is nothing to select from.")
    errors = 0
    while True:
        after = position
        if errors < _MANY_ERRORS:
            row, end, error = _decoded(text, position)
            after = end if error else _skip_space(text, end)
        if after == position or text[after : after + 1] not in {",", "]"}:
            after = _element_end(text, position, name)
            row, error = decode_row(text[position:after])
            errors += error is not None
        yield text[position:after].rstrip(), row, error
        position = after
        if text[position] == "]":
            break
        position = _skip_space(text, position + 1)
    rest = _skip_space(text, position + 1)
    if rest != len(text):
        raise DataError(f"{name} goes on after the end of its list (character {rest}).")


def _element_end(text: str, start: int, name: str) -> int:
    """Where the element ends: the comma or bracket of the list itself that follows it."""
    depth, position = 0, start
    while match := _STRUCTURE.search(text, position):
        mark, position = match.group(), match.end()
        if mark == '"':
            string = _STRING_END.match(text, position)
            if string is None:
                break
            position = string.end()
        elif mark in "[{":
            depth += 1
        elif mark == "," or depth:
            if depth == 0:
                return match.start()
            depth -= mark != ","
        elif mark == "]":
            return match.start()
    raise DataError(
        f"{name} ends inside the record that starts at character {start}: the file is cut off "
        "or broken there. Fetch it again, or correct it."
    )


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()
