"""DeepSpeed's optimizer state, parameter by parameter, whatever the ZeRO stage.

DeepSpeed keeps float32 copies of the parameters ("master") and Adam's two moments: beside the
parameters (stage 0), in one flat tensor a rank (stages 1 and 2), or cut up by parameter (stage 3).
A ``Part`` is what one rank holds of one parameter, as a range of its flattened values.

Shapes: P values of one part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Part:
    """The values [start, start + length) of a parameter that learns, as this rank holds them.

    Attributes:
        numel: values of the whole parameter.
        master_P: float32.
        key: the tensor under which the optimizer keeps the state of this part, among others.
        offset: of the part in the flattened ``key``.
    """

    name: str
    parameter: torch.nn.Parameter
    numel: int
    start: int
    master_P: torch.Tensor
    key: torch.Tensor
    offset: int

    @property
    def length(self) -> int:
        return len(self.master_P)

    def moment_P(self, engine: Any, kind: str) -> torch.Tensor | None:
        """One of ``MOMENTS``; None before the optimizer's first step on it."""
        state = engine.basic_optimizer.state.get(self.key, {})
        if kind not in state:
            return None
        values_P: torch.Tensor = state[kind].view(-1).narrow(0, self.offset, self.length)
        return values_P

    def steps(self, engine: Any) -> int:
        """How many steps the optimizer has made on it."""
        return int(engine.basic_optimizer.state.get(self.key, {}).get("step", 0))

    def prepare(self, engine: Any, steps: int) -> None:
        """Make room for the moments, as the optimizer's first step would."""
        state = engine.basic_optimizer.state[self.key]
        counter = torch.tensor(float(steps))
        plain = isinstance(engine.basic_optimizer, torch.optim.AdamW)
        state["step"] = counter if plain else steps
        for kind in MOMENTS:
            state.setdefault(kind, torch.zeros_like(self.key, memory_format=torch.preserve_format))


def parts(engine: Any) -> Iterator[Part]:
    """This rank's part of every parameter that learns, in the module's order."""
    optimizer, masters = engine.optimizer, None
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            part = _cut_up(name, parameter, optimizer)
        elif hasattr(parameter, "_hp_mapping"):
            part = _flattened(name, parameter, optimizer)
        else:
            masters = masters or unsharded_masters(optimizer)
            part = _beside(name, parameter, masters.get(id(parameter), parameter))
        if part is not None:
            yield part


def refresh(part: Part, values_P: torch.Tensor) -> None:
    """ZeRO-3: put new master values into what the rank holds of the parameter itself."""
    values = part.parameter.ds_tensor.data.view(-1)  # type: ignore[attr-defined]
    values[: part.length].copy_(values_P)


def holds_whole_parameters(engine: Any) -> bool:
    """Whether every rank has all values of every parameter: not so under ZeRO-3."""
    return bool(engine.zero_optimization_stage() < 3)


def unsharded_masters(optimizer: Any) -> dict[int, torch.Tensor]:
    """ZeRO-0 in bfloat16: DeepSpeed keeps the copies in lists that run beside the parameters."""
    groups = zip(
        getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()), strict=True
    )
    pairs = (pair for halves, masters in groups for pair in zip(halves, masters, strict=True))
    return {id(half): master for half, master in pairs}


def _beside(name: str, parameter: torch.nn.Parameter, master: torch.Tensor) -> Part:
    flat = master.detach().view(-1)
    return Part(name, parameter, len(flat), 0, flat, master, 0)


def _flattened(name: str, parameter: torch.nn.Parameter, optimizer: Any) -> Part | None:
    """None where the rank holds nothing of it."""
    fragment = parameter._hp_mapping  # type: ignore[attr-defined]
    if fragment is None:
        return None
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None)
    flats = optimizer.fp32_groups_flat_partition if flats is None else flats
    flat = flats[fragment.param_group_index]
    place = fragment.hp_fragment_address
    master_P = flat.detach().narrow(0, place.start, place.numel)
    start = fragment.lp_fragment_address.start
    return Part(name, parameter, parameter.numel(), start, master_P, flat, place.start)


def _cut_up(name: str, parameter: torch.nn.Parameter, optimizer: Any) -> Part | None:
    """None where all that the rank holds of it is padding."""
    group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    flat = optimizer.fp32_partitioned_groups_flat[group]
    numel = int(parameter.ds_numel)  # type: ignore[attr-defined]
    start = size * dist.get_rank()
    length = min(size, numel - start)
    if length <= 0:
        return None
    return Part(
        name, parameter, numel, start, flat.detach().narrow(0, offset, length), flat, offset
    )
