"""Self-Filter that passes over what Stage 1 has not learned."""

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
from selfilter_ray.selected import selection_table

ROWS = 40


def run(pool, budget, **settings):
    return select(pool, budget, 0, parse_method({"method": "selfilter", **settings}))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.floats(0.01, 1.0), st.integers(1, ROWS))
def test_it_is_stage_2_on_the_samples_that_stay(seed, share, budget):
    pool = make_pool(ROWS, seed)
    loss_N = pool.columns["tuned_loss"]
    dropped = round(share * ROWS)
    stay = np.sort(np.argsort(loss_N, kind="stable")[: ROWS - dropped])
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


def test_a_sample_without_a_loss_stays():
    loss_N = np.linspace(1, 2, ROWS)
    loss_N[:5] = np.nan
    pool = make_pool(ROWS, tuned_loss=loss_N)
    found = run(pool, ROWS, drop_unlearned=0.5)
    assert found.details["passed_over"] == 20
    assert found.indices[20:].tolist() == list(range(20, ROWS))
    assert run(pool, 3, drop_unlearned=1.0).details["passed_over"] == ROWS - 5


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
