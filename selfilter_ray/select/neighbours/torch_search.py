"""The search on a GPU (or torch's CPU): one product a batch, ``topk``, exact rescoring elsewhere.

Shapes: Q queries, U rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from selfilter_ray.select.neighbours.exact import unit_rows
from selfilter_ray.select.neighbours.search import Found, product_margin

# Scores that are in memory at once, float32.
SCORES_AT_ONCE = 2**28


class TorchSearch:
    """Nearest rows by cosine; the rows lie on the device, of length 1.

    Args:
        features_UD, squares_U: as ``ExactSearch``.
        device: a GPU when there is one.
    """

    approximate = False

    def __init__(
        self, features_UD: np.ndarray, squares_U: np.ndarray, device: str | None = None
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._unit_UD = torch.from_numpy(unit_rows(features_UD, np.sqrt(squares_U))).to(self.device)
        # Products of TF32 numbers would need a far wider margin than those of float32.
        self.margin = product_margin(features_UD.shape[1])

    def nearest_to(self, query_QD: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        """As ``ExactSearch``."""
        alive = int(alive_U.sum())
        if alive == 0:
            nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
            return [Found(*nothing, -np.inf) for _ in query_QD]
        dead_U = torch.from_numpy(~alive_U).to(self.device)
        rows = max(1, SCORES_AT_ONCE // len(alive_U))
        found: list[Found] = []
        for start in range(0, len(query_QD), rows):
            found += self._search(query_QD[start : start + rows], min(count, alive), dead_U, alive)
        return found

    def _search(
        self, query_QD: np.ndarray, count: int, dead_U: torch.Tensor, alive: int
    ) -> list[Found]:
        query = torch.from_numpy(query_QD).to(self.device)
        with _full_precision():
            scores_QU = query @ self._unit_UD.T
        scores_QU.masked_fill_(dead_U, -torch.inf)
        best = torch.topk(scores_QU, count, dim=1)
        scores, sites = best.values.cpu().numpy(), best.indices.cpu().numpy()
        return [
            Found(row_sites, row_scores, -np.inf if count == alive else float(row_scores[-1]))
            for row_sites, row_scores in zip(sites, scores, strict=True)
        ]


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 and no reduced sums inside the block, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
