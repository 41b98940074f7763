"""The controller of rate mode: the count stays where it is wanted, whatever arrives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.online.controller import RateController


def run(controller, values):
    """Which of the values were admitted."""
    admitted = []
    for value in values:
        passes = controller.admits(value, controller.threshold())
        controller.observe(value, passes)
        admitted.append(passes)
    return np.array(admitted)


@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2).map(float),
        max_size=600,
    ),
    rate=st.floats(0.01, 1.0),
    window=st.integers(1, 100),
    slack=st.floats(1.0, 50.0),
)
@settings(max_examples=60, deadline=None)
def test_the_count_is_never_further_off_than_the_slack_and_one(values, rate, window, slack):
    controller = RateController(rate, window, slack)
    counts = np.cumsum(run(controller, values))
    wanted = rate * np.arange(1, len(values) + 1)
    assert (np.abs(counts - wanted) <= slack + 1.0).all()
    assert len(controller.recent) <= window


def draws(name, count=6000):
    """A stream of adjusted difficulties."""
    random = np.random.default_rng(0)
    half = count // 2
    return {
        "normal": lambda: random.normal(size=count),
        "heavy tails": lambda: random.standard_cauchy(size=count),
        "two levels": lambda: random.integers(0, 2, count).astype(float),
        "constant": lambda: np.full(count, 3.0),
        "rare": lambda: np.where(random.uniform(size=count) < 0.02, 1e9, 0.0),
        "rising": lambda: np.arange(count).astype(float),
        "falling": lambda: -np.arange(count).astype(float),
        "scale up": lambda: random.normal(size=count) * np.repeat([1.0, 1e6], half),
        "scale down": lambda: random.normal(size=count) * np.repeat([1e6, 1.0], half),
        "level up": lambda: random.normal(size=count) + np.repeat([0.0, 50.0], half),
        "level down": lambda: random.normal(size=count) - np.repeat([0.0, 50.0], half),
        "waves": lambda: np.sin(np.arange(count) / 70.0) + 0.1 * random.normal(size=count),
        "all negative": lambda: -random.exponential(size=count),
    }[name]()


KINDS = (
    "normal",
    "heavy tails",
    "two levels",
    "constant",
    "rare",
    "rising",
    "falling",
    "scale up",
    "scale down",
    "level up",
    "level down",
    "waves",
    "all negative",
)


@pytest.mark.parametrize("rate", [0.02, 0.15, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_met_on_every_kind_of_stream(kind, rate):
    values = draws(kind)
    admitted = run(RateController(rate, 512, 16.0), values)
    assert abs(admitted.sum() - rate * len(values)) <= 17.0


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "all negative"])
def test_of_a_steady_stream_nearly_the_hardest_are_admitted(kind):
    values = draws(kind)
    admitted = run(RateController(0.15, 2048, 64.0), values)
    hardest = values >= np.quantile(values, 0.85)
    assert (admitted & hardest).sum() >= 0.8 * hardest.sum()


@pytest.mark.parametrize("kind", ["scale up", "scale down", "level up", "level down"])
def test_after_a_step_the_threshold_finds_its_place_again(kind):
    values = draws(kind)
    admitted = run(RateController(0.15, 512, 16.0), values)[-2000:]
    hardest = values[-2000:] >= np.quantile(values[-2000:], 0.85)
    assert (admitted & hardest).sum() >= 0.75 * hardest.sum()
    assert abs(admitted.mean() - 0.15) <= 0.02


def test_in_a_constant_stream_admissions_are_spread_evenly():
    admitted = np.flatnonzero(run(RateController(0.25, 64, 16.0), [1.0] * 400))
    assert set(np.diff(admitted)) == {4}


def test_rate_one_admits_all_and_an_empty_window_nothing_by_chance():
    assert run(RateController(1.0, 8, 4.0), [3.0, -1.0, 2.0]).all()
    assert RateController(0.15, 8, 4.0).threshold() == math.inf
    assert not run(RateController(0.001, 8, 4.0), [1.0] * 50).any()


def test_a_restored_controller_goes_on_as_if_nothing_had_happened():
    values = draws("normal", 400).tolist()
    whole = RateController(0.2, 50, 8.0)
    first = RateController(0.2, 50, 8.0)
    run(first, values[:250])
    second = RateController(0.2, 50, 8.0, first.seen, first.admitted, list(first.recent))
    assert run(whole, values)[250:].tolist() == run(second, values[250:]).tolist()
