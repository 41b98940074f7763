"""Choose the part of a vision-language instruction pool that is worth training on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfilter_ray.pipeline import run
    from selfilter_ray.scorer import load_scorer
    from selfilter_ray.tuning import tune

__version__ = "0.1.0"
__all__ = ["__version__", "load_scorer", "run", "tune"]


def __getattr__(name: str) -> Any:
    # Torch and Ray take seconds to import: only who uses them pays.
    if name == "run":
        from selfilter_ray.pipeline import run

        return run
    if name == "load_scorer":
        from selfilter_ray.scorer import load_scorer

        return load_scorer
    if name == "tune":
        from selfilter_ray.tuning import tune

        return tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
