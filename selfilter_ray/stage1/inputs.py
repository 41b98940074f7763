"""What the score net sees of a sample: features, scaled ratings, or both (Self-Filter, section 3).

In the Scores setting each rating is scaled over the data set to [-1, 1] by its minimum and maximum.
Ours: a sample without a rating (text-only records have no CLIP score) gets the mean of the others.
Shapes: N samples, R ratings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.shards import Features

Inputs = Literal["clip", "scores", "both"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """How each rating came to [-1, 1]; kept with the score net, to treat new samples alike."""

    columns: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]

    @classmethod
    def over(cls, ratings: Mapping[str, np.ndarray]) -> Scaling:
        """From the ratings of the whole pool, NaN where a sample has none.

        Raises:
            ConfigError: when no sample has a rating at all.
        """
        for name, values_N in ratings.items():
            if not np.isfinite(values_N).any():
                raise ConfigError(
                    f"train.score_columns: no sample has a {name}. "
                    + REMEDIES.get(name, "Take it out of the list.")
                )
        values = [
            values_N[np.isfinite(values_N)].astype(np.float64) for values_N in ratings.values()
        ]
        return cls(
            tuple(ratings),
            tuple(float(v.min()) for v in values),
            tuple(float(v.max()) for v in values),
            tuple(float(v.mean()) for v in values),
        )

    def apply(self, ratings: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N, R) float32, in the order of ``columns``; a constant rating is 0 everywhere."""
        scaled = []
        for name, low, high, mean in zip(self.columns, self.low, self.high, self.mean, strict=True):
            values_N = np.where(np.isfinite(ratings[name]), ratings[name], mean).astype(np.float64)
            width = high - low
            scaled.append((2.0 * (values_N - low) / width - 1.0) if width else 0.0 * values_N)
        return np.stack(scaled, axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scaling:
        return cls(*(tuple(values[name]) for name in ("columns", "low", "high", "mean")))


REMEDIES = {
    "clip_score": "The embedder gives none: take an open_clip model, or leave clip_score out.",
    "image_reward": "Set ratings.image_reward.",
}


def read_ratings(features: Features, file: Path, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Ratings by name, each (N,) in the order of the features, NaN where a sample has none.

    Args:
        file: ``ratings.parquet``; needed for all but ``clip_score``.

    Raises:
        ArtifactError: when the file lacks a column or does not hold the same samples.
    """
    ratings = {"clip_score": features.clip_score_N.astype(np.float64)}
    others = [name for name in columns if name not in ratings]
    if others:
        try:
            table = pq.read_table(file)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{file} cannot be read ({error}): run score, or all of it with run."
            ) from None
        missing = [name for name in others if name not in table.column_names]
        if missing or not np.array_equal(table["id"].to_numpy(), features.ids):
            raise ArtifactError(
                f"{file} holds no {', '.join(missing) or 'such samples'}: run score."
            )
        ratings |= {
            name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in others
        }
    return {name: ratings[name] for name in columns}


def net_inputs(
    inputs: Inputs, features: Features, ratings: Mapping[str, np.ndarray], scaling: Scaling | None
) -> tuple[np.ndarray, Scaling | None]:
    """(N, D) float32 inputs of the score net, and the scaling of the ratings in them.

    Args:
        ratings: ignored for ``clip``.
        scaling: that of the trained net; None takes it from these samples.
    """
    if inputs == "clip":
        return features.features_ND, None
    scaling = scaling or Scaling.over(ratings)
    scaled_NR = scaling.apply(ratings)
    if inputs == "scores":
        return scaled_NR, scaling
    return np.concatenate([features.features_ND, scaled_NR], axis=1), scaling
