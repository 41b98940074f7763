"""GraNd of one sample for the head's weight W, without a backward pass.

With p_t = softmax(W h_t + b), E_t = p_t - onehot(y_t) and n answer tokens, the mean loss has the
gradient dL/dW = (1/n) sum_t E_t h_t' (V x D), and so

    ||dL/dW||^2 = (1/n^2) sum_{s,t} (E_s . E_t) (h_s . h_t)

(GraNd: Paul et al. 2021, arXiv 2107.07075, there for all weights and one label).

Neither E (n x V) nor the gradient (V x D) is made whole. The vocabulary is cut into slices of at
most ``entries / n`` words; a slice's logits are made again, and its part of E with them. It adds
either to the n x n matrix of the E_s . E_t or, where n > D, the squares of its own rows of the
gradient, whichever costs less. So that matrix is never larger than the sample's hidden states, and
those rows never larger than the slice of E. Making logits twice is cheap: the head is a few percent
of a language model, and runs on answers only. Both ways are exact. Products are float32, sums over
slices and over pairs of tokens float64.

Shapes: N tokens of the sample, D hidden size, V vocabulary, S entries of a slice of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from selfilter_ray.measure.head import Head


class AnswerTokens(NamedTuple):
    """The supervised tokens of a sample.

    Attributes:
        hidden_ND: last hidden states.
        targets_N: labels.
        log_norm_N: float32, log of the sum over the vocabulary of exp(logit).
    """

    hidden_ND: torch.Tensor
    targets_N: torch.Tensor
    log_norm_N: torch.Tensor


def gradient_norm(head: Head, sample: AnswerTokens, entries: int) -> torch.Tensor:
    """||dL/dW|| as a float64 scalar; NaN for a sample without a token.

    Args:
        entries: no tensor of a slice has more, as long as a token's column fits.
    """
    tokens, size = sample.hidden_ND.shape
    if not tokens:
        return sample.hidden_ND.new_full((), torch.nan, dtype=torch.float64)
    hidden_ND = sample.hidden_ND.float()
    slices = _errors(head, sample, width=max(1, entries // tokens))
    if tokens <= size:
        gram_NN = hidden_ND.new_zeros(tokens, tokens, dtype=torch.float64)
        for error_NS in slices:
            gram_NN += error_NS @ error_NS.T
        square = (gram_NN * (hidden_ND @ hidden_ND.T)).sum()
    else:
        square = hidden_ND.new_zeros((), dtype=torch.float64)
        for error_NS in slices:
            square += (error_NS.T @ hidden_ND).square().sum(dtype=torch.float64)
    return square.clamp(min=0.0).sqrt() / tokens


def _errors(head: Head, sample: AnswerTokens, width: int) -> Iterator[torch.Tensor]:
    """(N, S) float32: E, slice after slice of the vocabulary."""
    for first in range(0, len(head.weight_VD), width):
        logits_NS = head.logits(sample.hidden_ND, first, first + width)
        p_NS = (logits_NS - sample.log_norm_N[:, None]).exp_()
        yield _minus_onehot(p_NS, sample.targets_N - first)


def _minus_onehot(p_NS: torch.Tensor, place_N: torch.Tensor) -> torch.Tensor:
    """Takes one off at each row's label, where that lies inside the slice."""
    width = p_NS.shape[1]
    inside_N = (place_N >= 0) & (place_N < width)
    place_N1 = place_N.clamp(0, width - 1)[:, None]
    return p_NS.scatter_add_(1, place_N1, -inside_N[:, None].to(p_NS.dtype))
