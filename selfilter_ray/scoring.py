"""From the score net's outputs to the weight and the difficulty of every sample.

Shapes: N samples, D features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from selfilter_ray.features.shards import Features
from selfilter_ray.stage1.inputs import Scaling, net_inputs, read_ratings
from selfilter_ray.stage1.score_net import ScoreNet, load_score_net

ROWS_AT_ONCE = 65_536  # their copies as float64 stay below a GB


def score_features(net: ScoreNet, features_ND: np.ndarray) -> np.ndarray:
    """z of each row, (N,) float32, summed in float64.

    Raises:
        ValueError: when the features have another dimension than the net was trained on.
    """
    if features_ND.ndim != 2 or features_ND.shape[1] != net.features:
        raise ValueError(
            f"the score net takes {net.features} features a sample, not {features_ND.shape[1:]}"
        )
    z_N = np.zeros(len(features_ND), np.float32)
    for start in range(0, len(features_ND), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        with torch.inference_mode():
            z_N[rows] = net(torch.from_numpy(features_ND[rows].astype(np.float64))).numpy()
    return z_N


def pool_weights(z_N: np.ndarray) -> np.ndarray:
    """The weight each sample would have with the whole pool as one batch: N softmax(z), mean 1."""
    if len(z_N) == 0:
        return np.zeros(0, np.float32)
    exponent_N = np.exp(z_N.astype(np.float64) - float(z_N.max()))
    weights: np.ndarray = (len(z_N) * exponent_N / exponent_N.sum()).astype(np.float32)
    return weights


def difficulty_columns(z_N: np.ndarray) -> dict[str, pa.Array]:
    """``weight`` and ``difficulty`` of ``scores.parquet``, from z of the whole pool."""
    return {"weight": pa.array(pool_weights(z_N)), "difficulty": pa.array(-z_N)}


def net_scores(score_net: Path, features: Features, ratings: Path) -> np.ndarray:
    """z of each sample, (N,) float32, from whatever the net was trained to see.

    Args:
        score_net: file of the net.
        features: of the samples.
        ratings: ``ratings.parquet`` of the same samples; read by nets that see ratings.

    Raises:
        ArtifactError: when a file is missing or damaged.
    """
    net, metadata = load_score_net(score_net)
    inputs = metadata.get("inputs", "clip")
    if inputs == "clip":
        return score_features(net, features.features_ND)
    scaling = Scaling.from_dict(metadata["scaling"])
    values = read_ratings(features, ratings, scaling.columns)
    return score_features(net, net_inputs(inputs, features, values, scaling)[0])
