"""Samples that the VLM has not learned though it was trained on them. Ours.

A wrong answer is hard, too, but its loss stays where that of a hard and right one falls. What is
hard differs between kinds of samples, so each is held against others of like difficulty only: a
rare kind that is learned late is not taken for noise.

Shapes: N samples, A of them that stay.
"""

from __future__ import annotations

import numpy as np

LOSS = "tuned_loss"  # under the VLM after Stage 1
GROUPS = 10


def pass_over(
    loss_N: np.ndarray, difficulty_N: np.ndarray, share: float, groups: int = GROUPS
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the samples by whether they are among the least learned of like difficulty.

    Args:
        loss_N: after training; a sample without one (NaN) stays.
        difficulty_N: it splits the samples into ``groups`` of equal count, give or take one.
        share: of each group, from 0 to 1, that is passed over: those of the highest loss. Of equal
            ones, that of the greater row goes first.

    Returns:
        Row numbers of the A samples that stay, ascending, and those of the others, least loss
        first.
    """
    rows = np.arange(len(loss_N))
    out = []
    for group in np.array_split(np.lexsort((rows, difficulty_N)), groups):
        known = group[~np.isnan(loss_N[group])]
        ascending = known[np.lexsort((known, loss_N[known]))]
        out.append(ascending[len(ascending) - min(len(ascending), round(share * len(group))) :])
    passed = np.concatenate(out)
    return np.setdiff1d(rows, passed), passed[np.lexsort((passed, loss_N[passed]))]
