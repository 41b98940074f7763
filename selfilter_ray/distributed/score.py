"""The score net over all features, on Ray Data: a shard file in, ids and scores out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray

from selfilter_ray.features.shards import load_shards
from selfilter_ray.scoring import score_features
from selfilter_ray.stage1.score_net import load_score_net
from selfilter_ray.storage.shared import Shared


def score_shards(files: list[Path], score_net: Path) -> tuple[np.ndarray, np.ndarray]:
    """z of every usable sample of the shard files.

    Returns:
        Ids and z, in no particular order.
    """

    def score(row: dict[str, Any]) -> list[dict[str, Any]]:
        features = load_shards([Shared(row["place"], row["name"]).here()])
        net, _ = load_score_net(net_file.here())
        z_N = score_features(net, features.features_ND)
        return [{"id": id, "z": z} for id, z in zip(features.ids, z_N, strict=True)]

    net_file = Shared.of(score_net)
    work = [asdict(Shared.of(file)) for file in files]
    rows = ray.data.from_items(work, override_num_blocks=len(work)).flat_map(score)
    ids, scores = [], []
    for batch in rows.iter_batches(batch_size=None, batch_format="numpy"):
        ids.append(batch["id"].astype(str))
        scores.append(batch["z"].astype(np.float32))
    return np.concatenate(ids).astype(object), np.concatenate(scores)
