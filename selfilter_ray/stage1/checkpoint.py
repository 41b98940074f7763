"""Checkpoints that any number of ranks can load, whatever number of ranks wrote them.

Each rank writes what it holds of the optimizer's state as ranges of the parameters' values, and
reads the ranges that it needs from the files of all; nobody ever holds the whole. What does not
learn comes from the initial model. The files are safetensors and JSON, so loading runs no code.
DeepSpeed's own checkpoints are pickles that it loads without ``weights_only``, and its universal
ones, which would fit another number of ranks, are not made for ZeRO-0.

Shapes: P values of a part of a parameter, N of a whole parameter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError
from selfilter_ray.stage1.optimizer_state import (
    MASTER,
    MOMENTS,
    Part,
    holds_whole_parameters,
    parts,
    refresh,
)
from selfilter_ray.stage1.statistics import SampleStatistics

FORMAT = 1
META = "checkpoint.json"
STATISTICS = "statistics.safetensors"
# A file is written when its tensors have grown to this size: all of them lie in memory until then.
FILE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Position:
    """Where a checkpoint goes on: optimizer steps done, and by how many ranks."""

    steps: int
    ranks: int


def save_checkpoint(folder: Path, engine: Any, steps: int, statistics: SampleStatistics) -> None:
    """Write this rank's part of a checkpoint. All ranks must call it.

    Args:
        folder: may be one for all ranks or one for each, to be merged.
        steps: optimizer steps done.
        statistics: of this rank; those of all are merged.
    """
    rank, ranks = _place()
    folder.mkdir(parents=True, exist_ok=True)
    files = _write_parts(folder, engine, rank, ranks)
    counts: list[Any] = [None] * ranks
    if ranks > 1:
        dist.all_gather_object(counts, files)
    else:
        counts = [files]
    merged = statistics.merged(engine.device)
    if rank == 0:
        save_file(vars(merged), folder / STATISTICS)
        meta = {
            "format": FORMAT,
            "steps": steps,
            "ranks": ranks,
            "files": [name for names in counts for name in names],
            "schedule": engine.lr_scheduler.state_dict(),
        }
        atomic.write_json(folder / META, meta)


def load_checkpoint(folder: Path, engine: Any) -> tuple[Position, SampleStatistics]:
    """Put a checkpoint into a new engine over the initial model. All ranks must call it.

    Raises:
        ArtifactError: when the checkpoint is damaged, or of another model or version.
    """
    meta = _meta(folder)
    with _stored(folder, meta["files"]) as stored, _parameters_at_rest(engine):
        whole = holds_whole_parameters(engine)
        held = {part.name: part for part in parts(engine)}
        for part in held.values():
            _load_part(engine, part, stored)
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad and whole:
                values_N = stored.read(name, MASTER, 0, parameter.numel())
                parameter.data.copy_(values_N.view_as(parameter))
    _set_clocks(engine, int(meta["steps"]), meta["schedule"])
    try:
        statistics = SampleStatistics(**load_file(folder / STATISTICS))
    except (OSError, SafetensorError, TypeError) as error:
        raise _damaged(folder, error) from None
    return Position(int(meta["steps"]), int(meta["ranks"])), statistics


class StoredState:
    """The optimizer's state in the files of all ranks.

    Args:
        files: opened by ``safe_open``.
    """

    def __init__(self, folder: Path, files: Iterable[Any]) -> None:
        self.folder = folder
        self._pieces: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self._steps: dict[str, int] = {}
        for file in files:
            header = json.loads(file.metadata()["pieces"])
            for key, (name, kind, start, steps) in header.items():
                piece = (int(start), file.get_slice(key))
                self._pieces.setdefault((name, kind), []).append(piece)
                self._steps[name] = int(steps)

    def steps(self, name: str) -> int:
        """How many steps the optimizer had made on a parameter; 0 without moments."""
        return self._steps.get(name, 0)

    def read(self, name: str, kind: str, start: int, length: int) -> torch.Tensor:
        """Values [start, start + length), float32 on the CPU.

        Raises:
            ArtifactError: when some are missing.
        """
        values_P = torch.empty(length)
        filled = 0
        for first, piece in self._pieces.get((name, kind), ()):
            low = max(start, first)
            high = min(start + length, first + piece.get_shape()[0])
            if low < high:
                values_P[low - start : high - start] = piece[low - first : high - first]
                filled += high - low
        if filled != length:
            raise _damaged(self.folder, f"{filled} of {length} values of {name} ({kind})")
        return values_P


def _write_parts(folder: Path, engine: Any, rank: int, ranks: int) -> list[str]:
    """Write what this rank answers for; the names of the files."""
    names: list[str] = []
    tensors: dict[str, torch.Tensor] = {}
    pieces: dict[str, tuple[str, str, int, int]] = {}

    def flush() -> None:
        names.append(f"state-{rank:05d}-of-{ranks:05d}-{len(names):03d}.safetensors")
        save_file(tensors, folder / names[-1], metadata={"pieces": json.dumps(pieces)})
        tensors.clear()
        pieces.clear()

    for part in parts(engine):
        low, high = _share(part, engine, rank, ranks)
        for kind, values_P in _values(part, engine):
            if low < high:
                key = str(len(pieces))
                pieces[key] = (part.name, kind, part.start + low, part.steps(engine))
                tensors[key] = values_P[low:high].detach().to("cpu", torch.float32, copy=True)
        if sum(value.numel() * 4 for value in tensors.values()) > FILE_BYTES:
            flush()
    flush()
    return names


def _values(part: Part, engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield MASTER, part.master_P
    for kind in MOMENTS:
        moment_P = part.moment_P(engine, kind)
        if moment_P is not None:
            yield kind, moment_P


def _share(part: Part, engine: Any, rank: int, ranks: int) -> tuple[int, int]:
    """The range within the part that this rank writes: with ZeRO-0 all ranks hold the same."""
    if engine.zero_optimization_stage() > 0:
        return 0, part.length
    size = -(-part.length // ranks)
    return min(part.length, rank * size), min(part.length, (rank + 1) * size)


def _load_part(engine: Any, part: Part, stored: StoredState) -> None:
    master_P = stored.read(part.name, MASTER, part.start, part.length)
    part.master_P.copy_(master_P)
    if not holds_whole_parameters(engine):
        refresh(part, master_P)
    steps = stored.steps(part.name)
    if steps == 0:
        return
    part.prepare(engine, steps)
    for kind in MOMENTS:
        moment_P = part.moment_P(engine, kind)
        assert moment_P is not None
        moment_P.copy_(stored.read(part.name, kind, part.start, part.length))


def _set_clocks(engine: Any, steps: int, schedule: dict[str, Any]) -> None:
    """Everything that counts: the schedule, and DeepSpeed's own numbers."""
    engine.lr_scheduler.load_state_dict(schedule)
    rates: Sequence[float] = schedule["_last_lr"]
    groups = engine.lr_scheduler.optimizer.param_groups
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    engine.global_steps = steps
    engine.global_samples = steps * engine.train_batch_size()
    engine.micro_steps = steps * engine.gradient_accumulation_steps()


@contextmanager
def _parameters_at_rest(engine: Any) -> Iterator[None]:
    """ZeRO-3 keeps small parameters whole on every rank: take them apart, and gather them again."""
    if holds_whole_parameters(engine):
        yield
        return
    engine.optimizer.checkpoint_event_prologue()
    yield
    engine.optimizer.checkpoint_event_epilogue()


@contextmanager
def _stored(folder: Path, names: Sequence[str]) -> Iterator[StoredState]:
    try:
        files = [safe_open(folder / name, framework="pt") for name in names]
        yield StoredState(folder, files)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None


def _meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise _damaged(folder, f"its format is {meta['format']}, not {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return meta


def _damaged(folder: Path, why: object) -> ArtifactError:
    return ArtifactError(
        f"the checkpoint in {folder} cannot be used: {why}. Remove that folder to go on from the "
        "one before it, or start Stage 1 again with --redo."
    )


def _place() -> tuple[int, int]:
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
