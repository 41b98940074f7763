"""What works on features: grid, k-means, neighbours, and the methods on them."""

from __future__ import annotations

from operator import mul

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_pools import make_pool

from selfilter_ray.select import coincide, knn, semdedup
from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.grid import COARSE, FINE, coarse_rows, on_grid, radius
from selfilter_ray.select.kmeans import default_clusters, spherical_kmeans
from selfilter_ray.select.knn import nearest_neighbours
from selfilter_ray.select.prototypicality import clusters_of
from selfilter_ray.select.registry import select
from selfilter_ray.select.settings import parse_method


def run(pool: Pool, budget: int, seed: int = 0, **entry: object) -> Selection:
    return select(pool, budget, seed, parse_method(entry))


def normal(rows: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def unit(features: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return features / np.where(norm > 0, norm, 1.0)


def blobs(centres: int, each: int, spread: float = 0.05, dimension: int = 16) -> np.ndarray:
    """Rows of one blob after those of another."""
    middle = np.linalg.qr(normal(dimension, dimension))[0][:centres]
    return np.repeat(middle, each, axis=0) + spread * normal(centres * each, dimension, 1)


@pytest.mark.parametrize("dimension", [1, 7, 512, 1536])
def test_products_on_the_grid_are_exact_in_any_order(dimension):
    features = normal(40, dimension) * 10.0 ** np.arange(-20, 20)[:, None]
    order = np.random.default_rng(0).permutation(dimension)
    for resolution, kind in ((COARSE, np.float32), (FINE, np.float64)):
        rows = on_grid(features, resolution)
        whole = [[int(value) for value in row] for row in rows]
        exact = [[sum(map(mul, row, other)) for other in whole[:6]] for row in whole]
        narrow = rows.astype(kind)
        assert np.array_equal(narrow @ narrow[:6].T, exact)
        assert np.array_equal(narrow[:, order] @ narrow[:6, order].T, exact)
        cosine = np.array(exact) / radius(dimension, resolution) ** 2
        # Half a step a component on either side.
        error = 2 * np.sqrt(dimension) / radius(dimension, resolution)
        assert np.abs(cosine - unit(features) @ unit(features)[:6].T).max() < error
    assert np.array_equal(coarse_rows(features), on_grid(features, COARSE))


def test_kmeans_finds_blobs():
    features = blobs(5, 40)
    clusters = spherical_kmeans(features, 12, np.random.default_rng(0).permutation(200))
    for members in clusters.members():
        assert len(set(members // 40)) == 1
    assert sum(len(members) for members in clusters.members()) == 200


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_kmeans_invariants(rows, count, dimension, seed):
    rng = np.random.default_rng(seed)
    features = np.round(rng.normal(size=(rows, dimension))).astype(np.float32)
    clusters = spherical_kmeans(features, count, rng.permutation(rows), 50)
    used = np.bincount(clusters.labels_N)
    assert len(used) == len(clusters.centroids_KD) <= count
    assert (used > 0).all()
    np.testing.assert_allclose(
        clusters.cosine_N,
        (unit(features) * clusters.centroids_KD[clusters.labels_N]).sum(axis=1),
        atol=1e-6,
    )
    nearest = (unit(features) @ clusters.centroids_KD.T).max(axis=1)
    assert (clusters.cosine_N >= nearest - 0.02).all()
    for number, members in enumerate(clusters.members()):
        mean = unit(on_grid(features[members], COARSE).sum(axis=0)[None])[0]
        if mean.any():
            np.testing.assert_allclose(clusters.centroids_KD[number], mean, atol=1e-3)


def test_kmeans_ignores_length_and_zero_rows():
    features = blobs(3, 20)
    order = np.random.default_rng(0).permutation(60)
    scaled = features * np.random.default_rng(1).uniform(0.1, 9, (60, 1)).astype(np.float32)
    first, second = (spherical_kmeans(each, 3, order).labels_N for each in (features, scaled))
    assert np.array_equal(first, second)
    none = spherical_kmeans(np.zeros((5, 3), np.float32), 3, np.arange(5))
    assert none.labels_N.tolist() == none.cosine_N.tolist() == [0] * 5


def test_chunks_change_nothing(monkeypatch):
    features, order = normal(300, 24), np.random.default_rng(0).permutation(300)
    whole = spherical_kmeans(features, 9, order)
    neighbours = nearest_neighbours(features, 5)
    nearest = semdedup.nearest_earlier(features)
    monkeypatch.setattr("selfilter_ray.select.grid.chunks.__defaults__", (7,))
    monkeypatch.setattr("selfilter_ray.select.kmeans._chunk_rows", lambda columns: 7)
    monkeypatch.setattr(knn, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(semdedup, "BLOCK_VALUES", 1000)
    parts = spherical_kmeans(features, 9, order)
    assert np.array_equal(whole.labels_N, parts.labels_N)
    assert np.array_equal(whole.centroids_KD, parts.centroids_KD)
    assert np.array_equal(nearest, semdedup.nearest_earlier(features))
    for one, other in zip(neighbours, nearest_neighbours(features, 5), strict=True):
        assert np.array_equal(one, other)


def naive_neighbours(features: np.ndarray, k: int) -> np.ndarray:
    exact = on_grid(features, FINE)
    cosine = exact @ exact.T
    rows = range(len(features))
    return np.array(
        [sorted((j for j in rows if j != i), key=lambda j: (-cosine[i, j], j))[:k] for i in rows]
    )


@pytest.mark.parametrize("features", [
    normal(120), np.round(normal(120, 3)), np.ones((90, 4), np.float32),
    np.zeros((60, 4), np.float32), normal(3), normal(500, 64),
], ids=["plain", "ties", "equal", "zero", "few", "wide"])  # fmt: skip
def test_neighbours_against_the_plain_way(features):
    k = min(4, len(features) - 1)
    neighbours, cosine = nearest_neighbours(features, 4)
    assert np.array_equal(neighbours, naive_neighbours(features, k))
    expected = (unit(features)[:, None] * unit(features)[neighbours]).sum(axis=2)
    np.testing.assert_allclose(cosine, expected, atol=1e-6)


def test_no_neighbours():
    assert nearest_neighbours(normal(1), 4)[0].shape == (1, 0)
    assert nearest_neighbours(normal(9), 0)[0].shape == (9, 0)


def test_prototypicality_keeps_far_or_near():
    features = blobs(2, 30, spread=0.1)
    pool = make_pool(60, features_ND=features)
    far = run(pool, 20, method="prototypicality", clusters=2)
    near = run(pool, 60, method="prototypicality", clusters=2, keep="near")
    assert far.indices.tolist() == near.indices[::-1][:20].tolist()
    clusters = clusters_of(pool, 0, parse_method({"method": "prototypicality", "clusters": 2}), 2)
    cosine = unit(features) @ clusters.centroids_KD.T
    np.testing.assert_allclose(far.value, 1.0 - cosine.max(axis=1)[far.indices], atol=1e-6)
    assert default_clusters(10_000) == 100


def test_prototypicality_has_no_value_for_a_zero_row():
    features = normal(20, 4)
    features[4] = 0.0
    for keep in ("far", "near"):
        selection = run(
            make_pool(20, features_ND=features), 20, method="prototypicality", keep=keep
        )
        assert selection.indices[-1] == 4
        assert selection.details["without_value"] == 1


@pytest.mark.parametrize("keep", ["far", "near"])
def test_semdedup_against_dropping_pairs_by_epsilon(keep):
    features = np.concatenate([blobs(6, 8, spread=0.15), blobs(6, 3, spread=0.15)])
    pool = make_pool(len(features), features_ND=features)
    settings = parse_method({"method": "semdedup", "keep": keep, "clusters": 4})
    clusters = clusters_of(pool, 3, settings, 1)
    cosine = unit(features) @ unit(features).T
    for budget in (10, 30, 50):
        selection = select(pool, budget, 3, settings)
        limit = 1.0 - selection.details["epsilon"]
        kept = []
        for members in clusters.members():
            sign = 1.0 if keep == "far" else -1.0
            ordered = sorted(members, key=lambda i: (sign * clusters.cosine_N[i], i))
            kept += [
                i for at, i in enumerate(ordered)
                if all(cosine[i, j] <= limit + 1e-7 for j in ordered[:at])
            ]  # fmt: skip
        assert sorted(kept) == sorted(selection.indices)


def test_semdedup_drops_copies_first():
    features = np.concatenate([normal(30), normal(30)[:12]])
    selection = run(make_pool(42, features_ND=features), 30, method="semdedup", clusters=5)
    assert sorted(row % 30 for row in selection.indices) == list(range(30))
    assert selection.details["epsilon"] > 1e-6


def naive_d2(
    features: np.ndarray, score: np.ndarray, budget: int, k: int, forward: float, reverse: float
) -> list[int]:
    score = (score - score.min()) / (score.max() - score.min())
    x, near = unit(features), naive_neighbours(features, k)

    def message(i: int, j: int, gamma: float) -> float:
        return float(np.exp(-gamma * ((x[i] - x[j]) ** 2).sum()))

    rows = range(len(score))
    u = [score[i] + sum(message(i, j, forward) * score[j] for j in near[i]) for i in rows]
    picked: list[int] = []
    for _ in range(budget):
        best = max((i for i in rows if i not in picked), key=lambda i: (u[i], -i))
        picked.append(best)
        for j in near[best]:
            u[j] -= message(best, j, reverse) * u[best]
    return picked


@pytest.mark.parametrize(("forward", "reverse"), [(1.0, 1.0), (0.2, 5.0), (0.0, 0.0)])
def test_d2_against_a_double_loop(forward, reverse):
    features, score = normal(70), np.random.default_rng(4).uniform(1, 3, 70)
    pool = make_pool(70, features_ND=features, pre_el2n=score)
    selection = run(
        pool, 70, method="d2", k_nearest=4, gamma_forward=forward, gamma_reverse=reverse
    )
    assert selection.indices.tolist() == naive_d2(features, score, 70, 4, forward, reverse)


def test_d2_leaves_samples_without_importance_out_of_the_graph():
    features, score = normal(50), np.random.default_rng(4).uniform(1, 3, 50)
    score[::5] = np.nan
    known = np.flatnonzero(~np.isnan(score))
    pool = make_pool(50, features_ND=features, clip_score=score)
    selection = run(pool, 45, method="d2", column="clip_score", k_nearest=3)
    expected = known[naive_d2(features[known], score[known], 40, 3, 1.0, 1.0)]
    assert selection.indices[:40].tolist() == expected.tolist()
    assert selection.details == {"without_value": 10, "picked_without_value": 5}


def test_d2_zero_rows_share_nothing():
    features, score = normal(20), np.linspace(1, 2, 20)
    features[:2] = 0.0
    selection = run(make_pool(20, features_ND=features, pre_el2n=score), 20, method="d2")
    value = dict(zip(selection.indices.tolist(), selection.value, strict=True))
    assert (value[0], value[1]) == (0.0, pytest.approx(1 / 19))


def naive_mmd(kernel: np.ndarray, count: int) -> list[int]:
    picked: list[int] = []

    def discrepancy(rows: list[int]) -> float:
        return kernel[np.ix_(rows, rows)].mean() - 2 * kernel[:, rows].mean()

    for _ in range(count):
        left = [row for row in range(len(kernel)) if row not in picked]
        picked.append(min(left, key=lambda row: (round(discrepancy([*picked, row]), 12), row)))
    return picked


def test_greedy_mmd_against_the_plain_way():
    kernel = coincide.gaussian_kernel(blobs(3, 8, spread=0.2), 0.7)
    assert coincide.greedy_mmd(kernel, 24).tolist() == naive_mmd(kernel, 24)


def test_kernel_and_transferability_by_hand():
    rows = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])
    distance = [[0, 2, 4, 1], [2, 0, 2, 1], [4, 2, 0, 1], [1, 1, 1, 0]]
    kernel = coincide.gaussian_kernel(rows, 0.5)
    np.testing.assert_allclose(kernel, np.exp(-np.array(distance) / 0.5), atol=1e-7)
    np.testing.assert_allclose(coincide.transferability(rows[:3]), [-0.5, 0.0, -0.5], atol=1e-7)
    assert coincide.transferability(rows[:1]).tolist() == [0.0]


def test_coincide_shares_the_budget_by_transferability_and_density():
    features = np.concatenate([blobs(4, 30, spread=0.02), blobs(4, 30, spread=0.3)])
    pool = make_pool(240, features_ND=features)
    entry = {"method": "coincide", "clusters": 6, "temperature": 0.5}
    clusters = clusters_of(pool, 0, parse_method(entry), 1)
    selection = run(pool, 25, **entry)
    centroids = clusters.centroids_KD
    cosine = centroids @ centroids.T
    exponent = np.array([
        2 * np.delete(cosine[k], k).mean() / coincide.gaussian_kernel(features[rows], 1.0).mean()
        for k, rows in enumerate(clusters.members())
    ])  # fmt: skip
    weight = np.exp(exponent)
    picked = np.bincount(clusters.labels_N[selection.indices], minlength=len(centroids))
    assert np.abs(picked - 25 * weight / weight.sum()).max() <= 1
    np.testing.assert_allclose(
        selection.value, exponent[clusters.labels_N[selection.indices]], atol=1e-6
    )
    assert (np.diff(selection.value) <= 0).all()
    for members in clusters.members():
        rows = [row for row in selection.indices if row in set(members)]
        expected = naive_mmd(coincide.gaussian_kernel(features[members], 1.0), len(rows))
        assert rows == members[expected].tolist()


def test_coincide_deals_a_large_cluster_into_parts(monkeypatch):
    monkeypatch.setattr(coincide, "LARGEST", 10)
    pool = make_pool(95, features_ND=normal(95))
    selection = run(pool, 50, method="coincide", clusters=2)
    assert len(set(selection.indices)) == 50
    again = run(pool, 50, method="coincide", clusters=2)
    assert np.array_equal(selection.indices, again.indices)


def test_selfilter_is_select_diverse():
    from selfilter_ray.select import select_diverse

    pool = make_pool(50)
    selection = run(pool, 20, method="selfilter", gamma=0.5, k_nearest=3)
    picks = select_diverse(pool.features_ND, pool.columns["difficulty"], 20, 0.5, 3)
    assert np.array_equal(selection.indices, picks.indices)
    assert np.array_equal(selection.value, picks.difficulty_at_pick)
    assert np.array_equal(selection.picks.neighbours_BK, picks.neighbours_BK)
