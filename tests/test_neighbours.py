"""Every way to search neighbours gives the same picks; the approximate one says what it misses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.errors import ConfigError
from selfilter_ray.select import select_diverse
from selfilter_ray.select.cosine import cosines, dots, squares
from selfilter_ray.select.greedy import pick_greedily
from selfilter_ray.select.hardest import BLOCK, Hardest
from selfilter_ray.select.neighbours import exact as exact_module
from selfilter_ray.select.neighbours import faiss_search
from selfilter_ray.select.neighbours.backends import build_backend, local_search
from selfilter_ray.select.neighbours.best import Best
from selfilter_ray.select.neighbours.search import product_margin
from selfilter_ray.select.neighbours.shard import FeatureShard
from selfilter_ray.select.neighbours.sharded import ShardedSearch
from selfilter_ray.select.sites import Sites, row_digests

SAME_PICKS = ["exact", "torch", "faiss-flat"]


def clustered(samples, features, clusters=20, seed=0, noise=0.5):
    """Difficulties and features in clusters, with duplicates, near duplicates and zero rows."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, features))
    label = random.integers(0, clusters, samples)
    rows = centres[label] + noise * random.normal(size=(samples, features))
    rows[: samples // 8] = rows[random.integers(0, samples, samples // 8)]
    near = random.integers(0, samples, samples // 8)
    rows[samples // 8 : samples // 8 + len(near)] = rows[near] * (1 + 1e-7)
    rows[random.integers(0, samples, 3)] = 0.0
    difficulty = random.normal(size=clusters)[label] + random.normal(size=samples)
    return rows.astype(np.float32), difficulty


def assert_same(first, second):
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.neighbours_BK, second.neighbours_BK)
    np.testing.assert_array_equal(first.difficulty_at_pick, second.difficulty_at_pick)
    np.testing.assert_array_equal(first.similarity_BK, second.similarity_BK)


@pytest.mark.parametrize("backend", SAME_PICKS[1:])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_every_exact_backend_gives_the_same_picks_and_neighbours(backend, k):
    features_ND, difficulty_N = clustered(1500, 24)
    expected = select_diverse(features_ND, difficulty_N, 700, k_nearest=k)
    assert_same(
        select_diverse(features_ND, difficulty_N, 700, k_nearest=k, backend=backend), expected
    )


@pytest.mark.parametrize("backend", SAME_PICKS)
def test_the_whole_pool_can_be_put_in_order(backend):
    features_ND, difficulty_N = clustered(260, 6)
    picks = select_diverse(features_ND, difficulty_N, 260, backend=backend)
    assert sorted(picks.indices.tolist()) == list(range(260))
    assert picks.recall is None


@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 40),
    k=st.integers(0, 40),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_small_pools_are_the_same_for_every_exact_backend(seed, samples, k, gamma):
    random = np.random.default_rng(seed)
    features_ND = random.integers(-2, 3, (samples, 3)).astype(np.float32)
    difficulty_N = random.integers(-4, 5, samples) / 2.0
    budget = int(random.integers(0, samples + 1))
    first, *others = (
        select_diverse(features_ND, difficulty_N, budget, gamma, k, "raw", backend=name)
        for name in SAME_PICKS
    )
    for other in others:
        assert_same(first, other)


def test_an_inverted_file_says_how_much_it_finds():
    features_ND, difficulty_N = clustered(4000, 16, clusters=50)
    picks = select_diverse(features_ND, difficulty_N, 400, backend="faiss-ivf")
    assert len(set(picks.indices.tolist())) == 400
    assert picks.recall is not None and 0.5 < picks.recall <= 1.0


def test_fewer_probes_find_less(monkeypatch):
    features_ND, difficulty_N = clustered(4000, 16, clusters=50, noise=1.0)
    monkeypatch.setattr(faiss_search, "PROBES", 1)
    picks = select_diverse(features_ND, difficulty_N, 10, backend="faiss-ivf")
    assert picks.recall < 0.9


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="faiss-cpu"):
        select_diverse(np.eye(3), [1, 2, 3], 1, backend="faiss-flat")


def test_without_a_gpu_faiss_gpu_is_refused():
    import faiss

    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="GPU"):
        select_diverse(np.eye(3), [1, 2, 3], 1, backend="faiss-gpu")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="exact"):
        select_diverse(np.eye(3), [1, 2, 3], 1, backend="annoy")


