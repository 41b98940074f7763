"""The weighted loss of Stage 1 (Self-Filter, arXiv 2402.12501).

A batch of B samples gets the weights w = softmax(z) from the score net's outputs z. With nll_it the
loss of supervised token t of sample i, n_i their number and S_i their sum, the paper's loss is

    sum_i B w_i S_i / sum_i n_i                    (loss_reduction "sum")

so that a sample is made cheaper by lowering z_i: hard samples lose weight. Since S_i grows with the
length of the answer, ``loss_reduction="mean"`` offers sum_i w_i S_i / n_i instead (ours).

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.distributed.nn

LossReduction = Literal["sum", "mean"]
WeightScope = Literal["device", "global"]
IGNORED = -100


def weighted_loss(
    logits_BTV: torch.Tensor,
    labels_BT: torch.Tensor,
    score_logits_B: torch.Tensor,
    loss_reduction: LossReduction = "sum",
    weight_scope: WeightScope = "device",
) -> torch.Tensor:
    """The loss of one batch, differentiable in ``logits_BTV`` and ``score_logits_B``.

    Args:
        logits_BTV: logits at t predict the label at t + 1.
        labels_BT: token ids; -100 marks positions without supervision.
        score_logits_B: z, the outputs of the score net.
        loss_reduction: ``sum`` weighs summed losses (the paper), ``mean`` per-sample means.
        weight_scope: ``device`` takes the softmax over this batch (the release), ``global`` over
            the batches of all ranks of the default process group. With ``global`` the mean of the
            ranks' gradients is the gradient of the loss over the whole batch.

    Returns:
        A scalar.
    """
    loss_sum_B, tokens_B = sample_losses(logits_BTV, labels_BT)
    return combine(loss_sum_B, tokens_B, score_logits_B, loss_reduction, weight_scope)


def sample_losses(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """S_i and n_i of each sample, both (B,) float32. Only supervised positions are touched."""
    targets_BT = labels_BT[:, 1:]
    supervised_BT = targets_BT != IGNORED
    nll = torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1][supervised_BT].float(), targets_BT[supervised_BT], reduction="none"
    )
    owner = supervised_BT.nonzero()[:, 0]
    loss_sum_B = nll.new_zeros(len(labels_BT)).index_add(0, owner, nll)
    return loss_sum_B, supervised_BT.sum(1).to(loss_sum_B.dtype)


def combine(
    loss_sum_B: torch.Tensor,
    tokens_B: torch.Tensor,
    score_logits_B: torch.Tensor,
    loss_reduction: LossReduction = "sum",
    weight_scope: WeightScope = "device",
) -> torch.Tensor:
    """The weighted loss from per-sample sums, as ``weighted_loss``."""
    if loss_reduction not in ("sum", "mean"):
        raise ValueError(f"loss_reduction must be 'sum' or 'mean', not {loss_reduction!r}")
    if weight_scope not in ("device", "global"):
        raise ValueError(f"weight_scope must be 'device' or 'global', not {weight_scope!r}")
    spread = weight_scope == "global" and dist.is_initialized() and dist.get_world_size() > 1
    if spread:
        weights_B, samples, tokens = _global_weights(score_logits_B, tokens_B)
        ranks = dist.get_world_size()
    else:
        weights_B = torch.softmax(score_logits_B.float(), dim=0)
        samples, tokens, ranks = len(tokens_B), tokens_B.sum(), 1
    if loss_reduction == "sum":
        return ranks * samples * (weights_B * loss_sum_B).sum() / tokens.clamp(min=1)
    return ranks * (weights_B * loss_sum_B / tokens_B.clamp(min=1)).sum()


def _global_weights(
    score_logits_B: torch.Tensor, tokens_B: torch.Tensor
) -> tuple[torch.Tensor, int, torch.Tensor]:
    """This rank's weights in the softmax over all ranks, and the whole batch's sizes.

    Ranks may hold different numbers of samples: shorter ones are padded with weight zero.
    """
    sizes = [torch.zeros(1, dtype=torch.long, device=tokens_B.device) for _ in _ranks()]
    dist.all_gather(sizes, torch.tensor([len(tokens_B)], device=tokens_B.device))
    longest = int(max(sizes))
    padding = longest - len(score_logits_B)
    padded = torch.nn.functional.pad(score_logits_B.float(), (0, padding), value=-torch.inf)
    gathered = torch.distributed.nn.all_gather(padded)
    own = dist.get_rank() * longest
    weights = torch.softmax(torch.cat(list(gathered)), dim=0)[own : own + len(score_logits_B)]
    tokens = tokens_B.sum()
    dist.all_reduce(tokens)
    return weights, int(sum(sizes)), tokens


def _ranks() -> range:
    return range(dist.get_world_size())
