"""Stage 2 over Ray actors: the same picks as on one machine, for any number of shards."""

from __future__ import annotations

import numpy as np
import pytest

from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard, load_features
from selfilter_ray.select.contract import Pool
from selfilter_ray.select.diverse import select_diverse
from selfilter_ray.select.settings import SelfilterSettings

pytestmark = pytest.mark.ray

ROWS, FILES = 640, 8


@pytest.fixture(scope="module")
def feature_files(tmp_path_factory):
    """Eight files of features with duplicates, their ids in no order."""
    import pyarrow as pa

    from selfilter_ray.features.extract import fixed_size_list

    folder = tmp_path_factory.mktemp("features")
    random = np.random.default_rng(0)
    features_ND = random.normal(size=(ROWS, 12)).astype(np.float32)
    features_ND[:60] = features_ND[random.integers(0, ROWS, 60)]
    ids = np.array([f"id-{number:04d}" for number in random.permutation(ROWS)])
    size = ROWS // FILES
    for number in range(FILES):
        rows = slice(number * size, (number + 1) * size)
        table = pa.table(
            {
                "id": ids[rows],
                "locator": ids[rows],
                "image_embedding": fixed_size_list(features_ND[rows, :8]),
                "text_embedding": fixed_size_list(features_ND[rows, 8:]),
                "scores": pa.StructArray.from_arrays(
                    [pa.nulls(size, pa.float32())], ["clip_score"]
                ),
                "status": ["ok"] * size,
                "detail": [""] * size,
            }
        )
        shard = Shard(number, rows.start, rows.stop)
        finish_shard(folder, shard, table, ShardRecord("key", size, 0.0, "model"))
    return sorted(folder.glob("*.parquet"))


@pytest.fixture(scope="module")
def pool(feature_files):
    features = load_features(feature_files[0].parent)
    difficulty_N = np.random.default_rng(1).normal(size=ROWS)
    sources = np.full(ROWS, "all", dtype=object)
    return Pool(features.ids, sources, features.features_ND, {"difficulty": difficulty_N})


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_any_number_of_actors_gives_the_same_picks(ray_cluster, feature_files, pool, shards):
    from selfilter_ray.distributed.neighbours import select_sharded

    expected = select_diverse(pool.features_ND, pool.columns["difficulty"], 200)
    told = []
    selection = select_sharded(
        feature_files, pool, 200, SelfilterSettings(shards=shards), told.append
    )
    np.testing.assert_array_equal(selection.indices, expected.indices)
    np.testing.assert_array_equal(selection.picks.neighbours_BK, expected.neighbours_BK)
    np.testing.assert_array_equal(selection.value.astype("f4"), expected.difficulty_at_pick)
    assert sum(told) == 200


def test_files_of_another_pool_are_refused(ray_cluster, feature_files, pool):
    from selfilter_ray.distributed.neighbours import select_sharded

    with pytest.raises(ValueError, match="do not hold"):
        select_sharded(feature_files[:-1], pool, 20, SelfilterSettings(shards=2))
