"""CoIDO's coupled objective (arXiv 2510.17847): importance, and balance between clusters.

Importance is Self-Filter's weighted loss. Balance is the variance, over the clusters that a batch
holds, of the mean weight of a cluster's samples: no cluster shall be scored up or down as a whole.
The two are joined under learned uncertainties s = log sigma^2 (Kendall et al. 2018):

    (exp(-s_1) L_importance + exp(-s_2) L_balance + s_1 + s_2) / 2

Ours, as the paper's text leaves them open: the weights have mean 1 in the batch, and clusters are
those of spherical k-means. Shapes: B batch, C clusters.
"""

from __future__ import annotations

import torch


def balance_loss(score_logits_B: torch.Tensor, cluster_B: torch.Tensor) -> torch.Tensor:
    """Variance of the clusters' mean weights; 0 for a batch of one cluster.

    Args:
        score_logits_B: z, the outputs of the score net.
        cluster_B: int64, the cluster of each sample.
    """
    weights_B = len(score_logits_B) * torch.softmax(score_logits_B.float(), dim=0)
    _, place_B = torch.unique(cluster_B, return_inverse=True)
    clusters = int(place_B.max()) + 1
    sums_C = weights_B.new_zeros(clusters).index_add(0, place_B, weights_B)
    sizes_C = torch.bincount(place_B, minlength=clusters).to(sums_C.dtype)
    means_C = sums_C / sizes_C
    return (means_C - means_C.mean()).square().mean()


def coupled(
    importance: torch.Tensor, balance: torch.Tensor, log_variance_2: torch.Tensor
) -> torch.Tensor:
    """Both losses under their learned uncertainties."""
    losses = torch.stack([importance.float(), balance.float()])
    return 0.5 * (torch.exp(-log_variance_2.float()) * losses + log_variance_2.float()).sum()
