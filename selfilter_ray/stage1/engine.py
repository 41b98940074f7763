"""DeepSpeed: how a config becomes an engine, and how weights come out of it again.

DeepSpeed is imported here only, inside the functions: it looks for an accelerator on import.
Nothing is compiled, but the optimizer of ``offload_optimizer`` on its first use.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from selfilter_ray.config import TrainConfig
from selfilter_ray.stage1.batches import slots_a_round
from selfilter_ray.stage1.model import Stage1Model
from selfilter_ray.stage1.optimizer_state import unsharded_masters


def deepspeed_config(config: TrainConfig, ranks: int | None = None) -> dict[str, Any]:
    """DeepSpeed's settings. What ``train.deepspeed`` says is laid over them.

    Args:
        ranks: the present number, ``train.workers`` when None.
    """
    slots = slots_a_round(config.workers, ranks or config.workers)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation * slots,
        "gradient_clipping": config.gradient_clipping,
        "bf16": {"enabled": config.bf16},
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
        "steps_per_print": 2**31,
    }
    return _merged(settings, config.deepspeed)


def prepare_accelerator() -> None:
    """Must run before DeepSpeed is first imported: without a GPU it is to use the CPU.

    An operator is compiled on first use, by the ninja that was installed beside this Python.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])


def imported() -> Any:
    """DeepSpeed, kept from compiling what training does not use.

    On a CPU it would compile an all-reduce of its inference when the first engine starts, which
    takes minutes of g++. It asks this table whether it may; nothing else reads it.
    """
    import deepspeed

    vars(deepspeed.ops).setdefault("__compatible_ops__", {})
    return deepspeed


def start_engine(model: Stage1Model, config: TrainConfig, steps: int, ranks: int) -> Any:
    """A DeepSpeed engine over the model, with one AdamW for VLM and score net.

    Args:
        steps: optimizer steps of the whole run, for the cosine.
        ranks: the present number.
    """
    deepspeed = imported()
    settings = deepspeed_config(config, ranks)
    optimizer = _optimizer(_groups(model, config), config, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(steps, config.warmup_ratio))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=settings,
        dist_init_required=False,
    )
    return engine


def _optimizer(
    groups: list[dict[str, Any]], config: TrainConfig, settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """AdamW; of DeepSpeed's making where the optimizer's work is offloaded to the CPU."""
    offload = settings["zero_optimization"].get("offload_optimizer") or {}
    if offload.get("device", "none") == "none":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(
        groups, lr=config.learning_rate, adamw_mode=True
    )
    return optimizer


def shards_at_load(config: TrainConfig, ranks: int | None = None) -> Any:
    """For ZeRO-3: while this object lives, ``from_pretrained`` loads each rank's part only."""
    settings = deepspeed_config(config, ranks)
    if settings["zero_optimization"]["stage"] != 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(settings)


def full_weights(engine: Any, frozen: bool, keep: bool) -> dict[str, torch.Tensor]:
    """Every parameter that learned, or every one, whole, on the CPU.

    All ranks must call it; those that do not ``keep`` the result get an empty one. The score net
    comes in float32 from the optimizer's own copy, the VLM in its own type.
    """
    deepspeed = imported()
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if not (parameter.requires_grad or frozen):
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if keep:
                weights[name] = parameter.detach().to("cpu", copy=True)
        if name.startswith("score_net."):
            master = _master_copy(engine.optimizer, parameter)
            if keep and master is not None:
                weights[name] = master.detach().float().cpu().view(weights[name].shape)
    return weights


def _master_copy(optimizer: Any, parameter: torch.nn.Parameter) -> torch.Tensor | None:
    """The optimizer's float32 copy; None where the parameter is its own. All ranks must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
        master: torch.Tensor | None = safe_get_full_fp32_param(parameter)
        return master
    return unsharded_masters(optimizer).get(id(parameter))


def _groups(model: Stage1Model, config: TrainConfig) -> list[dict[str, Any]]:
    vlm, net = _learning(model.vlm), _learning(model.score_net)
    if model.coupled:
        net.append(model.log_variance_2)
    net_rate = config.score_net_learning_rate or config.learning_rate
    groups = [
        {"params": vlm, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": net, "lr": net_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _learning(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [value for value in module.parameters() if value.requires_grad]


def cosine(steps: int, warmup_ratio: float) -> Any:
    warmup = math.ceil(steps * warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return factor


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
