"""Random draws, rankings by one number, and quotas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_pools import make_pool

from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.quotas import draw_stratified, largest_remainder
from selfilter_ray.select.random_order import random_numbers, random_order, random_rank
from selfilter_ray.select.registry import select
from selfilter_ray.select.settings import parse_method


def run(pool: Pool, budget: int, seed: int = 0, **entry: object) -> Selection:
    return select(pool, budget, seed, parse_method(entry))


def test_random_numbers_belong_to_the_id():
    ids = np.array(["a", "b", "\udc80", "c"], dtype=object)
    numbers = random_numbers(ids, 1, "x")
    assert np.array_equal(random_numbers(ids[[2, 0]], 1, "x"), numbers[[2, 0]])
    assert not (random_numbers(ids, 2, "x") == numbers).any()
    assert not (random_numbers(ids, 1, "y") == numbers).any()
    assert numbers.dtype == np.uint64
    # A fixed value: another would change every random selection ever made.
    assert int(numbers[0]) == 0xC95F34DCF7AA9A77


def test_order_and_rank_are_inverse():
    ids = np.array([f"i{number}" for number in range(50)], dtype=object)
    order, rank = random_order(ids, 3, "x"), random_rank(ids, 3, "x")
    assert sorted(order.tolist()) == list(range(50))
    assert np.array_equal(rank[order], np.arange(50))


def test_a_uniform_draw_takes_every_sample_and_every_pair_equally_often():
    pool, draws, budget = make_pool(12), 3000, 4
    taken = np.zeros((draws, 12))
    for seed in range(draws):
        taken[seed, run(pool, budget, seed, method="random").indices] = 1
    expected = budget / 12
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert np.abs(taken.mean(axis=0) - expected).max() < 4 * spread
    pairs = (taken.T @ taken / draws)[np.triu_indices(12, 1)]
    expected = budget * (budget - 1) / (12 * 11)
    assert np.abs(pairs - expected).max() < 4.5 * np.sqrt(expected / draws)


def test_the_order_of_a_draw_is_random_too():
    pool = make_pool(6)
    first = [int(run(pool, 3, seed, method="random").indices[0]) for seed in range(1200)]
    counts = np.bincount(first, minlength=6)
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # chi-squared, 5 degrees, 0.1 %


def test_smaller_draws_are_the_beginning_of_larger_ones():
    pool = make_pool(60)
    for entry in ({"method": "random"}, {"method": "el2n"}, {"method": "el2n", "keep": "middle"}):
        large = run(pool, 40, **entry).indices
        assert np.array_equal(run(pool, 13, **entry).indices, large[:13])


def test_a_stratified_draw_keeps_the_shares_of_the_sources():
    sources = ["a"] * 50 + ["b"] * 30 + ["c"] * 19 + ["d"]
    selection = run(make_pool(100, sources=sources), 10, method="random", kind="stratified")
    assert selection.details == {"picked_of": {"a": 5, "b": 3, "c": 2, "d": 0}}
    picked = np.array(sources)[selection.indices]
    assert {name: int((picked == name).sum()) for name in "abc"} == {"a": 5, "b": 3, "c": 2}
    inside = np.zeros(50)
    for seed in range(400):
        drawn = run(make_pool(100, sources=sources), 10, seed, method="random", kind="stratified")
        inside[drawn.indices[drawn.indices < 50]] += 1
    assert np.abs(inside / 400 - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / 400)


def test_a_length_matched_draw_has_the_lengths_of_the_pool():
    tokens = np.random.default_rng(0).lognormal(4, 1, 1000).round()
    pool = make_pool(1000, answer_tokens=tokens)
    edges = np.sort(tokens)[::100]
    for seed in range(20):
        drawn = run(pool, 50, seed, method="random", kind="length_matched")
        assert list(drawn.details["picked_of"].values()) == [5] * 10
        # Five of each tenth, except for samples of equal length on an edge.
        counts = np.histogram(tokens[drawn.indices], [*edges, np.inf])[0]
        assert np.abs(counts - 5).max() <= 2


def test_equal_lengths_are_dealt_to_bins_at_random():
    pool = make_pool(100, answer_tokens=np.ones(100))
    taken = np.zeros(100)
    for seed in range(300):
        taken[run(pool, 10, seed, method="random", kind="length_matched").indices] += 1
    assert np.abs(taken / 300 - 0.1).max() < 4.5 * np.sqrt(0.09 / 300)


def test_top_bottom_and_middle_of_a_statistic():
    value = np.array([5.0, 1.0, 3.0, 3.0, 2.0, 4.0, 9.0])
    pool = make_pool(7, pre_el2n=value)
    assert run(pool, 3, method="el2n").indices.tolist() == [6, 0, 5]
    assert run(pool, 3, method="el2n", keep="bottom").indices.tolist() == [1, 4, 2]
    middle = run(pool, 3, method="el2n", keep="middle")
    assert middle.indices.tolist() == [3, 2, 5]
    assert middle.value.tolist() == [3.0, 3.0, 4.0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=15), st.data())
def test_the_middle_is_a_window_around_the_median(values, data):
    budget = data.draw(st.integers(1, len(values)))
    pool = make_pool(len(values), pre_loss=np.array(values, dtype=float))
    picked = run(pool, budget, method="loss", keep="middle").indices.tolist()
    order = sorted(range(len(values)), key=lambda row: (values[row], row))
    below, above = (order.index(edge) for edge in (
        min(picked, key=order.index), max(picked, key=order.index),
    ))  # fmt: skip
    assert above - below == budget - 1
    assert abs((above + below) - (len(values) - 1)) <= 1


def test_ratios_and_differences():
    columns = {
        "pre_loss": np.array([1.0, 2.0, 3.0, 0.0]),
        "pre_loss_no_question": np.array([4.0, 2.0, 2.0, 0.0]),
        "pre_loss_no_image": np.array([3.0, 1.0, 3.5, 0.1]),
    }
    pool = make_pool(4, **columns)
    ifd = run(pool, 4, method="ifd")
    assert ifd.indices.tolist() == [2, 1, 0, 3]
    np.testing.assert_array_equal(ifd.value, [1.5, 1.0, 0.25, np.nan])
    assert ifd.details == {"without_value": 1, "picked_without_value": 1}
    gain = run(pool, 4, method="visual_gain")
    assert gain.indices.tolist() == [0, 2, 3, 1]
    np.testing.assert_allclose(gain.value, [2.0, 0.5, 0.1, -1.0])


@pytest.mark.parametrize("keep", ["top", "middle", "bottom"])
def test_samples_without_an_answer_rank_last_in_random_order(keep):
    unanswered = np.arange(30) % 3 == 0
    pool = make_pool(30, pre_loss=np.where(unanswered, np.nan, np.arange(30)))
    last = []
    for seed in range(2):
        selection = run(pool, 25, seed, method="loss", keep=keep)
        assert not unanswered[selection.indices[:20]].any()
        assert unanswered[selection.indices[20:]].all()
        assert selection.details == {"without_value": 10, "picked_without_value": 5}
        assert np.isnan(selection.value[20:]).all()
        last.append(selection.indices[20:].tolist())
    assert last[0] != last[1]
    assert run(pool, 20, method="loss", keep=keep).details["picked_without_value"] == 0


@pytest.mark.parametrize("method", ["clip_score", "image_reward", "judge"])
def test_samples_without_a_score_rank_last(method):
    column = "judge_quality" if method == "judge" else method
    pool = make_pool(10, **{column: np.array([np.nan, *range(9)])})
    selection = run(pool, 10, method=method)
    assert selection.indices.tolist() == [*range(9, 0, -1), 0]
    assert selection.details["picked_without_value"] == 1


def test_the_judge_is_ranked_by_quality_ties_by_id():
    pool = make_pool(5, judge_quality=np.array([3.0, 9.0, 9.0, 1.0, 3.0]))
    assert run(pool, 4, method="judge").indices.tolist() == [1, 2, 0, 4]


def test_alpagasus_breaks_ties_at_random_and_counts_who_reaches_the_threshold():
    pool = make_pool(40, judge_accuracy=np.where(np.arange(40) < 20, 5.0, 4.0))
    entry = {"method": "alpagasus", "dimension": "accuracy"}
    first, second = (run(pool, 10, seed, **entry) for seed in (0, 1))
    assert first.indices.max() < 20 > second.indices.max()
    assert set(first.indices) != set(second.indices)
    assert first.details["reaching_threshold"] == 20
    assert set(run(pool, 30, **entry).indices) > set(range(20))


def test_alpagasus_puts_what_is_not_rated_last():
    rating = np.array([np.nan, 1.0, 5.0, np.nan, 3.0])
    pool = make_pool(5, judge_helpfulness=rating)
    selection = run(pool, 4, method="alpagasus")
    assert selection.indices[:3].tolist() == [2, 4, 1]
    assert selection.details == {
        "threshold": 4.5,
        "reaching_threshold": 1,
        "without_value": 2,
        "picked_without_value": 1,
    }


def test_coido_ranks_overall_or_in_each_source():
    score = np.arange(10.0)
    pool = make_pool(10, coido_score=score, sources=["a"] * 6 + ["b"] * 4)
    overall = run(pool, 5, method="coido", quota="none")
    assert overall.indices.tolist() == [9, 8, 7, 6, 5]
    assert overall.value.tolist() == [9.0, 8.0, 7.0, 6.0, 5.0]
    assert run(pool, 5, method="coido").indices.tolist() == [9, 8, 5, 4, 3]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1e6)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_quotas_sum_up_and_keep_to_their_caps(groups, part):
    caps = np.array([cap for cap, _ in groups])
    weights = np.array([weight for _, weight in groups])
    total = round(part * caps.sum())
    quotas = largest_remainder(weights, total, caps)
    assert quotas.sum() == total
    assert ((quotas >= 0) & (quotas <= caps)).all()
    if weights.any() and (total * weights / weights.sum() < caps - 1).all():
        assert (np.abs(quotas - total * weights / weights.sum()) < 1 + 1e-6).all()


def test_quotas_by_hand():
    none = np.full(3, 99)
    assert largest_remainder(np.array([5.0, 3.0, 2.0]), 7, none).tolist() == [4, 2, 1]
    assert largest_remainder(np.array([1.0, 1.0, 1.0]), 4, none).tolist() == [2, 1, 1]
    assert largest_remainder(np.array([0.0, 0.0, 1.0]), 4, np.array([9, 9, 1])).tolist() == [
        2,
        1,
        1,
    ]
    assert largest_remainder(np.array([8.0, 1.0, 1.0]), 10, np.array([2, 9, 9])).tolist() == [
        2,
        4,
        4,
    ]
    with pytest.raises(ValueError, match="cannot be shared"):
        largest_remainder(np.ones(2), 5, np.array([2, 2]))


def test_a_stratified_draw_takes_the_lowest_ranks_of_each_stratum():
    strata, rank = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([6, 0, 5, 1, 4, 2, 3])
    drawn = draw_stratified(np.array([0, 1, 2, 3, 4, 5]), strata, rank, 3)
    assert drawn.tolist() == [1, 3, 5]
