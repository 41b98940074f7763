"""From the score net's outputs to the weight and the difficulty of every sample.

Shapes: N samples, D features.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfilter_ray.features.shards import Features
from selfilter_ray.stage1.score_net import ScoreNet


def score_features(net: ScoreNet, features_ND: np.ndarray) -> np.ndarray:
    """z of each row, (N,) float32, summed in float64.

    Raises:
        ValueError: when the features have another dimension than the net was trained on.
    """
    if features_ND.ndim != 2 or features_ND.shape[1] != net.features:
        raise ValueError(
            f"the score net takes {net.features} features a sample, not {features_ND.shape[1:]}"
        )
    weight_D = net.linear.weight.detach().double().numpy()[0]
    z_N: np.ndarray = (features_ND.astype(np.float64) @ weight_D).astype(np.float32)
    return z_N


def pool_weights(z_N: np.ndarray) -> np.ndarray:
    """The weight each sample would have with the whole pool as one batch: N softmax(z), mean 1."""
    if len(z_N) == 0:
        return np.zeros(0, np.float32)
    exponent_N = np.exp(z_N.astype(np.float64) - float(z_N.max()))
    weights: np.ndarray = (len(z_N) * exponent_N / exponent_N.sum()).astype(np.float32)
    return weights


def score_table(
    ids: np.ndarray, z_N: np.ndarray, features: Features, statistics: pa.Table
) -> pa.Table:
    """``scores.parquet``: one row a usable record, sorted by id.

    Args:
        ids, z_N: the scored samples, in any order.
        features: sorted by id; gives the CLIP score.
        statistics: of Stage 1, by id; gives answer_tokens and train_loss.

    Returns:
        id, weight, difficulty, clip_score, answer_tokens, train_loss.
    """
    order = np.argsort(ids, kind="stable")
    ids, z_N = ids[order], z_N[order]
    if not np.array_equal(ids, features.ids):
        raise ValueError("the scored samples are not those that have features")
    place = pc.index_in(pa.array(ids, pa.string()), value_set=statistics["id"].combine_chunks())
    known = statistics.take(place)
    clip_N = features.clip_score_N
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "weight": pa.array(pool_weights(z_N)),
            "difficulty": pa.array(-z_N),
            "clip_score": pa.array(clip_N, mask=np.isnan(clip_N)),
            "answer_tokens": known["answer_tokens"],
            "train_loss": known["train_loss"],
        }
    )
