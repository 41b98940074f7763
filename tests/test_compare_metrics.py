"""The metrics of a comparison against naive references, and at the edges."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from selfilter_ray.compare import nearest
from selfilter_ray.compare.distances import distribution_distances, divergence
from selfilter_ray.compare.metrics import METRICS, Ruler
from selfilter_ray.compare.overlap import Overlaps, jaccard, shared_part
from selfilter_ray.compare.shapes import MOST_SOURCES, Shapes, bin_edges
from selfilter_ray.select.contract import Pool, pool_of

BUDGET = 20


@pytest.fixture
def pool() -> Pool:
    return make_pool(np.random.default_rng(5))


def make_pool(rng: np.random.Generator, rows: int = 90) -> Pool:
    features = rng.normal(size=(rows, 12))
    features[1] = features[0]
    features[2] = 3 * features[0]
    features[3:5] = 0.0
    return pool_of(
        [f"id{row:03d}" for row in range(rows)],
        rng.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1]),
        features,
        {"difficulty": rng.normal(size=rows), "answer_tokens": rng.integers(1, 60, rows)},
    )


def naive_cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = math.sqrt(float(one @ one)) * math.sqrt(float(other @ other))
    return float(one @ other) / norms if norms else 0.0


def test_features_against_all_pairs(pool: Pool) -> None:
    rows = np.array([0, 1, 2, 3, 4, *range(20, 35)])
    features = pool.features_ND.astype(np.float64)
    cover = [max(naive_cosine(x, features[row]) for row in rows) for x in features]
    close = [
        max(naive_cosine(features[row], features[other]) for other in rows if other != row)
        for row in rows
    ]
    found = Ruler(pool, BUDGET).measure(rows)
    assert found["coverage"] == pytest.approx(np.mean(cover), abs=1e-6)
    assert found["coverage_p5"] == pytest.approx(np.quantile(cover, 0.05), abs=1e-6)
    assert found["redundancy"] == pytest.approx(np.mean(close), abs=1e-6)
    assert found["near_duplicates"] == pytest.approx(np.mean(np.array(close) > 0.95))
    # Row 1 repeats row 0. Row 2 only points the same way, and zero rows know nothing.
    assert found["duplicates"] == pytest.approx(1 / BUDGET)


def test_columns_and_sources_against_other_libraries(pool: Pool) -> None:
    rows = np.arange(30, 30 + BUDGET)
    found = Ruler(pool, BUDGET).measure(rows)
    tokens = pool.columns["answer_tokens"]
    shares = [
        [np.mean(part == name) for name in "abc"] for part in (pool.sources[rows], pool.sources)
    ]
    assert found["difficulty"] == pytest.approx(pool.columns["difficulty"][rows].mean())
    assert found["tokens"] == pytest.approx(tokens[rows].mean())
    assert found["tokens_median"] == np.median(tokens[rows])
    assert found["length_shift"] == pytest.approx(stats.wasserstein_distance(tokens[rows], tokens))
    assert found["length_ks"] == pytest.approx(stats.ks_2samp(tokens[rows], tokens).statistic)
    assert found["source_kl"] == pytest.approx(stats.entropy(*shares))


@pytest.mark.parametrize(("queries", "chosen"), [(1, 1), (7, 3), (64, 200)])
def test_block_sizes_do_not_matter(pool: Pool, queries: int, chosen: int) -> None:
    rows = np.arange(0, 90, 2)
    chosen_BD = nearest.unit_rows(pool.features_ND, rows)
    own_Q = np.array([0, 1, 17, 44])
    whole = nearest.nearest_cosine(chosen_BD[own_Q], chosen_BD, own_Q)
    parts = nearest.nearest_cosine(chosen_BD[own_Q], chosen_BD, own_Q, queries, chosen)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_neither_the_order_of_the_picks_nor_of_the_pool_matters(monkeypatch) -> None:
    monkeypatch.setattr(nearest, "MOST_QUERIES", 11)  # so that samples are drawn, too
    pool = make_pool(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(len(pool.ids))
    moved = Pool(
        pool.ids[order],
        pool.sources[order],
        pool.features_ND[order],
        {name: values[order] for name, values in pool.columns.items()},
    )
    rows = np.arange(10, 30)
    place = np.argsort(order)
    one = Ruler(pool, BUDGET).measure(rows)
    other = Ruler(moved, BUDGET).measure(place[rows[::-1]])
    assert other == pytest.approx(one)


def test_a_sample_stands_for_a_large_pool(monkeypatch) -> None:
    pool = make_pool(np.random.default_rng(3), rows=4_000)
    rows = np.arange(0, 4_000, 4)
    whole = Ruler(pool, len(rows))
    monkeypatch.setattr(nearest, "MOST_PAIRS", 0)
    sampled = Ruler(pool, len(rows))
    assert (whole.coverage_sample, whole.redundancy_sample) == (4_000, 1_000)
    assert sampled.coverage_sample == nearest.FEWEST_QUERIES
    exact, rough = whole.measure(rows), sampled.measure(rows)
    assert rough["coverage"] != exact["coverage"]
    assert rough["coverage"] == pytest.approx(exact["coverage"], abs=0.01)


def test_query_count_bounds_the_work() -> None:
    assert nearest.query_count(500, 10) == 500
    assert nearest.query_count(1_000_000, 10_000) == 20_000
    assert nearest.query_count(1_000_000, 150_000) * 150_000 <= nearest.MOST_PAIRS
    assert nearest.query_count(0, 0) == 0


@pytest.mark.parametrize("budget", [0, 1, 90])
def test_smallest_and_largest_budget(pool: Pool, budget: int) -> None:
    found = Ruler(pool, budget).measure(np.arange(budget))
    assert set(found) == {metric.name for metric in METRICS}
    if budget == 0:
        assert set(found.values()) == {None}
    elif budget == 1:
        assert found["redundancy"] is None
        assert found["near_duplicates"] is None
        assert found["duplicates"] == 0.0
        assert found["tokens"] == pool.columns["answer_tokens"][0]
    else:
        assert found["coverage"] == pytest.approx(88 / 90, abs=1e-6)  # two rows are zero
        assert found["length_shift"] == found["length_ks"] == 0.0
        assert found["source_kl"] == 0.0


def test_equal_embeddings() -> None:
    pool = pool_of(list("abcdef"), ["s"] * 6, np.ones((6, 4)))
    found = Ruler(pool, 3).measure(np.array([5, 0, 2]))
    assert found["coverage"] == found["redundancy"] == pytest.approx(1.0, abs=1e-6)
    assert found["near_duplicates"] == 1.0
    assert found["duplicates"] == pytest.approx(2 / 3)
    assert found["source_kl"] == 0.0


def test_text_only_samples_are_compared_by_their_text_half() -> None:
    features = np.array([[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 1], [0, 0, 0, 1]], np.float32)
    found = Ruler(pool_of(list("abcd"), ["s"] * 4, features), 2).measure(np.array([0, 2]))
    assert found["coverage"] == pytest.approx((3 + math.sqrt(0.5)) / 4, abs=1e-6)
    assert found["redundancy"] == pytest.approx(0.0)


def test_zero_rows_are_similar_to_nothing() -> None:
    pool = pool_of(list("abc"), ["s"] * 3, np.zeros((3, 4)))
    found = Ruler(pool, 2).measure(np.array([0, 1]))
    assert found["coverage"] == found["redundancy"] == found["duplicates"] == 0.0


def test_minus_zero_is_the_same_value_as_zero() -> None:
    features = np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32)
    assert nearest.repeated_rows(features, np.array([0, 1])) == 1


def test_what_is_not_known_stays_open() -> None:
    pool = pool_of(list("abcd"), ["s"] * 4, None, {"answer_tokens": np.array([np.nan, 4, 8, 2])})
    found = Ruler(pool, 2).measure(np.array([0, 2]))
    assert found["tokens"] == 8.0
    unknown = {name for name, value in found.items() if value is None}
    by_features = {"coverage", "coverage_p5", "redundancy", "near_duplicates", "duplicates"}
    assert unknown == {*by_features, "difficulty"}
    nothing = Ruler(pool, 1).measure(np.array([0]))
    assert nothing["length_shift"] is nothing["tokens"] is None


def test_distances_of_simple_sets() -> None:
    assert distribution_distances(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == (2.0, 1.0)
    assert distribution_distances(np.array([1.0]), np.array([1.0, 1.0])) == (0.0, 0.0)
    assert divergence(np.array([2, 0]), np.array([5, 5])) == pytest.approx(math.log(2))
    assert divergence(np.array([3, 3]), np.array([50, 50])) == 0.0


def test_overlaps() -> None:
    first = {0: np.array([0, 1, 2, 3]), 1: np.array([2, 3, 4, 5])}
    second = {0: np.array([3, 9, 8, 7])}
    overlaps = Overlaps([first, second], 10)
    assert overlaps.at_seed(0, shared_part) == [[1.0, 0.25], [0.25, 1.0]]
    assert overlaps.at_seed(1, shared_part) == [[1.0, None], [None, None]]
    # Between different seeds: {2, 3} of the first method; {3} of both, under seeds 1 and 0.
    assert overlaps.over_seeds(shared_part) == [[0.5, 0.25], [0.25, None]]
    assert overlaps.over_seeds(jaccard)[0] == [pytest.approx(2 / 6), pytest.approx(1 / 7)]


def test_overlap_of_one_seed_and_of_nothing() -> None:
    one = Overlaps([{7: np.array([0, 1])}, {7: np.array([1, 2])}], 3)
    assert one.over_seeds(shared_part) == [[None, 0.5], [0.5, None]]
    none = Overlaps([{0: np.array([], np.int64)}, {0: np.array([], np.int64)}], 3)
    assert none.at_seed(0, shared_part) == [[None, None], [None, None]]


def test_shapes_count_every_sample_once(pool: Pool) -> None:
    shapes = Shapes(pool)
    shares = shapes.of(np.arange(BUDGET))
    assert set(shares) == {"sources", "difficulty", "answer_tokens"}
    assert all(sum(part) == pytest.approx(1.0) for part in shares.values())
    assert shapes.sources == ["a", "b", "c"]
    assert shares["sources"][0] == pytest.approx(np.mean(pool.sources[:BUDGET] == "a"))


def test_small_sources_are_taken_together() -> None:
    sources = ["big"] * 40 + [f"s{number:02d}" for number in range(30)]
    shapes = Shapes(pool_of([f"{row:02d}" for row in range(70)], sources))
    assert len(shapes.sources) == MOST_SOURCES + 1
    assert (shapes.sources[0], shapes.sources[-1]) == ("big", "other (11 sources)")
    assert shapes.of(np.array([0, 69]))["sources"][-1] == 0.5


@pytest.mark.parametrize(
    "values",
    [[3.0], [0.5, 0.5], [0.0] * 9, list(range(1, 400)), [1e12, 2e12], [-1.5, 2.5], [1] * 99 + [50]],
)
def test_bins_rise_and_hold_most_values(values: list[float]) -> None:
    edges = bin_edges(np.array(values, dtype=np.float64))
    assert (np.diff(edges) > 0).all()
    inside = sum(edges[0] <= value <= edges[-1] for value in values)
    assert inside >= 0.98 * len(values) or len(values) < 3


def test_bins_of_whole_numbers_lie_between_them() -> None:
    edges = bin_edges(np.arange(10, 90, dtype=np.float64))
    assert {edge % 1 for edge in edges} == {0.5}
    assert len({after - before for before, after in pairwise(edges)}) == 1
