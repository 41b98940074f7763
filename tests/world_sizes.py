"""Stage 1 on one rank and, beside it, on two: three processes, two process groups.

Each side trains every case, leaves a checkpoint of the middle, and goes on from that of the other.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from selfilter_ray.stage1.engine import prepare_accelerator

# What every process would import for seconds: one server does it, and the processes fork from it.
IMPORTED_ONCE = [
    "selfilter_ray.stage1.trainer",
    "selfilter_ray.stage1.vlm",
    "selfilter_ray.features.extract",
    "deepspeed",
    "peft",
]
MIDDLE = 3  # the optimizer step of the checkpoints
PATIENCE_SECONDS = 400
BASE = {"workers": 2, "batch_size": 2, "epochs": 2, "warmup_ratio": 0.0}
GLOBAL = {"weight_scope": "global", "gradient_accumulation": 2, "epochs": 4}
LORA = {"trainable": {"language_model": "lora"}, "lora": {"dropout": 0.4}}
CASES = {
    "zero 0": {"zero_stage": 0},
    "zero 1, lora, more workers than ranks": {"zero_stage": 1, "workers": 3, **LORA},
    "zero 2, global weights": {"zero_stage": 2, **GLOBAL},
    "zero 3": {"zero_stage": 3, "group_by_length": True},
    "bf16, zero 0": {"bf16": True, "zero_stage": 0},
    "bf16, zero 2": {"bf16": True, "zero_stage": 2},
    "bf16, zero 3, frozen": {
        "bf16": True,
        "zero_stage": 3,
        "trainable": {"language_model": "frozen"},
    },
}
TWO_HALVES = "zero 2, global weights"
ONE_WHOLE = BASE | CASES[TWO_HALVES] | {"workers": 1, "batch_size": 4}


def on_one_and_two_ranks(folder: Path, model: str) -> None:
    """Leave ``CASE/whole-RANKS`` and ``CASE/resumed-RANKS`` in the folder, RANKS being 1 or 2."""
    _fork(_one_process, (folder, model), 3)


def _fork(work, arguments, processes: int) -> None:
    prepare_accelerator()
    mp.get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    mp.start_processes(work, arguments, processes, start_method="forkserver")


def _one_process(number: int, folder: Path, model: str) -> None:
    rank, ranks = (0, 1) if number == 0 else (number - 1, 2)
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    store = dist.FileStore(str(folder / f"store-{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    for case, settings in CASES.items():
        _whole(folder / case, model, ranks, BASE | settings)
    if ranks == 1:
        _trainer(folder / "one whole batch", model, ONE_WHOLE).run(lambda metrics: None)
    for case, settings in CASES.items():
        _resumed(folder / case, model, ranks, BASE | settings)
    dist.barrier()
    dist.destroy_process_group()


def _trainer(output: Path, model: str, settings):
    from stage1_pool import Pool

    output.mkdir(parents=True, exist_ok=True)
    return Pool(Path(model).parent, model).trainer(output, **settings)


def _whole(place: Path, model: str, ranks: int, settings) -> None:
    trainer = _trainer(place / f"whole-{ranks}", model, settings | {"checkpoint_steps": MIDDLE})
    checkpoint = place / f"checkpoint-{ranks}"

    def save(metrics) -> None:
        if metrics["step"] == MIDDLE:
            trainer.save_checkpoint(checkpoint)
            dist.barrier()
            (checkpoint / "written").touch()

    trainer.run(save)


def _resumed(place: Path, model: str, ranks: int, settings) -> None:
    other = place / f"checkpoint-{3 - ranks}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (other / "written").exists():
        assert time.monotonic() < deadline, f"{other} was not written"
        time.sleep(0.1)
    trainer = _trainer(place / f"resumed-{ranks}", model, settings | {"checkpoint_steps": 100})
    trainer.load_checkpoint(other)
    assert trainer.position == MIDDLE
    trainer.run(lambda metrics: None)


def one_step_each(folder: Path, files: dict[str, str]) -> dict[str, float]:
    """For each DeepSpeed file: how far a run resumed after a step ends from a whole one."""
    from stage1_pool import make_pool

    (folder / "pool").mkdir()
    model = make_pool(folder / "pool").model
    _fork(_files_in_one_process, (folder, model, files), 1)
    return torch.load(folder / "distances.pt")


def _files_in_one_process(rank: int, folder: Path, model: str, files: dict[str, str]) -> None:
    from stage1_pool import score_weights

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    distances = {}
    for name, file in files.items():
        settings = {"deepspeed": file, "epochs": 1, "batch_size": 5, "checkpoint_steps": 1}
        settings |= {"warmup_ratio": 0.0, "save_vlm": False, "workers": 1}
        whole = _trainer(folder / name / "whole", model, settings)
        whole.run(lambda metrics, of=whole, at=folder / name: of.save_checkpoint(at / "c"))
        resumed = _trainer(folder / name / "resumed", model, settings)
        resumed.load_checkpoint(folder / name / "c")
        resumed.run(lambda metrics: None)
        ends = [score_weights(folder / name / run) for run in ("whole", "resumed")]
        assert ends[0].any()
        distances[name] = (ends[0] - ends[1]).abs().max().item()
    torch.save(distances, folder / "distances.pt")
    dist.destroy_process_group()
