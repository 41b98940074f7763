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


def split_unlearned(
    loss_N: np.ndarray, difficulty_N: np.ndarray, share: float, groups: int = GROUPS
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the samples by whether they are among the least learned of like difficulty.

    Args:
        loss_N: (N,) after training, NaN for a sample without one.
        difficulty_N: (N,), finite. Sorted by it, of equal ones the smaller row being the harder,
            the samples are split into ``groups`` of equal count, give or take one.
        share: from 0 to 1; so much of all samples with a loss does not stay, and give or take one
            of each group: those of the highest loss, of equal ones the greater row.

    Returns:
        Row numbers of the A samples that stay, ascending, and those of the others: by ascending
        loss, then those without a loss.
    """
    rows = np.arange(len(loss_N))
    unlearned, known_before = [], 0
    for group in np.array_split(np.lexsort((-rows, difficulty_N)), groups):
        known = group[~np.isnan(loss_N[group])]
        ascending = known[np.lexsort((known, loss_N[known]))]
        # Rounded at the ends of groups, so that rounding does not add up over them.
        end = known_before + len(known)
        count = round(share * end) - round(share * known_before)
        unlearned.append(ascending[len(known) - min(count, len(known)) :])
        known_before = end
    passed = np.concatenate(unlearned)
    last = np.concatenate([passed[np.lexsort((passed, loss_N[passed]))], rows[np.isnan(loss_N)]])
    return np.setdiff1d(rows, last), last
