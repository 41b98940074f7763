"""The search by FAISS: flat (exact), IVF (approximate), and flat on a GPU.

FAISS only proposes; whatever its version, exact rescoring decides. Shapes: Q queries, U rows,
D features.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from selfilter_ray.errors import ConfigError
from selfilter_ray.select.neighbours.exact import ExactSearch, unit_rows
from selfilter_ray.select.neighbours.search import Found, product_margin

Kind = Literal["flat", "ivf", "gpu"]

ROWS_A_LIST = 256  # of an inverted file
TRAINING_ROWS_A_LIST = 64
PROBES = 32
GPU_MAX_COUNT = 2048  # the most that FAISS returns from a GPU
SEED = 1234


class FaissSearch:
    """Nearest rows by cosine.

    Args:
        features_UD, squares_U: as ``ExactSearch``.
        kind: ``ivf`` looks at ``PROBES`` lists of the inverted file only, and at more while it
            finds too few rows.

    Raises:
        ConfigError: when FAISS, or its GPU part, is not there.
    """

    def __init__(self, features_UD: np.ndarray, squares_U: np.ndarray, kind: str) -> None:
        self.faiss = _faiss()
        self.kind = kind
        self.approximate = kind == "ivf"
        self.margin = product_margin(features_UD.shape[1])
        self._features_UD, self._squares_U = features_UD, squares_U
        self._index = self._build(unit_rows(features_UD, np.sqrt(squares_U)))

    def nearest_to(self, query_QD: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        """As ``ExactSearch``."""
        alive = int(alive_U.sum())
        count = min(count, alive)
        if count == 0:
            return [_found(np.zeros(0, np.int64), np.zeros(0, np.float32), True) for _ in query_QD]
        if self.kind == "gpu":
            return self._on_gpu(query_QD, count, alive_U)
        selector = self.faiss.IDSelectorBitmap(np.packbits(alive_U, bitorder="little"))
        if self.kind == "flat":
            parameters = self.faiss.SearchParameters(sel=selector)
            scores, sites = self._index.search(query_QD, count, params=parameters)
            return [_found(*row, count == alive) for row in zip(sites, scores, strict=True)]
        return self._probed(query_QD, count, selector, alive)

    def _probed(self, query_QD: np.ndarray, count: int, selector: Any, alive: int) -> list[Found]:
        probes = min(PROBES, self._index.nlist)
        while True:
            parameters = self.faiss.SearchParametersIVF(sel=selector, nprobe=probes)
            scores, sites = self._index.search(query_QD, count, params=parameters)
            if (sites >= 0).all() or probes == self._index.nlist:
                return [_found(*row, count == alive) for row in zip(sites, scores, strict=True)]
            probes = min(4 * probes, self._index.nlist)

    def _on_gpu(self, query_QD: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        """FAISS cannot leave rows out there: those that are gone are dropped from what it finds."""
        asked = min(count, len(alive_U))
        while True:
            if asked > GPU_MAX_COUNT:
                # More than FAISS returns from a GPU, as where most of a region has been picked.
                return ExactSearch(self._features_UD, self._squares_U).nearest_to(
                    query_QD, count, alive_U
                )
            scores, sites = self._index.search(query_QD, asked)
            living = [alive_U[row] for row in sites]
            enough = min(int(row.sum()) for row in living) >= count
            if enough or asked == len(alive_U):
                break
            asked = min(2 * asked, len(alive_U))
        return [
            Found(
                row[kept].astype(np.int64),
                score[kept],
                -np.inf if asked == len(alive_U) else float(score[-1]),
            )
            for row, score, kept in zip(sites, scores, living, strict=True)
        ]

    def _build(self, unit_UD: np.ndarray) -> Any:
        faiss, features = self.faiss, unit_UD.shape[1]
        if self.kind == "ivf":
            lists = max(1, min(len(unit_UD) // ROWS_A_LIST, 4096))
            index = faiss.IndexIVFFlat(
                faiss.IndexFlatIP(features), features, lists, faiss.METRIC_INNER_PRODUCT
            )
            index.cp.seed = SEED
            index.cp.max_points_per_centroid = TRAINING_ROWS_A_LIST
            index.train(unit_UD[:: max(1, len(unit_UD) // (lists * TRAINING_ROWS_A_LIST))])
        else:
            index, self._resources = build_flat(features, self.kind == "gpu")
        index.add(unit_UD)
        return index


def build_flat(features: int, gpu: bool) -> tuple[Any, Any]:
    """An empty flat index for inner products, and what must live as long as it.

    Raises:
        ConfigError: when FAISS, or its GPU part, is not there.
    """
    faiss = _faiss()
    index = faiss.IndexFlatIP(features)
    if not gpu:
        return index, None
    resources = _gpu_resources(faiss)
    return faiss.index_cpu_to_gpu(resources, 0, index), resources


def _found(sites: np.ndarray, scores: np.ndarray, everything: bool) -> Found:
    known = sites >= 0
    sites, scores = sites[known], scores[known]
    # An inverted file that yields too few even from all its lists has no more.
    complete = everything or not known.all()
    return Found(sites, scores, -np.inf if complete else float(scores[-1]))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "this backend needs FAISS: install selfilter-ray[faiss-cpu] or [faiss-gpu], or take "
            "backend exact."
        ) from None
    return faiss


def _gpu_resources(faiss: Any) -> Any:
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise ConfigError(
            "backend faiss-gpu needs selfilter-ray[faiss-gpu] and a GPU: take torch or exact."
        )
    return faiss.StandardGpuResources()
