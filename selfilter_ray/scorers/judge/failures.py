"""How a request fails: for now, for this sample, or for every sample."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping

RETRIED = frozenset({408, 409, 425, 429})
# Wrong key, no credit, no such model or address, and redirects, which are not followed: the next
# sample would fare no better.
HOPELESS = frozenset({401, 402, 404})


class Unreachable(Exception):
    """No answer for now: worth another try.

    ``retry_after`` is the number of seconds that the server asked to wait, None if it did not.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(Exception):
    """The server will not answer this request. ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int, hopeless: bool) -> None:
        super().__init__(message)
        self.status = status
        self.hopeless = hopeless


def from_status(
    status: int, code: str | None, message: str, headers: Mapping[str, str]
) -> Unreachable | Refused:
    """The failure that an HTTP status stands for.

    Args:
        status: the HTTP status, not one of success.
        code: the server's own name of the error, if it gave one.
        message: what the server said, without the key.
        headers: of the response.
    """
    text = f"HTTP {status}: {message}"
    if code == "insufficient_quota":  # sent as 429, but waiting does not mend it
        return Refused(text, 402, hopeless=True)
    if status in RETRIED or status >= 500:
        return Unreachable(text, retry_after(headers))
    return Refused(text, status, hopeless=status in HOPELESS or status < 400)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the header ``Retry-After``: a number of seconds, or a date."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0.0 else None
