"""The language model's last layer, applied to a part of the vocabulary.

Shapes: N tokens, D hidden size, V vocabulary, S entries of a slice of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import linear


class Head(NamedTuple):
    """A linear layer, in the type of the hidden states that it is applied to."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None

    def logits(self, hidden_ND: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """(N, S) float32: of the entries ``first`` to ``last`` of the vocabulary."""
        bias_S = None if self.bias_V is None else self.bias_V[first:last]
        return linear(hidden_ND, self.weight_VD[first:last], bias_S).float()
