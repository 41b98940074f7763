"""Cross-entropy under the output embedding, in chunks of tokens, gradients in the same pass.

For token n with last hidden state h_n, label y_n and p_n = softmax(W h_n + b), the value is

    sum_n c_n nll_n,    nll_n = -log p_n[y_n],

for given coefficients c. Since it is linear in nll, its gradient in the logits of token n is known
as soon as p_n is: c_n (p_n - onehot(y_n)). So every chunk's logits are made once, turned in place
into that gradient, multiplied into the gradients of h, W and b, and forgotten: of the vocabulary's
width there is never more than one chunk in float32, and one in the model's own type when that is
another.

Matrix products run in the model's type. The softmax is float32 (float64 for float64), and so are
the sums over chunks.

Shapes: N tokens, C tokens of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 64 * 2**20


def chunked_loss(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    coefficient_N: torch.Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of token losses, and the losses.

    Args:
        hidden_ND: what the head is applied to, in the weight's type.
        targets_N: int64, the label of each token.
        coefficient_N: c; no gradient goes to it.
        chunk_bytes: of the float32 logits that are held at a time.

    Returns:
        The sum, a scalar that is differentiable once in ``hidden_ND``, ``weight_VD`` and
        ``bias_V``, as far as they require gradients; and nll (N,), which is not.
    """
    arguments = (hidden_ND, weight_VD, bias_V, targets_N, coefficient_N.detach())
    weighted, nll_N = _ChunkedLoss.apply(*arguments, chunk_bytes, torch.is_grad_enabled())
    return weighted, nll_N


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        coefficient_N: torch.Tensor,
        chunk_bytes: int,
        learning: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = _chunk_tokens(len(hidden_ND), len(weight_VD), chunk_bytes)
        head = _Head(weight_VD, bias_V, size)
        wanted = [learning and needed for needed in ctx.needs_input_grad[:3]]
        gradients = _Gradients(hidden_ND, weight_VD, wanted, single=size >= len(hidden_ND))
        nll_N = coefficient_N.new_empty(len(hidden_ND), dtype=head.exact)
        for begin in range(0, len(hidden_ND), size):
            chunk = slice(begin, begin + size)
            scores_CV = head.logits(hidden_ND[chunk])
            coefficient_C = coefficient_N[chunk].to(head.exact)
            nll_N[chunk] = _to_gradient(scores_CV, targets_N[chunk], coefficient_C)
            if any(wanted):
                gradients.add(chunk, scores_CV, head.in_own_type(scores_CV))
        ctx.gradients = gradients.finished()
        ctx.mark_non_differentiable(nll_N)
        return (coefficient_N.to(head.exact) * nll_N).sum(), nll_N

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(
        ctx: Any, upstream: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("backward() goes through the loss once: run the forward pass again.")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if value is None else value.mul_(upstream) for value in gradients]
        return (*scaled, None, None, None, None)


class _Head:
    """Makes logits into memory that all chunks share."""

    def __init__(self, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, size: int) -> None:
        self.weight_VD, self.bias_V = weight_VD, bias_V
        self.exact = torch.promote_types(weight_VD.dtype, torch.float32)
        self._own_CV = weight_VD.new_empty(size, len(weight_VD))
        self._exact_CV = self._own_CV
        if self.exact != weight_VD.dtype:
            self._exact_CV = torch.empty_like(self._own_CV, dtype=self.exact)

    def logits(self, hidden_CD: torch.Tensor) -> torch.Tensor:
        """(C, V) in ``exact``; the next call writes over it."""
        own_CV, exact_CV = self._own_CV[: len(hidden_CD)], self._exact_CV[: len(hidden_CD)]
        if self.bias_V is None:
            torch.mm(hidden_CD, self.weight_VD.T, out=own_CV)
        else:
            torch.addmm(self.bias_V, hidden_CD, self.weight_VD.T, out=own_CV)
        return exact_CV if own_CV is exact_CV else exact_CV.copy_(own_CV)

    def in_own_type(self, values_CV: torch.Tensor) -> torch.Tensor:
        """The same in the weight's type, in place of the logits that were made in it."""
        if values_CV.dtype == self.weight_VD.dtype:
            return values_CV
        return self._own_CV[: len(values_CV)].copy_(values_CV)


class _Gradients:
    """Of hidden states, weight and bias, as far as wanted; the last two are sums over chunks.

    Args:
        single: there is one chunk only, so that no sum has to be kept in more digits.
    """

    def __init__(
        self, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, wanted: list[bool], single: bool
    ) -> None:
        exact = torch.promote_types(weight_VD.dtype, torch.float32)
        of_hidden, of_weight, of_bias = wanted
        sums = weight_VD.dtype if single else exact
        self._hidden_ND, self._weight_VD = hidden_ND, weight_VD
        self._of_hidden_ND = torch.empty_like(hidden_ND) if of_hidden else None
        self._of_weight_VD = torch.zeros_like(weight_VD, dtype=sums) if of_weight else None
        self._of_bias_V = weight_VD.new_zeros(len(weight_VD), dtype=exact) if of_bias else None

    def add(self, chunk: slice, exact_CV: torch.Tensor, own_CV: torch.Tensor) -> None:
        """Take in a chunk's gradient of the logits, given in both types."""
        hidden_CD = self._hidden_ND[chunk]
        if self._of_hidden_ND is not None:
            torch.mm(own_CV, self._weight_VD, out=self._of_hidden_ND[chunk])
        if self._of_bias_V is not None:
            self._of_bias_V += exact_CV.sum(0)
        if self._of_weight_VD is None:
            return
        if self._of_weight_VD.dtype == own_CV.dtype:
            self._of_weight_VD.addmm_(own_CV.T, hidden_CD)
            return
        # So many rows at a time that a product is no larger than the chunk's logits.
        rows = max(1, own_CV.numel() // hidden_CD.shape[1])
        parts = zip(self._of_weight_VD.split(rows), own_CV.split(rows, dim=1), strict=True)
        for of_weight, own in parts:
            of_weight += _exact_product(own.T, hidden_CD)

    def finished(self) -> list[torch.Tensor | None]:
        """In the types of what they are gradients of."""
        own = self._weight_VD.dtype
        made = (self._of_hidden_ND, self._of_weight_VD, self._of_bias_V)
        return [None if value is None else value.to(own) for value in made]


def _exact_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """In float32, of matrices of fewer digits."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _to_gradient(
    scores_CV: torch.Tensor, targets_C: torch.Tensor, coefficient_C: torch.Tensor
) -> torch.Tensor:
    """Token losses (C,) of logits, which become the gradient of their weighted sum in place."""
    label_C1, coefficient_C1 = targets_C[:, None], coefficient_C[:, None]
    highest_C1 = scores_CV.amax(1, keepdim=True)
    below_C1 = highest_C1 - scores_CV.gather(1, label_C1)
    total_C1 = scores_CV.sub_(highest_C1).exp_().sum(1, keepdim=True)
    scores_CV.mul_(coefficient_C1 / total_C1).scatter_add_(1, label_C1, -coefficient_C1)
    return (total_C1.log() + below_C1)[:, 0]


def _chunk_tokens(tokens: int, vocabulary: int, chunk_bytes: int) -> int:
    """Tokens a chunk: as many as fit, and all chunks of about the same size."""
    most = max(1, chunk_bytes // (4 * vocabulary))
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // chunks))
