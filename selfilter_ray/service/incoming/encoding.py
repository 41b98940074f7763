"""Bytes inside JSON."""

from __future__ import annotations

import pybase64


def decode_base64(text: str) -> bytes:
    """The bytes of standard base64 (RFC 4648): padded, no line breaks, nothing before or after.

    Raises:
        ValueError: saying what is wrong.
    """
    return pybase64.b64decode(text, validate=True)
