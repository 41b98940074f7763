"""Stage 2: from difficulties and features to the chosen samples. Pure functions, no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfilter_ray.select.diverse import Picks, select_diverse

__all__ = ["Picks", "select_diverse"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads the settings here and needs no numpy."""
    if name in __all__:
        from selfilter_ray.select import diverse

        return getattr(diverse, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
