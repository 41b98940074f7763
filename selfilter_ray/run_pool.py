"""A run's samples as the selection methods see them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq

from selfilter_ray.features.shards import load_features
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import read_samples, samples_of
from selfilter_ray.select.contract import Pool
from selfilter_ray.select.registry import needs_of
from selfilter_ray.select.settings import MethodSettings


def load_pool(folder: RunFolder, methods: Iterable[MethodSettings], features: bool = False) -> Pool:
    """All usable samples of a run, with every column of ``scores.parquet``.

    Args:
        methods: the features are read only where one of them, or ``features``, asks for them.
    """
    table = pq.read_table(folder.scores)
    ids = table["id"].to_numpy(zero_copy_only=False)
    sources = samples_of(read_samples(folder.samples, ["id", "source"]), ids)["source"]
    columns = {
        name: table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in table.column_names
        if name != "id"
    }
    features = features or any(needs_of(settings).features for settings in methods)
    features_ND = load_features(folder.features).features_ND if features else None
    return Pool(ids, sources.to_numpy(zero_copy_only=False), features_ND, columns)
