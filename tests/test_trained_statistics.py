"""Means over seeds, their intervals, and differences that are taken seed by seed."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from selfilter_ray.compare.trained.statistics import estimate, paired, t_quantile

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@pytest.mark.parametrize("freedom", [*range(1, 41), 60, 100, 1000, 10**6])
def test_quantiles_are_those_of_students_distribution(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-5)


@given(VALUES)
def test_an_interval_is_that_of_a_t_test(values):
    found = estimate(values)
    assert found.seeds == len(values) and found.mean == pytest.approx(statistics.fmean(values))
    error = statistics.stdev(values) / math.sqrt(len(values))
    low, _ = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=error or 1.0)
    assert found.half == pytest.approx((found.mean - low) if error else 0.0, abs=1e-3)


def test_what_is_not_known_does_not_count():
    assert estimate([None, None]).mean is None and not estimate([]).apart
    one = estimate([None, 2.0])
    assert (one.mean, one.half, one.seeds, one.apart) == (2.0, None, 1, False)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-1, 1)), min_size=2, max_size=8))
def test_a_shift_that_all_seeds_share_does_not_widen_a_difference(pairs):
    """The spread of the fresh models is in both, and goes out of the difference."""
    values = {seed: base + own for seed, (base, own) in enumerate(pairs)}
    others = {seed: base for seed, (base, _) in enumerate(pairs)}
    found = paired(values, others)
    assert found.mean == pytest.approx(statistics.fmean(own for _, own in pairs), abs=1e-9)
    shifted = paired(
        {s: v + 5 * s for s, v in values.items()}, {s: v + 5 * s for s, v in others.items()}
    )
    assert shifted.half == pytest.approx(found.half, abs=1e-9)


def test_a_difference_is_over_the_seeds_that_both_know():
    found = paired({0: 1.0, 1: 2.0, 2: None, 3: 9.0}, {0: 0.5, 1: 1.0, 2: 0.0})
    assert (found.mean, found.seeds) == (0.75, 2)
    assert paired({0: 1.0}, {}).mean is None
