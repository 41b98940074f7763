"""The metrics of an optimizer step, from sums that add up over chunks and ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from selfilter_ray.stage1.model import StepLosses

SUMS = 6


def chunk_sums(losses: StepLosses, share: float) -> torch.Tensor:
    """(6,) float64 sums of one chunk: loss, token losses, tokens, z, z squared, samples.

    Args:
        share: of the chunk in the step's loss, which is a mean.
    """
    samples = torch.tensor(float(len(losses.z_B)), dtype=torch.float64, device=losses.loss.device)
    return torch.stack(
        [
            losses.loss.detach().double() * share,
            losses.loss_sum_B.double().sum(),
            losses.tokens_B.double().sum(),
            losses.z_B.double().sum(),
            losses.z_B.double().square().sum(),
            samples,
        ]
    )


def no_sums(device: torch.device) -> torch.Tensor:
    """Of a chunk that only keeps a rank in step with the others."""
    return torch.zeros(SUMS, dtype=torch.float64, device=device)


def step_metrics(sums: torch.Tensor, seconds: float) -> dict[str, float]:
    """The step's metrics. All ranks must call it with their own sums."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    loss, loss_sum, tokens, z, z_square, samples = sums.tolist()
    return {
        "loss": loss,
        "plain_loss": loss_sum / max(tokens, 1.0),
        "score_std": max(0.0, z_square / samples - (z / samples) ** 2) ** 0.5,
        "samples": samples,
        "tokens": tokens,
        "seconds": seconds,
        "samples_per_second": samples / seconds,
    }
