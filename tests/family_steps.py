"""Two training steps of every family: on two ranks under ZeRO-3, and by plain torch on one.

In the first step rank 1 has texts only, in the second rank 0.
"""

from __future__ import annotations

import gc
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from family_pool import MORE_TEXT, ONE, ROUNDS, TEXT, TRAIN, TWO, TinyStage1, opened
from tiny_vlms import TINY

ROWS = (((TWO, ONE), (TEXT, MORE_TEXT)), ((MORE_TEXT,), (ROUNDS, TEXT)))
RATE = 1e-3
SETTINGS = {
    "zero_stage": 3,
    "workers": 2,
    "learning_rate": RATE,
    "warmup_ratio": 0.0,
    "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
}


class Trained(NamedTuple):
    """The parameters that learn, after two steps."""

    weights: dict[str, torch.Tensor]
    resumed: dict[str, torch.Tensor]  # after a checkpoint between them
    sharded: bool


def trained_on_ranks(folder: Path, rank: int) -> dict[str, dict[str, Any]]:
    """The fields of ``Trained`` by family. Rank 1 has no weights."""
    from selfilter_ray.stage1.engine import prepare_accelerator

    prepare_accelerator()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    return {
        name: _trained(
            opened(name, folder, folder / name), folder / f"{name}-checkpoint", rank
        )._asdict()
        for name in TINY
    }


def on_ranks(folder: Path) -> Any:
    """What ``on_two_ranks`` takes."""
    return partial(trained_on_ranks, folder)


def _trained(tiny: TinyStage1, checkpoint: Path, rank: int) -> Trained:
    from selfilter_ray.stage1.checkpoint import load_checkpoint, save_checkpoint
    from selfilter_ray.stage1.engine import full_weights
    from selfilter_ray.stage1.statistics import SampleStatistics

    gc.freeze()  # DeepSpeed collects garbage at every start, over all that was ever imported
    engine = _engine(tiny)
    sharded = all(value.ds_numel != value.numel() for value in engine.module.vlm.parameters())
    _step(engine, tiny.batch(*ROWS[0][rank]))
    save_checkpoint(checkpoint, engine, 1, SampleStatistics.empty(8))
    torch.distributed.barrier()
    _step(engine, tiny.batch(*ROWS[1][rank]))
    weights = full_weights(engine, frozen=False, keep=rank == 0)
    engine.destroy()
    again = _engine(tiny)
    load_checkpoint(checkpoint, again)
    _step(again, tiny.batch(*ROWS[1][rank]))
    resumed = full_weights(again, frozen=False, keep=rank == 0)
    again.destroy()
    return Trained(weights, resumed, sharded)


def _engine(tiny: TinyStage1) -> Any:
    from selfilter_ray.config import TrainConfig
    from selfilter_ray.stage1.engine import shards_at_load, start_engine

    sharding = shards_at_load(TrainConfig.model_validate(TRAIN | SETTINGS), 2)
    model = tiny.model(**SETTINGS)
    del sharding
    return start_engine(model.train(), TrainConfig.model_validate(TRAIN | SETTINGS), 10**9, 2)


def _step(engine: Any, batch: Any) -> None:
    torch.manual_seed(0)
    engine.backward(engine(batch).loss)
    engine.step()


def trained_by_torch(tiny: TinyStage1) -> dict[str, torch.Tensor]:
    """The same steps without DeepSpeed: the mean of the two batches' losses."""
    model = tiny.model().train()
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(learning.values(), lr=RATE, weight_decay=0.0)
    for ranks in ROWS:
        for rows in ranks:
            torch.manual_seed(0)
            (model(tiny.batch(*rows)).loss / len(ranks)).backward()
        torch.nn.utils.clip_grad_norm_(learning.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in learning.items()}
