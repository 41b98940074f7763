"""What all ranks have to know alike before they go on: one small all-reduce a forward pass."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist

from selfilter_ray.errors import SelfilterError

STOP_FILE = "stop"
# How often the ranks look for news that cost more than a flag, such as a preemption notice.
LOOK_SECONDS = 5.0


class NotFiniteError(SelfilterError):
    """The loss became NaN or infinite. Training again from the checkpoint would end the same."""


class StoppedError(SelfilterError):
    """Training was asked to stop. Its checkpoint is written, and the same command goes on."""


class Agreement:
    """Flags that rank 0 sets for all, joined to the check that every rank's loss is finite.

    Args:
        stop_file: who wants training to stop creates it.

    Attributes:
        stop: whether training is to end with a checkpoint after this step.
        look: whether this step ends a stretch of ``LOOK_SECONDS``.
    """

    def __init__(self, stop_file: Path, device: torch.device) -> None:
        self.stop_file, self.device = stop_file, device
        self.several = dist.is_initialized() and dist.get_world_size() > 1
        self.first = not self.several or dist.get_rank() == 0
        self.stop = self.look = False
        self._looked = time.monotonic()

    def on(self, loss: torch.Tensor) -> bool:
        """Whether the loss is finite on every rank. All ranks must call it."""
        stop, look = self._seen()
        ours = torch.tensor([0.0, float(not stop), float(not look)], device=self.device)
        ours[0] = torch.isfinite(loss.detach()).to(ours.dtype)
        if self.several:
            dist.all_reduce(ours, dist.ReduceOp.MIN)
        finite, go_on, no_look = ours.tolist()
        self.stop = self.stop or not go_on
        self.look = self.look or not no_look
        return bool(finite)

    def looked(self) -> bool:
        """Whether to look now; the next stretch begins."""
        look, self.look = self.look, False
        if look:
            self._looked = time.monotonic()
        return look

    def _seen(self) -> tuple[bool, bool]:
        if not self.first:
            return False, False
        return self.stop_file.exists(), time.monotonic() - self._looked > LOOK_SECONDS
