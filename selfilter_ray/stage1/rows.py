"""Which samples a training run sees, and what the score net sees of each.

Shapes: N usable samples, M of them trained on, D inputs of the score net.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from selfilter_ray import atomic
from selfilter_ray.config import TrainConfig
from selfilter_ray.features.shards import Features, load_features, usable_ids
from selfilter_ray.select.random_order import random_order
from selfilter_ray.stage1.inputs import Scaling, net_inputs, read_ratings


@dataclass(frozen=True)
class Paths:
    """Where a rank reads and writes; every rank must reach them.

    ``ratings``: for a score net that sees ratings. ``rows``: a parquet file with the ids to train
    on and, for CoIDO, their clusters; all usable samples when None.
    """

    samples: Path
    features: Path
    output: Path
    model: str
    ratings: Path | None = None
    rows: Path | None = None


def part_of_pool(ids: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A random share of the ids, in their order, at least one.

    Which ones depends on the seed and the ids only; a larger fraction contains a smaller one.
    """
    order = random_order(ids, seed, "pool fraction")
    return ids[np.sort(order[: max(1, round(fraction * len(ids)))])]


def write_rows(file: Path, ids: np.ndarray, cluster_M: np.ndarray | None = None) -> None:
    """The file that ``Paths.rows`` names: ids, and clusters where the objective needs them."""
    columns = {"id": pa.array(ids, pa.string())}
    if cluster_M is not None:
        columns["cluster"] = pa.array(cluster_M, pa.int64())
    atomic.write_table(file, pa.table(columns))


def training_rows(
    train: TrainConfig, paths: Paths
) -> tuple[Features, Scaling | None, torch.Tensor | None]:
    """The samples to train on, sorted by id, their features being the score net's (M, D) inputs.

    Returns:
        Also how ratings were scaled (over all N), and the (M,) cluster of each sample. Plain
        training has no score net: D is 1, and all features are 0.
    """
    if train.objective == "plain":
        return _without_features(paths), None, None
    features = load_features(paths.features)
    ratings = {}
    if train.inputs != "clip":
        file = paths.ratings or paths.features.parent / "ratings.parquet"
        ratings = read_ratings(features, file, train.score_columns)
    inputs_ND, scaling = net_inputs(train.inputs, features, ratings, None)
    if paths.rows is None:
        return Features(features.ids, inputs_ND, features.clip_score_N), scaling, None
    table = pq.read_table(paths.rows).sort_by("id")
    place = np.searchsorted(features.ids, table["id"].to_numpy(zero_copy_only=False))
    chosen = Features(features.ids[place], inputs_ND[place], features.clip_score_N[place])
    clusters = None
    if "cluster" in table.column_names:
        clusters = torch.from_numpy(table["cluster"].to_numpy().copy())
    return chosen, scaling, clusters


def _without_features(paths: Paths) -> Features:
    if paths.rows is None:
        ids = usable_ids(paths.features)
    else:
        column = pq.read_table(paths.rows, columns=["id"])["id"]
        ids = np.sort(column.to_numpy(zero_copy_only=False))
    return Features(ids, np.zeros((len(ids), 1), np.float32), np.full(len(ids), np.nan, np.float32))
