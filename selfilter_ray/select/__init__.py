"""Stage 2: from difficulties and features to the chosen samples. Pure functions, no Ray."""

from selfilter_ray.select.diverse import Picks, select_diverse

__all__ = ["Picks", "select_diverse"]
