"""What the predictions for a sample's answer tokens say of it, from the last hidden states.

For a supervised token t with last hidden state h_t, the head gives p_t = softmax(W h_t + b), and
y_t is the label. Per sample of n tokens:

    loss     L = S / n, S = sum_t -log p_t[y_t]
    EL2N     mean_t ||p_t - onehot(y_t)|| = mean_t sqrt(sum_v p_t[v]^2 - 2 p_t[y_t] + 1)
             (Paul et al. 2021, arXiv 2107.07075)
    GraNd    ||dL/dW||, same paper, for the head only. With E_t = p_t - onehot(y_t) the gradient is
             (1/n) sum_t E_t h_t', so that its square is (1/n^2) sum_{s,t} (E_s . E_t) (h_s . h_t).

The logits of all tokens would be the largest tensors of a pass, so nothing of the vocabulary's
width is made for more than ``chunk_tokens`` tokens: chunks are taken in turn, whatever samples
their tokens are of. GraNd, which couples all tokens of a sample, makes its logits again, with the
normalisers found here (``gradient_norm.py``).

Logits are made in the model's own type, as training makes them, and are float32 from there on.
Sums over tokens are float64.

Shapes: B batch, T tokens, D hidden size, V vocabulary, N supervised tokens of the batch, C of a
chunk, K statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from selfilter_ray.measure.gradient_norm import AnswerTokens, gradient_norm
from selfilter_ray.measure.head import Head
from selfilter_ray.stage1.loss import IGNORED


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Per sample; all but the first two are NaN for a sample without a supervised token.

    Attributes:
        tokens_B: int64, n, the supervised tokens. All others are float64.
        loss_sum_B: S, in nats.
        loss_B: L = S / n.
        el2n_B: mean length of p - onehot(y).
        sum_p2_B: mean of sum_v p[v]^2.
        p_y_B: mean of p[y].
        margin_B: mean of p[y] - max_{v != y} p[v], from -1 to 1; below 0 where a wrong token leads.
        right_B: share of tokens whose label has the highest logit, the smallest id among equals:
            1 exactly where greedy decoding would say what is supervised.
        grand_B: norm of the gradient of L by the head's weight; None when not asked for.
    """

    tokens_B: torch.Tensor
    loss_sum_B: torch.Tensor
    loss_B: torch.Tensor
    el2n_B: torch.Tensor
    sum_p2_B: torch.Tensor
    p_y_B: torch.Tensor
    margin_B: torch.Tensor
    right_B: torch.Tensor
    grand_B: torch.Tensor | None


@torch.no_grad()
def token_statistics(
    hidden_BTD: torch.Tensor,
    labels_BT: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    chunk_tokens: int = 256,
    grand: bool = True,
) -> TokenStatistics:
    """Statistics of each sample of a batch.

    Args:
        hidden_BTD: last hidden states, what the head is applied to; those at t predict t + 1.
        labels_BT: token ids; -100 marks positions without supervision.
        weight_VD, bias_V: of the head, in the type of the hidden states.
        chunk_tokens: no tensor has more than ``chunk_tokens x V`` entries for its sake.
        grand: whether to make the second pass.
    """
    head = Head(weight_VD, bias_V)
    targets_BT = labels_BT[:, 1:]
    supervised_BT = targets_BT != IGNORED
    hidden_ND, targets_N = hidden_BTD[:, :-1][supervised_BT], targets_BT[supervised_BT]
    chunks = zip(hidden_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
    of_tokens_KN = torch.cat([_of_chunk(head, *chunk) for chunk in chunks], dim=1)
    log_norm_N = of_tokens_KN[-1]
    tokens_B = supervised_BT.sum(1)
    sums_KB = of_tokens_KN.new_zeros(6, len(labels_BT), dtype=torch.float64)
    sums_KB.index_add_(1, supervised_BT.nonzero()[:, 0], of_tokens_KN[:-1].double())
    loss_B, el2n_B, sum_p2_B, p_y_B, margin_B, right_B = sums_KB / tokens_B
    grand_B = None
    if grand:
        parts = (part.split(tokens_B.tolist()) for part in (hidden_ND, targets_N, log_norm_N))
        samples = [AnswerTokens(*sample) for sample in zip(*parts, strict=True)]
        entries = chunk_tokens * len(weight_VD)
        grand_B = torch.stack([gradient_norm(head, sample, entries) for sample in samples])
    means = (el2n_B, sum_p2_B, p_y_B, margin_B, right_B)
    return TokenStatistics(tokens_B, sums_KB[0], loss_B, *means, grand_B)


def _of_chunk(head: Head, hidden_CD: torch.Tensor, targets_C: torch.Tensor) -> torch.Tensor:
    """(7, C) float32: loss, EL2N, sum of p^2, p of the label, margin, right, log normaliser."""
    logits_CV = head.logits(hidden_CD, 0, len(head.weight_VD))
    log_p_CV = torch.log_softmax(logits_CV, dim=1)
    label_C1 = targets_C[:, None]
    log_p_C = log_p_CV.gather(1, label_C1)[:, 0]
    log_norm_C = logits_CV.gather(1, label_C1)[:, 0] - log_p_C
    # The label's own terms apart: 1 - p would lose all digits where the model is sure.
    others_CV = log_p_CV.exp_().scatter_(1, label_C1, 0.0)
    others_p2_C = torch.linalg.vector_norm(others_CV, dim=1).square()
    p_C = log_p_C.exp()
    el2n_C = (torch.expm1(log_p_C).square() + others_p2_C).sqrt()
    margin_C = p_C - others_CV.amax(1)
    right_C = (logits_CV.argmax(1) == targets_C).float()  # the first of equals
    sum_p2_C = p_C.square() + others_p2_C
    return torch.stack([-log_p_C, el2n_C, sum_p2_C, p_C, margin_C, right_C, log_norm_C])
