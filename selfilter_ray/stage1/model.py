"""The VLM and the score net as one module, so that one optimizer trains both.

Shapes: B batch, G round, T tokens, D inputs of the score net, M rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from selfilter_ray.config import TrainConfig
from selfilter_ray.stage1.balance import balance_loss, coupled
from selfilter_ray.stage1.head_loss import HeadLoss
from selfilter_ray.stage1.loss import (
    Round,
    coefficients,
    gathered_coefficients,
    supervised_tokens,
    with_score_gradient,
)
from selfilter_ray.stage1.score_net import ScoreNet
from selfilter_ray.stage1.trainable import still_towers, with_trainable_parts


class Batch(NamedTuple):
    """One micro-batch. ``rows`` are the samples' numbers in the pool sorted by id.

    ``pictures`` and ``token_inputs`` are the family's own inputs of the model, by their names; the
    latter are (B, T). A tuple, as ``StepLosses``: DeepSpeed hooks on to the tensors in one.
    """

    rows: torch.Tensor
    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    labels_BT: torch.Tensor
    pictures: dict[str, torch.Tensor]
    token_inputs: dict[str, torch.Tensor]
    features_BD: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{name: _moved(value, device) for name, value in self._asdict().items()})

    def inputs(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What the VLM's forward takes, its pictures in the VLM's type."""
        pictures = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in self.pictures.items()
        }
        tokens = {"input_ids": self.input_ids_BT, "attention_mask": self.attention_mask_BT}
        return {**tokens, **self.token_inputs, **pictures}


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, dict):
        return {name: tensor.to(device) for name, tensor in value.items()}
    return value.to(device)


class StepLosses(NamedTuple):
    """What one forward pass yields: the loss to minimise and the parts it was made of."""

    loss: torch.Tensor
    loss_sum_B: torch.Tensor
    tokens_B: torch.Tensor
    z_B: torch.Tensor


class Stage1Model(torch.nn.Module):
    """Forward gives the loss of a batch under ``train.objective``.

    Args:
        cluster_M: int64, the cluster of each row; for the objective ``coido``.
    """

    def __init__(
        self,
        vlm: Any,
        score_net: ScoreNet,
        config: TrainConfig,
        cluster_M: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.vlm: Any = with_trainable_parts(vlm, config)
        self._still = still_towers(vlm)
        self.head_loss = HeadLoss(self.vlm, config.loss_chunk_mib * 2**20)
        self.score_net = score_net
        self.loss_reduction = config.loss_reduction
        self.weight_scope = config.weight_scope
        if config.objective == "plain":
            # With all weights equal the paper's loss is the mean over the batch's answer tokens.
            self.loss_reduction, self.weight_scope = "sum", "device"
            score_net.requires_grad_(False)
        self.coupled = config.objective == "coido"
        if self.coupled:
            self.log_variance_2 = torch.nn.Parameter(torch.zeros(2))
        self.cluster_M: torch.Tensor
        self.register_buffer("cluster_M", cluster_M, persistent=False)
        self.train(vlm.training)

    def train(self, mode: bool = True) -> Stage1Model:
        """As ever, but towers that do not learn run without dropout."""
        super().train(mode)
        for tower in self._still:
            tower.eval()
        return self

    def forward(self, batch: Batch, whole: Round | None = None) -> StepLosses:
        """Losses of a chunk; ``whole`` is its round, for ``weight_scope: global``.

        Without it, global weights are gathered from the ranks, each with one chunk of the round.
        """
        tokens_B = supervised_tokens(batch.labels_BT)
        z_B, coefficient_B = self._coefficients(batch, tokens_B, whole)
        weighted, loss_sum_B = self.head_loss(
            self.vlm, batch.inputs(self._dtype()), batch.labels_BT, coefficient_B
        )
        loss = with_score_gradient(weighted, coefficient_B, loss_sum_B)
        if self.coupled:
            balance = balance_loss(z_B, self.cluster_M[batch.rows])
            loss = coupled(loss, balance, self.log_variance_2)
        return StepLosses(loss, loss_sum_B, tokens_B, z_B.detach())

    def _coefficients(
        self, batch: Batch, tokens_B: torch.Tensor, whole: Round | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """z and c of the batch's samples."""
        if self.weight_scope == "global" and whole is not None:
            features_GD, own_B, tokens, chunks = whole
            z_G = self.score_net(features_GD)
            return z_G[own_B], coefficients(
                z_G, tokens_B, self.loss_reduction, own_B=own_B, tokens=tokens, chunks=chunks
            )
        z_B = self.score_net(batch.features_BD)
        spread = self.weight_scope == "global"
        coefficients_of = gathered_coefficients if spread else coefficients
        return z_B, coefficients_of(z_B, tokens_B, self.loss_reduction)

    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.vlm.get_input_embeddings().weight.dtype
        return dtype
