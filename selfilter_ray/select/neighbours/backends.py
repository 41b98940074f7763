"""The backends by name. Only ``exact`` needs nothing beside numpy."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from selfilter_ray.select.neighbours.exact import ExactSearch
from selfilter_ray.select.neighbours.local import Backend, LocalSearch

BackendName = Literal["exact", "faiss-flat", "faiss-ivf", "faiss-gpu", "torch"]


def local_search(name: BackendName, features_UD: np.ndarray, squares_U: np.ndarray) -> LocalSearch:
    """A search over rows in this process.

    Raises:
        ValueError: for a name that is none.
        ConfigError: when the backend is not installed or finds no GPU.
    """
    return LocalSearch(features_UD, squares_U, build_backend(name, features_UD, squares_U))


def build_backend(name: BackendName, features_UD: np.ndarray, squares_U: np.ndarray) -> Backend:
    """What proposes neighbours, as ``local_search``."""
    if name == "exact":
        return ExactSearch(features_UD, squares_U)
    if name == "torch":
        from selfilter_ray.select.neighbours.torch_search import TorchSearch

        return TorchSearch(features_UD, squares_U)
    if name not in get_args(BackendName):
        raise ValueError(f"backend must be one of {get_args(BackendName)}, not {name!r}")
    from selfilter_ray.select.neighbours.faiss_search import FaissSearch

    return FaissSearch(features_UD, squares_U, name.removeprefix("faiss-"))
