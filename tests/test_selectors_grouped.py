"""MLLM-Selector: necessities, the grouped draw and the seed set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_pools import make_pool

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.grouped_draw import grouped_draw
from selfilter_ray.select.mllm_selector import seed_set
from selfilter_ray.select.necessity import necessity
from selfilter_ray.select.registry import select
from selfilter_ray.select.settings import parse_method

STARTS = np.random.default_rng(9).uniform(size=(2, 10))


def run(pool: Pool, budget: int, seed: int = 0, **entry: object) -> Selection:
    return select(pool, budget, seed, parse_method({"method": "mllm_selector", **entry}))


def no_seed_set(samples: int, **columns: object) -> Pool:
    return make_pool(samples, **{"seed_member": np.zeros(samples), **columns})


def test_every_necessity_by_hand():
    pool = make_pool(
        4,
        sources=["a", "a", "b", "b"],
        pre_loss=np.array([2.0, 1.0, 0.0, 4.0]),
        seed_loss=np.array([1.0, 3.0, 1.0, 1.0]),
        seed_loss_sum=np.array([5.0, 6.0, 7.0, 8.0]),
        seed_loss_no_question=np.array([2.0, 2.0, 4.0, 0.5]),
    )
    for kind, expected in {
        "mean": [1.0, 3.0, 1.0, 1.0],
        "sum": [5.0, 6.0, 7.0, 8.0],
        "gain": [1.0, -2.0, -1.0, 3.0],
        "ratio": [0.5, 3.0, np.nan, 0.25],
        "conditional": [0.5, 1.5, 0.25, 2.0],
        "task_z": [-1.0, 1.0, 0.0, 0.0],
    }.items():
        np.testing.assert_allclose(necessity(pool, kind), expected, err_msg=kind)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(1, 12), st.floats(0, 40), st.integers(0, 9))
def test_a_grouped_draw_has_the_size_asked_for_and_no_sample_twice(n, part, groups, alpha, seed):
    rng = np.random.default_rng(seed)
    ranked, source, rank = rng.permutation(n), rng.integers(0, 3, n), rng.permutation(n)
    count = round(part * n)
    drawn = grouped_draw(ranked, source, rank, count, groups, alpha, rng.uniform(size=(2, 12)))
    assert len(drawn) == count == len(set(drawn.tolist()))


def test_quotas_of_the_groups():
    n, source = 1000, np.zeros(1000, dtype=int)
    drawn = grouped_draw(
        np.arange(n), source, np.random.default_rng(0).permutation(n), 55, 10, 1.0, STARTS
    )
    assert np.bincount(drawn // 100).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_what_a_group_cannot_hold_goes_to_the_most_necessary_of_the_next():
    ranked, source, rank = np.arange(20), np.zeros(20, dtype=int), np.arange(20)
    # Weights 0.5 and 1 of 18: quotas 6 and 12; the upper group holds 10.
    drawn = grouped_draw(ranked, source, rank, 18, 2, 1.0, STARTS * 0)
    assert set(drawn) == {*range(10, 20), 8, 9, 0, 1, 2, 4, 5, 6}


def test_inside_a_group_the_sources_keep_their_shares():
    source = np.arange(400) % 4 // 3  # three of four are of source 0
    rank = np.random.default_rng(1).permutation(400)
    drawn = grouped_draw(np.arange(400), source, rank, 80, 2, 0.0, STARTS)
    for low in (0, 200):
        inside = drawn[(drawn >= low) & (drawn < low + 200)]
        assert np.bincount(source[inside]).tolist() == [30, 10]


@pytest.mark.parametrize(("budget", "groups"), [(1, 100), (7, 20), (10, 10), (31, 10), (88, 10)])
def test_a_large_alpha_takes_the_most_necessary(budget, groups):
    pool = no_seed_set(100)
    need = pool.columns["seed_loss"]
    best = np.lexsort((np.arange(100), -need))[:budget]
    selection = run(pool, budget, alpha=1e6, groups=groups)
    assert selection.indices.tolist() == best.tolist()
    assert np.array_equal(selection.value, need[best])


def test_ties_of_necessity_go_to_the_smaller_id():
    pool = no_seed_set(20, seed_loss=np.repeat([2.0, 1.0], 10))
    assert run(pool, 13, alpha=1e6).indices.tolist() == list(range(13))


def test_with_alpha_0_every_sample_is_as_likely():
    # 17 of 40 in ten groups: no quota is whole; and one sample of a source of its own.
    rng, draws = np.random.default_rng(0), 4000
    taken = np.zeros((draws, 40))
    for draw in range(draws):
        drawn = grouped_draw(
            np.arange(40),
            np.arange(40) // 39,
            rng.permutation(40),
            17,
            10,
            0.0,
            rng.uniform(size=(2, 10)),
        )
        taken[draw, drawn] = 1
    share = 17 / 40
    assert np.abs(taken.mean(axis=0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / draws)


def test_with_alpha_0_a_selection_is_as_necessary_as_the_pool():
    pool = no_seed_set(200, sources=["s"] * 200)
    need = pool.columns["seed_loss"]
    means = [run(pool, 53, seed, alpha=0.0).value.mean() for seed in range(60)]
    assert abs(np.mean(means) - need.mean()) < 0.01


def test_a_constant_added_to_the_necessity_changes_nothing():
    pool = make_pool(90)
    shifted = make_pool(90, seed_loss=pool.columns["seed_loss"] + 8.0)
    for entry in ({}, {"mode": "kl"}, {"necessity": "gain"}, {"necessity": "task_z"}):
        first, second = (run(each, 30, 4, **entry).indices for each in (pool, shifted))
        assert np.array_equal(first, second)


def test_the_seed_set_is_always_in_and_first():
    for size in (0, 1, 17, 30):
        member = np.zeros(90)
        member[np.random.default_rng(size).choice(90, size, replace=False)] = 1.0
        selection = run(make_pool(90, seed_member=member), 30)
        assert set(selection.indices[:size]) == set(np.flatnonzero(member))
        assert len(set(selection.indices)) == 30
        assert selection.details["seed_set"] == size


def test_a_seed_set_larger_than_the_budget_is_refused():
    with pytest.raises(ConfigError, match="the seed set has 12 samples"):
        run(make_pool(40, seed_member=(np.arange(40) < 12).astype(float)), 11)


def test_seed_members_are_0_or_1():
    with pytest.raises(DataError, match="must be 1 for the seed set"):
        run(make_pool(40, seed_member=np.full(40, 0.5)), 11)


def test_the_seed_set_is_a_uniform_draw():
    ids = np.array([f"i{number:03d}" for number in range(200)], dtype=object)
    assert len(seed_set(ids, 100, 0.05, 0)) == 10
    assert len(seed_set(ids, 6, 0.05, 0)) == 3
    assert len(seed_set(ids, 100, 0.0, 0)) == 1
    assert len(seed_set(ids, 1, 0.05, 0)) == 0
    drawn = seed_set(ids, 100, 0.05, 7)
    assert (np.diff(drawn) > 0).all()
    assert not np.array_equal(drawn, seed_set(ids, 100, 0.05, 8))
    taken = np.bincount(np.concatenate([seed_set(ids, 100, 0.1, s) for s in range(500)]))
    assert np.abs(taken / 500 - 0.1).max() < 4.5 * np.sqrt(0.09 / 500)


def test_the_default_alpha_follows_from_the_budget():
    pool = no_seed_set(100)
    assert run(pool, 40).details["alpha"] == pytest.approx(1.5)
    assert run(pool, 5).details["alpha"] == 4.0
    assert run(pool, 100).details["alpha"] == 0.0


def test_mode_kl_keeps_the_sources_near_those_of_the_pool():
    sources = ["easy"] * 150 + ["hard"] * 150
    need = np.concatenate([np.linspace(0, 1.5, 150), np.linspace(0.5, 2, 150)])
    pool = no_seed_set(300, seed_loss=need, sources=sources)
    free = run(pool, 60, alpha=16.0).details
    assert free["kl"] > 0.3
    alphas = []
    for epsilon in (0.0, 0.01, 0.05, 0.2):
        details = run(pool, 60, mode="kl", epsilon=epsilon).details
        assert details["kl"] <= epsilon or details["alpha"] == 0.0
        alphas.append(details["alpha"])
    assert alphas == sorted(alphas)
    assert alphas[0] < alphas[-1]
    share = np.bincount(run(pool, 60, mode="kl").indices // 150) / 60
    assert run(pool, 60, mode="kl").details["kl"] == pytest.approx(
        (share * np.log(share / 0.5)).sum()
    )


def test_the_top_can_be_passed_over_and_comes_back_only_at_need():
    need = np.arange(100.0)
    pool = no_seed_set(100, seed_loss=need)
    selection = run(pool, 50, alpha=50.0, drop_top=0.1)
    assert selection.indices.max() == 89
    assert selection.details["passed_over"] == 10
    assert set(run(pool, 93, drop_top=0.1).indices) == set(range(93))


def test_samples_without_an_answer_come_last():
    unanswered = np.arange(50) < 20
    pool = no_seed_set(
        50,
        seed_loss=np.where(unanswered, np.nan, 1.0 + np.arange(50)),
    )
    for alpha in (0.0, 2.0):
        assert not unanswered[run(pool, 30, alpha=alpha).indices].any()
        assert unanswered[run(pool, 33, alpha=alpha).indices[30:]].all()
    assert run(pool, 33).details["without_value"] == 20