@pytest.mark.parametrize("backend", SAME_PICKS)
@pytest.mark.parametrize("alive_share", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_a_search_keeps_its_promise_about_what_it_left_out(backend, alive_share, monkeypatch):
    monkeypatch.setattr(exact_module, "FIRST_BLOCK", 64)
    monkeypatch.setattr(exact_module, "BLOCK", 256)
    features_ND, _ = clustered(1100, 12)
    random = np.random.default_rng(1)
    alive_U = random.random(1100) < alive_share
    search = local_search(backend, features_ND, squares(features_ND))
    queries = random.integers(0, 1100, 20)
    for query, found in zip(queries, search.nearest(queries, 30, alive_U), strict=True):
        true_U = search.cosines(int(query), np.arange(1100))
        assert alive_U[found.sites].all() and len(set(found.sites.tolist())) == len(found.sites)
        assert len(found.sites) >= min(30, alive_U.sum())
        assert (np.diff(found.rough) <= 0).all()
        np.testing.assert_allclose(found.rough, true_U[found.sites], atol=search.margin)
        left_out = alive_U.copy()
        left_out[found.sites] = False
        assert (true_U[left_out] <= found.floor + search.margin).all()


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_rows_of_any_length_are_compared_by_direction(scale):
    features_ND, difficulty_N = clustered(300, 8)
    expected = select_diverse(features_ND, difficulty_N, 100)
    scaled = select_diverse((features_ND * np.float32(scale)), difficulty_N, 100)
    # Scaling by no power of two rounds the rows themselves: the picks may differ in ties only.
    assert len(np.intersect1d(expected.indices, scaled.indices)) >= 95


def test_a_crowd_of_near_duplicates_is_searched_wider():
    random = np.random.default_rng(3)
    features_ND = np.ones((600, 16)) + 1e-6 * random.normal(size=(600, 16))
    difficulty_N = random.normal(size=600)
    features_ND = features_ND.astype(np.float32)
    picks = select_diverse(features_ND, difficulty_N, 50, k_nearest=5)
    remaining = np.ones(600, bool)
    squares_N = squares(features_ND)
    for pick, neighbours in zip(picks.indices, picks.neighbours_BK, strict=True):
        remaining[pick] = False
        rows = np.flatnonzero(remaining)
        true = cosines(features_ND[pick], squares_N[pick], features_ND[rows], squares_N[rows])
        assert rows[np.lexsort((rows, -true))[:5]].tolist() == neighbours.tolist()


def test_dots_are_rounded_once():
    import math

    random = np.random.default_rng(0)
    for features in (1, 2, 3, 7, 64, 1000):
        rows = random.normal(size=(40, features)).astype(np.float32) * 1000
        rows[::2] *= np.float32(1e-6)
        expected = [math.fsum((rows[0].astype(float) * row).tolist()) for row in rows]
        assert dots(rows[:1], rows).tolist() == expected
    assert dots(np.ones((1, 0), np.float32), np.ones((3, 0), np.float32)).tolist() == [0.0] * 3


def test_the_hardest_is_the_first_of_the_highest_after_every_change():
    random = np.random.default_rng(0)
    value_N = random.integers(0, 50, 3 * BLOCK + 17).astype(float)
    hardest, plain = Hardest(value_N), value_N.copy()
    for _ in range(300):
        first = hardest.first()
        assert first == int(plain.argmax())
        assert hardest.take(first) == plain[first]
        plain[first] = -np.inf
        samples = np.setdiff1d(random.integers(0, len(plain), 5), np.flatnonzero(plain == -np.inf))
        by = random.integers(-9, 9, len(samples)).astype(float)
        hardest.lower(samples, by)
        plain[samples] -= by
    top = hardest.next_in_line(40)
    assert sorted(plain[top].tolist()) == sorted(plain.tolist())[-40:]


def test_best_keeps_the_highest_of_all_blocks():
    random = np.random.default_rng(0)
    scores = random.normal(size=(500, 7)).astype(np.float32)
    scores[::3] = -np.inf
    best = Best(7, 20)
    for start in range(0, 500, 64):
        best.offer(np.arange(start, min(500, start + 64)), scores[start : start + 64])
    for query, found in enumerate(best.found(int((scores[:, 0] > -np.inf).sum()))):
        assert found.rough.tolist() == sorted(scores[:, query].tolist(), reverse=True)[:20]
        assert found.rough.tolist() == scores[found.sites, query].tolist()


def test_samples_of_one_site_are_listed_in_order():
    rows = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4], [1, 2]], np.float32)
    sites = Sites.of(row_digests(rows))
    assert sites.first_U.tolist() == [0, 1, 3]
    assert sites.sizes_U.tolist() == [3, 2, 1]
    assert sites.members_of(0).tolist() == [0, 2, 5]
    assert not sites.all_distinct


def test_margin_bounds_the_error_of_the_product():
    features_ND, _ = clustered(2000, 64, seed=4)
    search = build_backend("exact", features_ND, squares(features_ND))
    assert 0 < search.margin < 1e-4


def sharded_picks(features_ND, difficulty_N, budget, shards, k=10, backend="exact"):
    """As ``select_diverse`` with raw difficulties, over shards in this process."""
    shard_N = np.random.default_rng(shards).integers(0, shards, len(features_ND))
    row_N = np.zeros(len(features_ND), np.int64)
    parts = []
    for number in range(shards):
        own = np.flatnonzero(shard_N == number)
        row_N[own] = np.arange(len(own))
        parts.append(FeatureShard(features_ND[own], backend))

    def call(calls):
        return [getattr(parts[number], method)(*given) for number, method, given in calls]

    sites = Sites.of(row_digests(features_ND))
    margin = product_margin(features_ND.shape[1])
    search = ShardedSearch(call, shard_N, row_N, sites, margin)
    return pick_greedily(search, sites, np.asarray(difficulty_N, float), budget, 1.0, k)


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_the_number_of_shards_changes_nothing(shards, k):
    features_ND, difficulty_N = clustered(900, 12)
    expected = select_diverse(features_ND, difficulty_N, 500, 1.0, k, "raw")
    assert_same(sharded_picks(features_ND, difficulty_N, 500, shards, k), expected)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_shards_may_hold_next_to_nothing(samples):
    features_ND, difficulty_N = np.eye(5, dtype=np.float32)[:samples], np.arange(samples)
    expected = select_diverse(features_ND, difficulty_N, samples, difficulty="raw")
    assert_same(sharded_picks(features_ND, difficulty_N, samples, 4), expected)
