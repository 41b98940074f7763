"""How numbers are written in the report."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

MISSING = "n/a"
MINUS = "\u2212"


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite int or float (a manifest may hold anything)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count(value: Any) -> str:
    """``1234`` as ``1,234``."""
    return f"{round(value):,}".replace("-", MINUS) if is_number(value) else MISSING


def share(part: float, whole: float) -> str:
    """``part / whole`` in percent: ``15.0 %``; two more decimals below 0.1 %."""
    if not whole:
        return MISSING
    percent = 100.0 * part / whole
    return f"{percent:.3f} %" if 0.0 < percent < 0.1 else f"{percent:.1f} %"


def figure(value: Any, digits: int = 3) -> str:
    """A measured value with ``digits`` significant digits."""
    if not is_number(value):
        return MISSING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 7:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}".replace("-", MINUS)


def correlation(value: Any) -> str:
    """A rank correlation with its sign: ``+0.31``."""
    return f"{value:+.2f}".replace("-", MINUS) if is_number(value) else MISSING


def duration(seconds: Any) -> str:
    """Seconds as ``4.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if not is_number(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(amount: Any) -> str:
    """Bytes in the largest fitting binary unit."""
    if not is_number(amount):
        return MISSING
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(text: Any) -> str:
    """An ISO time to the minute; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{parsed:%Y-%m-%d %H:%M} {parsed.tzname() or ''}".strip()
