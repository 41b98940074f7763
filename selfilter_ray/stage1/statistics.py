"""What training saw of each sample, and how difficulty relates to it.

Shapes: M samples of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from selfilter_ray import atomic


@dataclass
class SampleStatistics:
    """The last forward pass of every sample.

    Attributes:
        seen_M: number of the micro-batch, -1 before the first.
        loss_sum_M: S_i, the summed loss of its supervised tokens.
        tokens_M: n_i, their number.
    """

    seen_M: torch.Tensor
    loss_sum_M: torch.Tensor
    tokens_M: torch.Tensor

    @classmethod
    def empty(cls, samples: int) -> SampleStatistics:
        return cls(
            torch.full((samples,), -1, dtype=torch.long),
            torch.zeros(samples, dtype=torch.float64),
            torch.zeros(samples, dtype=torch.float64),
        )

    def record(
        self, number: int, rows: torch.Tensor, loss_sum_B: torch.Tensor, tokens_B: torch.Tensor
    ) -> None:
        """Take in one micro-batch."""
        rows = rows.cpu()
        self.seen_M[rows] = number
        self.loss_sum_M[rows] = loss_sum_B.double().cpu()
        self.tokens_M[rows] = tokens_B.double().cpu()

    def merged(self, device: torch.device | str) -> SampleStatistics:
        """Over all ranks: for each sample the values of the rank that saw it last."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self
        seen_M, loss_sum_M, tokens_M = (value.to(device) for value in vars(self).values())
        newest_M = seen_M.clone()
        dist.all_reduce(newest_M, dist.ReduceOp.MAX)
        newest = (seen_M == newest_M) & (seen_M >= 0)
        for values_M in (loss_sum_M, tokens_M):
            values_M[~newest] = 0.0  # neither value is ever negative
            dist.all_reduce(values_M, dist.ReduceOp.MAX)
        return SampleStatistics(newest_M.cpu(), loss_sum_M.cpu(), tokens_M.cpu())

    def write(self, path: Path, ids: np.ndarray) -> None:
        """As parquet: id, answer_tokens, train_loss (mean over tokens; null without any)."""
        tokens_M = self.tokens_M.numpy()
        loss_M = self.loss_sum_M.numpy() / np.maximum(tokens_M, 1)
        unseen_M = (self.seen_M.numpy() < 0) | (tokens_M == 0)
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "answer_tokens": pa.array(tokens_M.astype(np.int32)),
                "train_loss": pa.array(loss_M.astype(np.float32), mask=unseen_M),
            }
        )
        atomic.write_table(path, table)


def rank_correlation(first_M: np.ndarray, second_M: np.ndarray) -> float | None:
    """Spearman's rho, ties at their mean rank; None where it is not defined.

    Pairs with NaN are left out.
    """
    known = np.isfinite(first_M) & np.isfinite(second_M)
    if known.sum() < 2:
        return None
    first, second = _ranks(first_M[known]), _ranks(second_M[known])
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2.0)[inverse]
    return ranks
