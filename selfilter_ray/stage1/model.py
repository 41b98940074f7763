"""The VLM and the score net as one module, so that one optimizer trains both.

Shapes: B batch, T tokens, V vocabulary, D inputs of the score net, P pictures of the batch, M rows.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from transformers import LlavaForConditionalGeneration

from selfilter_ray.config import LoraConfig, TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.stage1.balance import balance_loss, coupled
from selfilter_ray.stage1.loss import combine, sample_losses
from selfilter_ray.stage1.score_net import ScoreNet

LINEAR_LAYERS = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Batch(NamedTuple):
    """One micro-batch. ``rows`` are the samples' numbers in the pool sorted by id.

    A tuple, as ``StepLosses``: DeepSpeed hooks on to the tensors that it finds in one.
    """

    rows: torch.Tensor
    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    labels_BT: torch.Tensor
    pixels_PCHW: torch.Tensor | None
    features_BD: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self._asdict().items()
        }
        return Batch(**moved)


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
        vlm: LlavaForConditionalGeneration,
        score_net: ScoreNet,
        config: TrainConfig,
        cluster_M: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.vlm: Any = _with_trainable_parts(vlm, config)
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
        size = vlm.config.vision_config.image_size
        self._blank_shape = (1, 3, size, size)
        self._image_token = int(vlm.config.image_token_index)
        self._image_tokens = int(vlm.config.image_seq_length)

    def forward(self, batch: Batch) -> StepLosses:
        logits_BTV = self._logits(batch)
        loss_sum_B, tokens_B = sample_losses(logits_BTV, batch.labels_BT)
        z_B = self.score_net(batch.features_BD)
        loss = combine(loss_sum_B, tokens_B, z_B, self.loss_reduction, self.weight_scope)
        if self.coupled:
            balance = balance_loss(z_B, self.cluster_M[batch.rows])
            loss = coupled(loss, balance, self.log_variance_2)
        return StepLosses(loss, loss_sum_B.detach(), tokens_B, z_B.detach())

    def _logits(self, batch: Batch) -> torch.Tensor:
        if batch.pixels_PCHW is None:
            batch, length = self._with_blank(batch), batch.input_ids_BT.shape[1]
            return self._logits(batch)[:, :length]
        output = self.vlm(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            pixel_values=batch.pixels_PCHW.to(self._dtype()),
            use_cache=False,
        )
        logits_BTV: torch.Tensor = output.logits
        return logits_BTV

    def _with_blank(self, batch: Batch) -> Batch:
        """A text-only batch with a blank picture behind its first text, where nothing sees it.

        Under ZeRO all ranks must run the same modules in the same order, whatever their batches
        hold: DeepSpeed pairs what ranks gather and reduce by its order.
        """
        ids_BT = batch.input_ids_BT
        added_BP = ids_BT.new_zeros(len(ids_BT), self._image_tokens)
        masked_BT = torch.cat([batch.attention_mask_BT, torch.zeros_like(added_BP)], dim=1)
        added_BP[0] = self._image_token
        return batch._replace(
            input_ids_BT=torch.cat([ids_BT, added_BP], dim=1),
            attention_mask_BT=masked_BT,
            pixels_PCHW=torch.zeros(self._blank_shape, device=ids_BT.device),
        )

    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.vlm.get_input_embeddings().weight.dtype
        return dtype


def _with_trainable_parts(
    vlm: LlavaForConditionalGeneration, config: TrainConfig
) -> torch.nn.Module:
    """Freeze what is not to learn; add the adapters when they are asked for."""
    parts = config.trainable
    projector = vlm.model.multi_modal_projector
    vlm.requires_grad_(False)
    vlm.model.language_model.requires_grad_(parts.language_model == "full")
    vlm.lm_head.requires_grad_(parts.language_model == "full")
    vlm.model.vision_tower.requires_grad_(parts.vision_tower)
    projector.requires_grad_(parts.projector)
    if vlm.config.projector_hidden_act == "linear":
        projector.linear_2.requires_grad_(False)  # the identity of a one-layer projector
    if config.gradient_checkpointing:
        vlm.gradient_checkpointing_enable({"use_reentrant": False})
    if parts.language_model != "lora":
        return vlm
    learning = {name for name, value in vlm.named_parameters() if value.requires_grad}
    adapted = _with_lora(vlm, config.lora)
    for name, value in adapted.named_parameters():
        if name.removeprefix("base_model.model.") in learning:
            value.requires_grad_(True)
    return adapted


def _with_lora(vlm: LlavaForConditionalGeneration, config: LoraConfig) -> torch.nn.Module:
    try:
        from peft import LoraConfig as PeftLora
        from peft import get_peft_model
    except ImportError:
        raise ConfigError(
            "train.trainable.language_model: lora needs selfilter-ray[lora]."
        ) from None
    pattern = re.compile(rf"model\.language_model\..*\.{LINEAR_LAYERS}$")
    targets = [name for name, _ in vlm.named_modules() if pattern.match(name)]
    adapter = PeftLora(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    return get_peft_model(vlm, adapter)
