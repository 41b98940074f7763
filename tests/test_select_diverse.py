"""Stage 2 picks what its definition says, checked pair by pair and in rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from selfilter_ray.select import select_diverse

ROUNDING = Fraction(1, 10**9)


def cosine(first_D, second_D):
    """With one rounding for each of the three sums, the root and the quotient."""
    dots = [
        math.fsum(a * b for a, b in zip(*pair, strict=True))
        for pair in ((first_D, second_D), (first_D, first_D), (second_D, second_D))
    ]
    norms = math.sqrt(dots[1] * dots[2])
    return dots[0] / norms if norms else 0.0


def reference(features_ND, difficulty_N, budget, gamma, k_nearest, difficulty):
    """The definition, pair by pair: the picks, their values and the neighbours of each."""
    rows = np.asarray(features_ND, np.float32).astype(float).tolist()
    values = [float(value) for value in difficulty_N]
    if difficulty == "shifted" and values:
        values = [value - min(values) for value in values]
    remaining, picks = list(range(len(rows))), []
    for _ in range(budget):
        pick = max(remaining, key=lambda row: (values[row], -row))
        remaining.remove(pick)
        likeness = {row: cosine(rows[pick], rows[row]) for row in remaining}
        nearest = sorted(remaining, key=lambda row: (-likeness[row], row))[:k_nearest]
        picks.append((pick, values[pick], nearest))
        for row in nearest:
            values[row] -= gamma * values[pick] * likeness[row] ** 2
    return picks


def assert_agrees(features_ND, difficulty_N, budget, gamma, k_nearest, difficulty):
    picks = select_diverse(features_ND, difficulty_N, budget, gamma, k_nearest, difficulty)
    expected = reference(features_ND, difficulty_N, budget, gamma, k_nearest, difficulty)
    assert picks.indices.tolist() == [pick for pick, _, _ in expected]
    found = [row[row >= 0].tolist() for row in picks.neighbours_BK]
    assert found == [nearest for _, _, nearest in expected]
    values = [value for _, value, _ in expected]
    np.testing.assert_allclose(picks.difficulty_at_pick, values, rtol=1e-6, atol=1e-12)


def random_case(seed):
    random = np.random.default_rng(seed)
    samples, features = int(random.integers(1, 14)), int(random.integers(1, 5))
    features_ND = random.integers(-3, 4, (samples, features)).astype(np.float32)
    if seed % 4 == 0:
        features_ND = random.normal(size=(samples, features)).astype(np.float32)
    copies = random.integers(0, samples, samples // 3)
    features_ND[: len(copies)] = features_ND[copies]  # exact duplicates
    if seed % 3 == 0:
        features_ND[int(random.integers(samples))] = 0.0
    difficulty_N = random.integers(-8, 9, samples) / 4.0  # ties are frequent
    return (
        features_ND,
        difficulty_N,
        int(random.integers(0, samples + 1)),
        float(random.choice([0.0, 0.25, 1.0, 1.5, 3.0])),
        int(random.integers(0, samples + 1)),
        str(random.choice(["shifted", "raw"])),
    )


@pytest.mark.parametrize("seed", range(200))
def test_random_pools_give_what_the_definition_gives(seed):
    assert_agrees(*random_case(seed))


SMALL = st.integers(-3, 3)


@st.composite
def pools(draw):
    samples, features = draw(st.integers(0, 8)), draw(st.integers(1, 3))
    row = st.lists(SMALL, min_size=features, max_size=features)
    rows = draw(st.lists(row, min_size=samples, max_size=samples))
    difficulty = draw(st.lists(st.integers(-12, 12), min_size=samples, max_size=samples))
    return (
        np.array(rows, dtype=np.float32).reshape(samples, features),
        np.array(difficulty, dtype=np.float64) / 4.0,
        draw(st.integers(0, samples)),
        draw(st.integers(0, 12)) / 4.0,
        draw(st.integers(0, samples + 2)),
        draw(st.sampled_from(["shifted", "raw"])),
    )


@given(pool=pools())
@settings(max_examples=200, deadline=None)
def test_any_small_pool_gives_what_the_definition_gives(pool):
    assert_agrees(*pool)


def signed_square(first_D, second_D):
    """cos |cos|, exactly: it orders as the cosine does."""
    dots = [
        sum(Fraction(a) * Fraction(b) for a, b in zip(*pair, strict=True))
        for pair in ((first_D, second_D), (first_D, first_D), (second_D, second_D))
    ]
    return dots[0] * abs(dots[0]) / (dots[1] * dots[2]) if dots[1] * dots[2] else Fraction(0)


@given(pool=pools())
@settings(max_examples=100, deadline=None)
def test_in_rational_numbers_no_remaining_sample_is_harder_and_none_is_nearer(pool):
    features_ND, difficulty_N, _, gamma, _, difficulty = pool
    picks = select_diverse(*pool)
    rows = features_ND.tolist()
    lowest = min(map(Fraction, difficulty_N), default=0) if difficulty == "shifted" else 0
    values = [Fraction(value) - lowest for value in difficulty_N]
    remaining = set(range(len(rows)))
    for pick, neighbours in zip(picks.indices.tolist(), picks.neighbours_BK, strict=True):
        slack = ROUNDING * max(map(abs, values))
        assert values[pick] >= max(values[row] for row in remaining) - slack
        remaining.remove(pick)
        nearest = neighbours[neighbours >= 0].tolist()
        likeness = {row: signed_square(rows[pick], rows[row]) for row in remaining}
        for row in remaining.difference(nearest):
            assert all(likeness[row] <= likeness[near] + ROUNDING for near in nearest)
        for row in nearest:
            values[row] -= Fraction(gamma) * values[pick] * abs(likeness[row])


@given(pool=pools())
@settings(max_examples=150, deadline=None)
def test_every_record_of_the_picks_is_consistent(pool):
    _, difficulty_N, budget, _, k_nearest, difficulty = pool
    picks = select_diverse(*pool)
    shifted = difficulty == "shifted" and len(difficulty_N)
    base_N = difficulty_N - difficulty_N.min() if shifted else difficulty_N
    assert len(picks.indices) == len(set(picks.indices.tolist())) == budget
    np.testing.assert_allclose(
        picks.penalty, base_N[picks.indices] - picks.difficulty_at_pick, atol=1e-4, rtol=1e-5
    )
    for rank, pick in enumerate(picks.indices):
        earlier = [
            (picks.similarity_BK[before, place], before)
            for before in range(rank)
            for place in np.flatnonzero(picks.neighbours_BK[before] == pick)
        ]
        if earlier:
            closest = max(similarity for similarity, _ in earlier)
            first = min(before for similarity, before in earlier if similarity == closest)
            assert picks.nearest_earlier[rank] == picks.indices[first]
            assert picks.nearest_earlier_similarity[rank] == closest
        else:
            assert picks.nearest_earlier[rank] == -1
            assert np.isnan(picks.nearest_earlier_similarity[rank])
            assert picks.penalty[rank] == 0.0
        pushed = picks.neighbours_BK[rank][picks.neighbours_BK[rank] >= 0]
        similar = picks.similarity_BK[rank][: len(pushed)]
        assert len(pushed) == min(k_nearest, len(base_N) - rank - 1)
        assert set(pushed).isdisjoint(picks.indices[: rank + 1])
        assert np.isnan(picks.similarity_BK[rank][len(pushed) :]).all()
        assert (np.diff(similar) <= 0).all()
        assert (np.abs(similar) <= 1 + 1e-6).all()


@pytest.mark.parametrize("seed", range(10))
def test_order_of_the_rows_does_not_matter_where_nothing_is_tied(seed):
    random = np.random.default_rng(seed)
    features_ND = random.normal(size=(60, 8)).astype(np.float32)
    difficulty_N = random.normal(size=60)
    order_N = random.permutation(60)
    picks = select_diverse(features_ND, difficulty_N, 40)
    shuffled = select_diverse(features_ND[order_N], difficulty_N[order_N], 40)
    assert order_N[shuffled.indices].tolist() == picks.indices.tolist()
    np.testing.assert_array_equal(shuffled.difficulty_at_pick, picks.difficulty_at_pick)
    np.testing.assert_array_equal(order_N[shuffled.neighbours_BK], picks.neighbours_BK)


def test_length_of_a_row_does_not_matter():
    random = np.random.default_rng(3)
    features_ND = random.normal(size=(50, 6)).astype(np.float32)
    scale_N1 = 2.0 ** random.integers(-20, 20, (50, 1)).astype(np.float32)
    difficulty_N = random.normal(size=50)
    picks = select_diverse(features_ND, difficulty_N, 30)
    scaled = select_diverse(features_ND * scale_N1, difficulty_N, 30)
    np.testing.assert_array_equal(scaled.indices, picks.indices)


def test_of_equal_samples_the_first_is_picked_and_the_first_are_its_neighbours():
    picks = select_diverse(np.ones((6, 3)), np.ones(6), 2, k_nearest=2, difficulty="raw")
    assert picks.indices.tolist() == [0, 3]
    assert picks.neighbours_BK.tolist() == [[1, 2], [1, 2]]


def test_an_equal_row_is_pushed_down_by_exactly_the_difficulty_of_its_twin():
    features_ND = np.repeat(np.random.default_rng(4).normal(size=(100, 7)), 2, axis=0)
    difficulty_N = np.repeat(np.linspace(1.0, 2.0, 100), 2)
    picks = select_diverse(features_ND, difficulty_N, 200, k_nearest=1, difficulty="raw")
    assert picks.indices[:100].tolist() == list(range(198, -1, -2))
    assert set(picks.difficulty_at_pick[100:].tolist()) == {0.0}


def test_neighbours_that_float32_cannot_tell_apart_are_ordered_by_their_true_cosine():
    random = np.random.default_rng(5)
    features_ND = np.repeat(random.normal(size=(4, 48)), 20, axis=0)
    features_ND += random.normal(size=features_ND.shape) * 3e-7
    assert_agrees(features_ND.astype(np.float32), random.normal(size=80), 60, 1.0, 7, "shifted")


def test_a_zero_row_is_similar_to_nothing():
    features_ND = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    picks = select_diverse(features_ND, [3.0, 2.0, 2.5], 3, difficulty="raw")
    assert picks.indices.tolist() == [0, 1, 2]
    assert picks.penalty.tolist() == [0.0, 0.0, 3.0]
    assert picks.difficulty_at_pick[2] == -0.5


def test_raw_negative_difficulty_turns_the_penalty_into_a_reward_and_shifted_does_not():
    features_ND, difficulty_N = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), [-1.0, -3.5, -2.0]
    raw = select_diverse(features_ND, difficulty_N, 3, difficulty="raw", k_nearest=1)
    shifted = select_diverse(features_ND, difficulty_N, 3, k_nearest=1)
    assert raw.indices.tolist() == [0, 2, 1]
    assert raw.penalty.tolist() == [0.0, 0.0, -1.0]
    assert (shifted.penalty >= 0).all()


def test_without_penalty_or_neighbours_the_picks_are_the_hardest():
    random = np.random.default_rng(0)
    features_ND, difficulty_N = random.normal(size=(40, 5)), random.normal(size=40)
    hardest = np.argsort(-difficulty_N).tolist()
    assert select_diverse(features_ND, difficulty_N, 40, gamma=0.0).indices.tolist() == hardest
    assert select_diverse(features_ND, difficulty_N, 40, k_nearest=0).indices.tolist() == hardest


def test_no_thread_count_changes_a_pick():
    random = np.random.default_rng(1)
    features_ND = np.repeat(random.normal(size=(150, 64)), 2, axis=0).astype(np.float32)
    features_ND += random.normal(size=features_ND.shape).astype(np.float32) * 1e-7
    difficulty_N = random.normal(size=300)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            results.append(select_diverse(features_ND, difficulty_N, 200))
    torch.set_num_threads(before)
    for name in ("indices", "difficulty_at_pick", "neighbours_BK", "similarity_BK"):
        np.testing.assert_array_equal(*(getattr(picks, name) for picks in results), name)


def test_every_type_of_number_gives_the_same_picks():
    random = np.random.default_rng(2)
    features_ND = random.integers(-4, 5, (40, 6))
    difficulty_N = random.integers(-9, 9, 40) / 4
    expected = select_diverse(features_ND, difficulty_N, 20).indices.tolist()
    for kind in (np.float16, np.float32, np.float64, np.int8):
        picks = select_diverse(np.asfortranarray(features_ND.astype(kind)), difficulty_N, 20)
        assert picks.indices.tolist() == expected


def test_the_inputs_are_left_as_they_are():
    features_ND, difficulty_N = np.eye(4, dtype=np.float32), np.arange(4.0)
    select_diverse(features_ND, difficulty_N, 4)
    assert features_ND.tolist() == np.eye(4).tolist()
    assert difficulty_N.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("budget", [0, 1, 99, 100, 101, 250])
def test_progress_counts_every_pick(budget):
    told = []
    features_ND = np.random.default_rng(0).normal(size=(250, 3))
    select_diverse(features_ND, np.arange(250.0), budget, progress=told.append)
    assert sum(told) == budget


def test_nothing_can_be_picked_from_an_empty_pool():
    picks = select_diverse(np.zeros((0, 3)), np.zeros(0), 0)
    assert picks.indices.shape == (0,)
    assert picks.neighbours_BK.shape == (0, 0)


GOOD = {"features_ND": np.eye(3), "difficulty_N": np.arange(3.0), "budget": 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"features_ND": np.array([[1, 0, 0], [0, np.nan, 0], [0, 0, 1]])},
        {"features_ND": np.array([[1, 0, 0], [0, np.inf, 0], [0, 0, 1]])},
        {"features_ND": np.eye(3) * 1e300},
        {"features_ND": np.ones(3)},
        {"features_ND": np.ones((2, 3))},
        {"features_ND": np.ones((3, 3, 1))},
        {"difficulty_N": np.array([1.0, np.nan, 0.0])},
        {"difficulty_N": np.array([1.0, -np.inf, 0.0])},
        {"difficulty_N": np.ones((3, 1))},
        {"difficulty_N": np.ones(2)},
        {"budget": -1},
        {"budget": 4},
        {"gamma": -0.1},
        {"gamma": np.nan},
        {"gamma": np.inf},
        {"k_nearest": -1},
        {"difficulty": "scaled"},
    ],
    ids=lambda wrong: f"{next(iter(wrong))}",
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_unusable_arguments_are_refused(wrong):
    with pytest.raises(ValueError):
        select_diverse(**GOOD | wrong)
