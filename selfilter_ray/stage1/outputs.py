"""What Stage 1 leaves: score net, trained weights and sample statistics, free of the world size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from selfilter_ray.stage1.score_net import save_score_net
from selfilter_ray.stage1.statistics import SampleStatistics

if TYPE_CHECKING:
    from selfilter_ray.stage1.trainer import Trainer

VLM = "vlm"


def save_outputs(
    trainer: Trainer, weights: dict[str, torch.Tensor], statistics: SampleStatistics
) -> None:
    """Write ``score_net.safetensors``, ``vlm/`` and ``sample_statistics.parquet``.

    Plain training has a ``vlm/`` only.

    ``vlm/`` is a folder that transformers loads; with adapters it holds those, and what
    else learned in ``beside_adapters.safetensors``.
    """
    folder, config = trainer.paths.output, trainer.config.train
    if config.objective == "plain":  # without a score net
        save_vlm(trainer, weights)
        return
    save_score_net(
        folder / "score_net.safetensors",
        _of_module(weights, "score_net."),
        {
            "loss_reduction": config.loss_reduction,
            "weight_scope": config.weight_scope,
            "inputs": config.inputs,
            "scaling": None if trainer.scaling is None else trainer.scaling.to_dict(),
        },
    )
    statistics.write(folder / "sample_statistics.parquet", trainer.data.features.ids)
    if config.save_vlm:
        save_vlm(trainer, weights)


def save_vlm(trainer: Trainer, weights: dict[str, torch.Tensor]) -> None:
    """The trained VLM with its processor: tokenizer, image processor, chat template."""
    folder = trainer.paths.output / VLM
    vlm = trainer.engine.module.vlm
    state = _of_module(weights, "vlm.")
    vlm.save_pretrained(folder, state_dict=state)
    if trainer.config.train.trainable.language_model == "lora":
        beside = {name: value for name, value in state.items() if "lora_" not in name}
        save_file(beside, folder / "beside_adapters.safetensors")
    trainer.data.family.save(str(folder))


def _of_module(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
