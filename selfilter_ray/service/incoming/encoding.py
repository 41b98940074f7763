"""Bytes inside JSON."""

from __future__ import annotations

import binascii


def decode_base64(text: str) -> bytes:
    """The bytes of standard base64 (RFC 4648): padded, no line breaks, nothing before or after.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(text) % 4 or text.endswith("==="):  # the decoder takes padding after whole groups
        raise ValueError("wrong padding")
    return binascii.a2b_base64(text, strict_mode=True)
