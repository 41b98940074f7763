"""Token losses from a VLM's own forward pass, without its logits.

Every VLM applies its output embedding (the *head*) once, to the last hidden states, and returns
what it gives as ``logits``. For the time of a forward pass the head's own ``forward`` is replaced
by one that keeps the supervised positions and gives their weighted loss (``chunked_loss.py``). So
it works for every family; parameters keep their names, and DeepSpeed's hooks on the head, which
gather its weight under ZeRO-3, run as ever.

Some models change the logits behind the head (soft-capping, a scale). Then the head gives the
logits of the supervised positions, and the loss is made of what the model returns. They are
recognised by their configs, and at the first pass by a number that does not come back as it was
sent.

Shapes: B batch, T tokens, D hidden size, V vocabulary, N supervised positions of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from selfilter_ray.errors import SelfilterError
from selfilter_ray.stage1.chunked_loss import CHUNK_BYTES, chunked_loss
from selfilter_ray.stage1.loss import IGNORED

# Settings of a text model that change its logits, each with the values that leave them alone.
BEHIND_THE_HEAD = {
    "final_logit_softcapping": (None, 0.0),
    "softcap": (None, 0.0),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "lm_head_multiplier": (None, 1.0),
}
MASKING_MODELS = frozenset({"chameleon"})  # forbid image tokens by writing into the logits
SENT = 1000.0  # every soft cap and every scale changes it


class HeadLosses(NamedTuple):
    """What a forward pass yields.

    Attributes:
        weighted: sum_i c_i S_i, differentiable in the VLM.
        loss_sum_B: S_i, the summed token losses of each sample, without a gradient.
    """

    weighted: torch.Tensor
    loss_sum_B: torch.Tensor


class HeadLoss:
    """Makes losses of one VLM.

    Args:
        vlm: a model with ``get_output_embeddings``; adapters may be around it.
        chunk_bytes: of the float32 logits that are held at a time.

    Attributes:
        fused: whether losses are made within the head.
    """

    def __init__(self, vlm: Any, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.fused = type(vlm.get_output_embeddings()) is torch.nn.Linear
        self.fused = self.fused and not _changes_logits(vlm.config)
        self._tried = False
        self._chunk_bytes = chunk_bytes

    def __call__(
        self,
        vlm: Any,
        inputs: Mapping[str, Any],
        labels_BT: torch.Tensor,
        coefficient_B: torch.Tensor,
    ) -> HeadLosses:
        """The losses of a batch.

        Args:
            inputs: keyword arguments of the VLM, without labels. Its texts may be longer than the
                labels; what stands behind these is not supervised.
            labels_BT: token ids, predicted one position earlier; -100 where nothing is supervised.
            coefficient_B: c_i; no gradient goes to them.

        Raises:
            SelfilterError: when the VLM does not use its head as described.
        """
        supervised = _Supervised(labels_BT, coefficient_B.detach())
        weighted = self._fused(vlm, inputs, supervised) if self.fused else None
        if weighted is None:
            weighted = _by_logits(vlm, inputs, supervised)
        return HeadLosses(weighted, supervised.loss_sums())

    def _fused(
        self, vlm: Any, inputs: Mapping[str, Any], supervised: _Supervised
    ) -> torch.Tensor | None:
        """None when it comes out that the VLM changes what its head gives."""
        head = vlm.get_output_embeddings()

        def forward(hidden_BTD: torch.Tensor) -> torch.Tensor:
            hidden_ND = supervised.of(hidden_BTD)
            labels_and_c = (supervised.targets_N, supervised.coefficient_N)
            weighted, supervised.nll_N = chunked_loss(
                hidden_ND, head.weight, head.bias, *labels_and_c, self._chunk_bytes
            )
            return torch.stack([weighted, weighted.new_tensor(SENT)]).view(1, 1, 2)

        with _replaced_forward(head, forward):
            logits_112 = vlm(**inputs, use_cache=False).logits
        if not self._tried:
            _ = supervised.loss_sums()  # the head must have run
            back = logits_112.shape == (1, 1, 2) and logits_112[0, 0, 1].item() == SENT
            self.fused, self._tried = back, True
            if not back:
                return None
        weighted: torch.Tensor = logits_112[0, 0, 0]
        return weighted


class _Supervised:
    """The positions of a batch that count, and the losses that are found there."""

    def __init__(self, labels_BT: torch.Tensor, coefficient_B: torch.Tensor) -> None:
        targets_BT = labels_BT[:, 1:]
        self._mask_BT = targets_BT != IGNORED
        self._owner_N = self._mask_BT.nonzero()[:, 0]
        self._samples = len(labels_BT)
        self.targets_N = targets_BT[self._mask_BT]
        self.coefficient_N = coefficient_B[self._owner_N]
        self.nll_N: torch.Tensor | None = None

    def of(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """(N, D), from hidden states of at least the labels' length."""
        samples, length = self._mask_BT.shape
        if hidden_BTD.shape[0] != samples or hidden_BTD.shape[1] <= length:
            raise SelfilterError(
                f"the model's head was given hidden states {tuple(hidden_BTD.shape)} for labels "
                f"({samples}, {length + 1}): Stage 1 needs one for every position of the prompt."
            )
        return hidden_BTD[:, :length][self._mask_BT]

    def loss_sums(self) -> torch.Tensor:
        """(B,), without a gradient."""
        if self.nll_N is None:
            raise SelfilterError(
                "the model's forward pass does not call its output embedding: Stage 1 cannot "
                "train it."
            )
        nll_N = self.nll_N.detach()
        return nll_N.new_zeros(self._samples).index_add(0, self._owner_N, nll_N)


def _by_logits(vlm: Any, inputs: Mapping[str, Any], supervised: _Supervised) -> torch.Tensor:
    """The weighted loss by way of the logits that the VLM returns, at supervised positions."""
    head = vlm.get_output_embeddings()
    own_forward = head.forward

    def forward(hidden_BTD: torch.Tensor) -> torch.Tensor:
        logits_1NV: torch.Tensor = own_forward(supervised.of(hidden_BTD)[None])
        return logits_1NV

    with _replaced_forward(head, forward):
        logits_NV = vlm(**inputs, use_cache=False).logits[0]
    exact_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    targets_N = supervised.targets_N
    nll_N = torch.nn.functional.cross_entropy(exact_NV, targets_N, reduction="none")
    supervised.nll_N = nll_N
    return (supervised.coefficient_N * nll_N).sum()


class HeadInputs:
    """``hidden_BTD`` is what a head was applied to."""

    hidden_BTD: torch.Tensor


@contextmanager
def head_inputs(vlm: Any) -> Iterator[HeadInputs]:
    """Within it the VLM's forward passes leave their last hidden states, and make no logits."""
    seen = HeadInputs()

    def forward(hidden_BTD: torch.Tensor) -> torch.Tensor:
        seen.hidden_BTD = hidden_BTD
        return hidden_BTD[..., :0]

    with _replaced_forward(vlm.get_output_embeddings(), forward):
        yield seen


@contextmanager
def _replaced_forward(
    head: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    before = head.__dict__.get("forward")
    head.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del head.__dict__["forward"]
        else:
            head.__dict__["forward"] = before


def _changes_logits(config: Any) -> bool:
    text = config.get_text_config()
    for part in (config, text):
        if getattr(part, "model_type", "") in MASKING_MODELS:
            return True
        for name, harmless in BEHIND_THE_HEAD.items():
            if getattr(part, name, None) not in harmless:
                return True
    return False
