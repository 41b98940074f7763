"""Self-Filter that passes over what Stage 1 has not learned, and its difficulty in groups."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_pools import make_pool

from selfilter_ray.errors import ConfigError
from selfilter_ray.select import select_diverse
from selfilter_ray.select.registry import needs_of, select
from selfilter_ray.select.settings import parse_method
from selfilter_ray.select.unlearned import split_unlearned
from selfilter_ray.selected import selection_table

ROWS = 40


def run(pool, budget, **settings):
    return select(pool, budget, 0, parse_method({"method": "selfilter", **settings}))


def least_learned(loss_N, difficulty_N, share, groups=10):
    """Row numbers that go, by a plain reading: of each tenth by difficulty, those of most loss."""
    gone, seen = [], 0
    by_difficulty = sorted(range(len(loss_N)), key=lambda row: (difficulty_N[row], -row))
    for group in np.array_split(by_difficulty, groups):
        by_loss = sorted(group.tolist(), key=lambda row: (loss_N[row], row))
        count = round(share * (seen + len(group))) - round(share * seen)
        gone += by_loss[len(group) - count :]
        seen += len(group)
    assert len(gone) == round(share * len(loss_N))
    return gone


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.floats(0.01, 1.0), st.integers(1, ROWS))
def test_it_is_stage_2_on_the_samples_that_stay(seed, share, budget):
    pool = make_pool(ROWS, seed)
    loss_N = pool.columns["tuned_loss"]
    gone = least_learned(loss_N, pool.columns["difficulty"], share)
    dropped = len(gone)
    stay = np.setdiff1d(np.arange(ROWS), gone)
    found = run(pool, budget, drop_unlearned=share)
    expected = select_diverse(
        pool.features_ND[stay], pool.columns["difficulty"][stay], min(budget, len(stay))
    )
    first = len(expected.indices)
    assert found.indices[:first].tolist() == stay[expected.indices].tolist()
    assert found.value[:first].tolist() == pytest.approx(expected.difficulty_at_pick.tolist())
    last = found.indices[first:]
    assert (np.diff(loss_N[last]) >= 0).all() and not set(last) & set(stay)
    assert found.details["passed_over"] == dropped
    assert found.details["picked_of_these"] == len(last) == max(0, budget - len(stay))
    nearest, picked = found.picks.nearest_earlier, set(found.indices.tolist())
    assert set(nearest[nearest >= 0].tolist()) <= picked


def test_without_a_share_nothing_changes_and_no_loss_is_needed():
    pool = make_pool(ROWS)
    assert "tuned_loss" not in needs_of(parse_method("selfilter")).columns_with_gaps
    wanted = parse_method({"method": "selfilter", "drop_unlearned": 0.1})
    assert needs_of(wanted).columns_with_gaps == ("tuned_loss",)
    without = select_diverse(pool.features_ND, pool.columns["difficulty"], 12)
    assert run(pool, 12).indices.tolist() == without.indices.tolist()


@pytest.mark.parametrize("method", ["selfilter", "selfilter_grouped"])
def test_samples_without_a_loss_come_last_and_are_counted(method):
    loss_N = np.linspace(1, 2, ROWS)
    loss_N[[3, 7, 30]] = np.nan
    pool = make_pool(ROWS, tuned_loss=loss_N)
    settings = parse_method({"method": method, "drop_unlearned": 0.5})
    found = select(pool, ROWS, 0, settings)
    assert found.details["without_value"] == 3 and found.details["passed_over"] == 3 + 18
    assert found.indices[ROWS - 3 :].tolist() == [3, 7, 30]
    assert (np.diff(loss_N[found.indices[ROWS - 21 : ROWS - 3]]) > 0).all()


@pytest.mark.parametrize(
    ("rows", "share", "groups"), [(15, 0.25, 10), (499, 0.01, 10), (400, 0.25, 200), (7, 0.5, 10)]
)
def test_rounding_does_not_add_up_over_the_groups(rows, share, groups):
    random = np.random.default_rng(0)
    stay, gone = split_unlearned(random.random(rows), random.random(rows), share, groups)
    assert len(gone) == round(share * rows) and len(stay) + len(gone) == rows


def test_the_table_of_picks_holds_all_of_them():
    pool = make_pool(ROWS)
    table = selection_table(pool.ids, run(pool, ROWS, drop_unlearned=0.25))
    assert table.num_rows == ROWS and table["id"].null_count == 0
    last = table.slice(30)
    assert last["nearest_earlier_id"].null_count == 10
    assert last["penalty"].to_pylist() == [0.0] * 10
    assert all(one == [] for one in last["penalised_ids"].to_pylist())
    assert isinstance(table, pa.Table)


def test_it_does_not_go_with_shards():
    with pytest.raises(ConfigError, match="leave shards at 1"):
        parse_method({"method": "selfilter", "drop_unlearned": 0.1, "shards": 2})


def run_grouped(pool, budget, seed=0, **settings):
    return select(pool, budget, seed, parse_method({"method": "selfilter_grouped", **settings}))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.integers(1, ROWS), st.floats(0.0, 8.0), st.integers(1, 12))
def test_the_grouped_draw_takes_more_of_harder_groups(seed, budget, alpha, groups):
    pool = make_pool(ROWS, seed)
    given = {"alpha": alpha, "groups": groups, "drop_unlearned": 0.0}
    found = run_grouped(pool, budget, seed, **given)
    assert found.value.tolist() == sorted(found.value, reverse=True)
    assert found.value.tolist() == pool.columns["difficulty"][found.indices].tolist()
    assert found.details == {"alpha": alpha, "passed_over": 0, "picked_of_these": 0} | {
        "without_value": 0
    }
    order = np.argsort(pool.columns["difficulty"], kind="stable")
    taken = [len(np.intersect1d(group, found.indices)) for group in np.array_split(order, groups)]
    if alpha >= 1 and ROWS % groups == 0:  # below that, weights may be too alike
        assert taken == sorted(taken)


def test_with_a_large_alpha_the_grouped_draw_is_the_top():
    pool = make_pool(ROWS)
    found = run_grouped(pool, 12, alpha=1e6, drop_unlearned=0.0)
    top = np.argsort(-pool.columns["difficulty"], kind="stable")[:12]
    assert found.indices.tolist() == top.tolist()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.floats(0.01, 1.0), st.integers(1, ROWS), st.integers(1, 12))
def test_the_grouped_draw_takes_what_it_passed_over_last(seed, share, budget, groups):
    pool = make_pool(ROWS, seed)
    loss_N = pool.columns["tuned_loss"]
    gone = least_learned(loss_N, pool.columns["difficulty"], share, groups)
    found = run_grouped(pool, budget, drop_unlearned=share, groups=groups)
    last = [row for row in found.indices.tolist() if row in gone]
    assert len(last) == max(0, budget - (ROWS - len(gone))) == found.details["picked_of_these"]
    assert found.indices[len(found.indices) - len(last) :].tolist() == last
    assert (np.diff(loss_N[last]) >= 0).all()


def test_a_rare_kind_that_is_learned_late_is_not_taken_for_noise():
    """Nine in ten are easy; of the hard tenth, a fifth has a loss far above the others'."""
    random = np.random.default_rng(0)
    hard_N = np.arange(200) < 20
    noise_N = np.arange(200) < 4
    loss_N = 0.1 + hard_N * 0.5 + noise_N * 2.0 + random.uniform(0, 0.05, 200)
    pool = make_pool(200, difficulty=hard_N + random.uniform(0, 0.1, 200), tuned_loss=loss_N)
    found = run_grouped(pool, 60, drop_unlearned=0.2, alpha=8.0)
    assert not noise_N[found.indices].any() and hard_N[found.indices].sum() == 16


def test_its_default_alpha_is_that_of_the_grouped_sampling():
    assert run_grouped(make_pool(ROWS), 10).details["alpha"] == 3.0
    assert run_grouped(make_pool(ROWS), 2).details["alpha"] == 4.0
