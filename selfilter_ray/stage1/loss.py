"""The weighted loss of Stage 1 (Self-Filter, arXiv 2402.12501).

A batch of B samples gets the weights w = softmax(z) from the score net's outputs z. With nll_it the
loss of supervised token t of sample i, n_i their number and S_i their sum, the paper's loss is

    sum_i B w_i S_i / sum_i n_i                    (loss_reduction "sum")

so that a sample is made cheaper by lowering z_i: hard samples lose weight. Since S_i grows with the
length of the answer, ``loss_reduction="mean"`` offers sum_i w_i S_i / n_i instead (ours).

Both are sum_i c_i S_i with coefficients that depend on z and on the numbers of tokens alone, so
they are known before any token loss is.

With ``weight_scope="global"`` (ours) the softmax is over a *round*: the samples that all devices
see at a time, G of them, in several chunks of B.

Shapes: B samples of a chunk, G of a round, T tokens, V vocabulary, D inputs of the score net.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.nn

LossReduction = Literal["sum", "mean"]
WeightScope = Literal["device", "global"]
IGNORED = -100


class Round(NamedTuple):
    """What a chunk has to know of the round that it is a part of.

    Attributes:
        features_GD: inputs of the score net, for all samples of the round.
        own_B: int64, where the chunk's samples stand among them.
        tokens: scalar, the supervised tokens of the whole round.
        chunks: how many chunks the round is made of.
    """

    features_GD: torch.Tensor
    own_B: torch.Tensor
    tokens: torch.Tensor
    chunks: int


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


def combine(
    loss_sum_B: torch.Tensor,
    tokens_B: torch.Tensor,
    score_logits_B: torch.Tensor,
    loss_reduction: LossReduction = "sum",
    weight_scope: WeightScope = "device",
) -> torch.Tensor:
    """The weighted loss from per-sample sums, as ``weighted_loss``."""
    if weight_scope not in ("device", "global"):
        raise ValueError(f"weight_scope must be 'device' or 'global', not {weight_scope!r}")
    spread = weight_scope == "global"
    coefficients_of = gathered_coefficients if spread else coefficients
    return (coefficients_of(score_logits_B, tokens_B, loss_reduction) * loss_sum_B).sum()


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


def supervised_tokens(labels_BT: torch.Tensor) -> torch.Tensor:
    """n_i of each sample, (B,) float32. The first label does not count: nothing predicts it."""
    return (labels_BT[:, 1:] != IGNORED).sum(1).float()


def coefficients(
    z_G: torch.Tensor,
    tokens_B: torch.Tensor,
    loss_reduction: LossReduction = "sum",
    *,
    own_B: torch.Tensor | slice | None = None,
    tokens: torch.Tensor | None = None,
    chunks: int = 1,
) -> torch.Tensor:
    """c_B, so that a chunk's loss is sum_i c_i S_i; differentiable in ``z_G``.

    The mean over the chunks' losses is the loss over the round.

    Args:
        z_G: the score net's outputs for all samples in the softmax.
        tokens_B: supervised tokens of the chunk's samples.
        own_B: where these stand among the G; None when they are all.
        tokens: supervised tokens of the round; None when the chunk is the round.
        chunks: how many chunks the round is made of.
    """
    weights_G = torch.softmax(z_G.float(), dim=0)
    weights_B = weights_G if own_B is None else weights_G[own_B]
    if loss_reduction == "mean":
        return chunks * weights_B / tokens_B.clamp(min=1)
    if loss_reduction != "sum":
        raise ValueError(f"loss_reduction must be 'sum' or 'mean', not {loss_reduction!r}")
    total = tokens_B.sum() if tokens is None else tokens
    return chunks * len(z_G) * weights_B / total.clamp(min=1)


def gathered_coefficients(
    z_B: torch.Tensor, tokens_B: torch.Tensor, loss_reduction: LossReduction = "sum"
) -> torch.Tensor:
    """c_B where each rank of the default process group holds one chunk of the round.

    All ranks must call it at the same time. They may hold different numbers of samples.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return coefficients(z_B, tokens_B, loss_reduction)
    ranks = dist.get_world_size()
    sizes_R = torch.zeros(ranks, dtype=torch.long, device=tokens_B.device)
    sizes_R[dist.get_rank()] = len(tokens_B)
    dist.all_reduce(sizes_R)
    sizes = sizes_R.tolist()
    padded = torch.nn.functional.pad(z_B.float(), (0, max(sizes) - len(z_B)))
    gathered = torch.distributed.nn.all_gather(padded)
    z_G = torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    begin = sum(sizes[: dist.get_rank()])
    tokens = tokens_B.sum()
    dist.all_reduce(tokens)
    own_B = slice(begin, begin + len(z_B))
    return coefficients(z_G, tokens_B, loss_reduction, own_B=own_B, tokens=tokens, chunks=ranks)


def with_score_gradient(
    weighted: torch.Tensor, coefficient_B: torch.Tensor, loss_sum_B: torch.Tensor
) -> torch.Tensor:
    """sum_i c_i S_i, differentiable in the VLM and in z.

    Args:
        weighted: that sum, differentiable in the VLM, for which the coefficients were constants.
        coefficient_B: c, differentiable in z.
        loss_sum_B: S, taken as constants here.
    """
    pull = (coefficient_B * loss_sum_B.detach()).sum()
    return weighted + (pull - pull.detach())
