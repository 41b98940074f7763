"""ImageReward over samples: every pair of picture and text once, one number a sample.

Shapes: N samples, B pictures of a batch, K pairs of a batch, L V states of a picture (``model``).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch

from selfilter_ray.config import LimitsConfig
from selfilter_ray.features.decode import Decoder
from selfilter_ray.features.embedder import hash_weights
from selfilter_ray.features.shards import OK, TEXT_ONLY
from selfilter_ray.samples.files import iterate_samples
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample, scorer_text
from selfilter_ray.scorers.image_reward.checkpoint import load_image_reward
from selfilter_ray.scorers.image_reward.inputs import Prompts, picture_transform
from selfilter_ray.scorers.image_reward.med_config import read_med_config
from selfilter_ray.scorers.image_reward.settings import ImageRewardConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Pair = tuple[str, str]  # name of the picture, text


class ImageRewardRater:
    """Samples in, rewards out. One model call at a time, whatever the number of callers.

    Making one raises ConfigError when weights, config or tokenizer are not there or the tokenizer
    is another model's, and ArtifactError when the weights are refused, damaged or do not fit.
    """

    def __init__(
        self, settings: ImageRewardConfig, limits: LimitsConfig, device: str = "cpu"
    ) -> None:
        config = read_med_config(Path(settings.config))
        self.device = device
        self.batch_size = settings.batch_size
        self._prompts = Prompts(settings.tokenizer, config.vocab_size)
        self._model = load_image_reward(Path(settings.weights), config).to(device)
        for part in (self._model.vision, self._model.text):  # the head stays in float32
            part.to(DTYPES[settings.precision])
        self._decoder = Decoder(
            picture_transform(self._model.vision.config.image_size),
            limits,
            settings.batch_size,
            settings.decode_threads,
            settings.prefetch_batches,
        )
        self._lock = threading.Lock()

    def __call__(self, samples: pa.Table) -> pa.Table:
        """Rewards of the samples, in their order.

        Args:
            samples: rows with id, locator, turns, images (``features.extract.COLUMNS``).

        Returns:
            A table with id, locator, image_reward (float32; with several pictures the mean of
            their rewards, ours), status and detail. ``status`` is ``ok``; ``text_only`` without
            a picture; or the reason of the quarantine. Without ``ok`` the reward is null.
        """
        rows = list(iterate_samples(samples))
        texts = [scorer_text(row.turns) for row in rows]
        rewards, problems = self._rated(rows, texts)
        outcomes = [
            _outcome(row, text, rewards, problems) for row, text in zip(rows, texts, strict=True)
        ]
        return pa.table(
            {
                "id": pa.array([row.id for row in rows], pa.string()),
                "locator": pa.array([row.locator for row in rows], pa.string()),
                "image_reward": pa.array([reward for reward, _, _ in outcomes], pa.float32()),
                "status": pa.array([status for _, status, _ in outcomes], pa.string()),
                "detail": pa.array([detail for _, _, detail in outcomes], pa.string()),
            }
        )

    def weights_hash(self) -> str:
        """SHA-256 over all weights: which model made a reward."""
        return hash_weights(self._model)

    def _rated(
        self, rows: Sequence[Sample], texts: Sequence[str]
    ) -> tuple[dict[Pair, float], dict[str, BadRow]]:
        """The reward of every distinct pair, and the problem of every picture that has one."""
        wanted: dict[str, set[str]] = {}
        for row, text in zip(rows, texts, strict=True):
            for name in row.images:
                wanted.setdefault(name, set()).add(text)
        rewards: dict[Pair, float] = {}
        problems: dict[str, BadRow] = {}
        for batch in self._decoder.batches(sorted(wanted)):
            problems.update(batch.problems)
            if batch.names:
                pairs = [(name, text) for name in batch.names for text in sorted(wanted[name])]
                place = {name: number for number, name in enumerate(batch.names)}
                with self._lock:
                    rewards.update(self._rewards(batch.pixels_BCHW, place, pairs))
        return rewards, problems

    @torch.inference_mode()
    def _rewards(
        self, pixels_BCHW: torch.Tensor, place: Mapping[str, int], pairs: Sequence[Pair]
    ) -> dict[Pair, float]:
        """Each picture goes through its encoder once, each pair through the text encoder."""
        states_BLV = self._model.picture_states(pixels_BCHW.to(self.device, non_blocking=True))
        rewards: dict[Pair, float] = {}
        for start in range(0, len(pairs), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            ids_KT, mask_KT = self._prompts([text for _, text in batch])
            states_KLV = states_BLV[[place[name] for name, _ in batch]]
            rewards_K = self._model(states_KLV, ids_KT.to(self.device), mask_KT.to(self.device))
            rewards.update(zip(batch, rewards_K.tolist(), strict=True))
        return rewards


def _outcome(
    row: Sample, text: str, rewards: Mapping[Pair, float], problems: Mapping[str, BadRow]
) -> tuple[float | None, str, str]:
    """Reward, status and detail of a sample."""
    if not row.images:
        return None, TEXT_ONLY, ""
    problem = next((problems[name] for name in row.images if name in problems), None)
    if problem is None:
        reward = sum(rewards[name, text] for name in row.images) / len(row.images)
        if math.isfinite(reward):
            return reward, OK, ""
        problem = BadRow("embedding_not_finite", "the reward is NaN or Infinity")
    return None, problem.reason, problem.detail
