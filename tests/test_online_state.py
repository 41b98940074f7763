"""What comes in is checked, what is decided can be replayed, and the state can be carried away."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.online import kept as kept_module
from selfilter_ray.online.base import base_of
from selfilter_ray.online.decision import Decision, Invalid
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import OnlineSettings

SAMPLES, FEATURES = 400, 12
RULES = (
    OnlineSettings(rate=0.3, near_duplicate=0.999),
    OnlineSettings(rate=0.2, k_nearest=5, neighbour_difficulty="admitted"),
    OnlineSettings(budget=40, near_duplicate=0.999),
    OnlineSettings(budget=40, k_nearest=3),
)


def stream(seed=0):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(8, FEATURES))[random.integers(0, 8, SAMPLES)]
    rows = (rows + 0.3 * random.normal(size=rows.shape)).astype(np.float32)
    rows[200:230] = rows[:30]
    return [f"s{number}" for number in range(SAMPLES)], random.normal(size=SAMPLES), rows


def decided(wanted, base=-3.0):
    ids, difficulty, rows = stream()
    selector = OnlineSelector(wanted, FEATURES, base)
    return selector, selector.decide(ids, difficulty, rows)


@pytest.mark.parametrize("wanted", RULES, ids=str)
def test_replaying_the_log_gives_the_same_decisions_and_digest(wanted):
    selector, decisions = decided(wanted)
    _, _, rows = stream()
    log = [json.loads(json.dumps(decision.to_json(), allow_nan=False)) for decision in decisions]
    again = OnlineSelector(wanted, FEATURES, -3.0)
    follower = OnlineSelector(wanted, FEATURES, -3.0)
    for record, row in zip(log, rows, strict=True):
        logged = Decision.from_json(record)
        assert again.decide([logged.id], [logged.difficulty], [row]) == [logged]
        follower.follow(logged, row if logged.admitted else None)
    assert again.digest() == follower.digest() == selector.digest()
    more = np.random.default_rng(5).normal(size=(30, FEATURES)).astype(np.float32)
    ids, hard = [f"m{number}" for number in range(30)], [1.0] * 30
    assert follower.decide(ids, hard, more) == selector.decide(ids, hard, more)


@pytest.mark.parametrize("wanted", RULES, ids=str)
def test_an_exported_state_goes_on_as_the_original(wanted):
    ids, difficulty, rows = stream()
    whole, decisions = decided(wanted)
    half = OnlineSelector(wanted, FEATURES, -3.0)
    half.decide(ids[:230], difficulty[:230], rows[:230])
    restored = OnlineSelector.restore(half.export())
    assert restored.digest() == half.digest()
    assert restored.decide(ids[230:], difficulty[230:], rows[230:]) == decisions[230:]
    assert restored.digest() == whole.digest()


@pytest.mark.parametrize("wanted", [RULES[0], RULES[2]], ids=str)
def test_neither_threads_nor_the_size_of_blocks_change_a_decision(wanted, monkeypatch):
    _, decisions = decided(wanted)
    monkeypatch.setattr(kept_module, "ROWS", 32)
    monkeypatch.setattr(kept_module, "FIRST_ROWS", 8)
    with threadpool_limits(1):
        assert decided(wanted)[1] == decisions


def test_a_digest_tells_states_apart():
    selector, _ = decided(RULES[0])
    before = selector.digest()
    selector.decide(["bad"], [math.nan], np.ones((1, FEATURES)))
    assert selector.digest() == before
    selector.decide(["good"], [-3.0], np.ones((1, FEATURES)))
    assert selector.digest() != before


def test_bad_samples_are_named_and_do_not_touch_the_others():
    ids, difficulty, rows = stream()
    good = OnlineSelector(RULES[0], FEATURES, -3.0)
    expected = good.decide(ids[:6], difficulty[:6], rows[:6])
    bad = {
        "dimension": (0.5, np.ones(FEATURES + 1)),
        "not_finite": (0.5, np.full(FEATURES, np.inf)),
        "length": (0.5, np.zeros(FEATURES)),
        "difficulty": (math.nan, np.ones(FEATURES)),
        "features": (0.5, ["x"] * FEATURES),
    }
    mixed_ids, mixed_difficulty, mixed_rows = [], [], []
    for number, (fault, (value, row)) in enumerate(bad.items()):
        mixed_ids += [ids[number], fault]
        mixed_difficulty += [difficulty[number], value]
        mixed_rows += [rows[number], row]
    mixed_ids.append(ids[5])
    mixed_difficulty.append(difficulty[5])
    mixed_rows.append(rows[5])
    selector = OnlineSelector(RULES[0], FEATURES, -3.0)
    answers = selector.decide(mixed_ids, mixed_difficulty, mixed_rows)
    assert [answer for answer in answers if isinstance(answer, Decision)] == expected
    invalid = [answer for answer in answers if isinstance(answer, Invalid)]
    assert [(answer.fault, answer.id) for answer in invalid] == [(name, name) for name in bad]
    assert [answer.position for answer in invalid] == [1, 3, 5, 7, 9]
    assert selector.digest() == good.digest()


def test_values_too_large_or_nan_for_float32_are_refused():
    selector = OnlineSelector(RULES[0], 2)
    rows = np.array([[1e300, 0.0], [np.nan, 1.0], [1e-20, 0.0], [1e30, 1e30]])
    answers = selector.decide(list("abcd"), [1.0] * 4, rows)
    assert [a.fault for a in answers] == ["not_finite", "not_finite", "length", "length"]
    assert selector.sequence == 0


def test_as_many_ids_difficulties_and_rows_are_needed():
    with pytest.raises(ValueError, match="one id, difficulty and row"):
        OnlineSelector(RULES[0], 2).decide(["a"], [1.0, 2.0], np.ones((2, 2)))


def test_the_base_is_that_of_the_scored_pool_or_a_fixed_one():
    shifted, raw = OnlineSettings(), OnlineSettings(difficulty="raw")
    assert base_of(shifted, np.array([0.5, -1.25, 2.0])) == -1.25
    assert base_of(OnlineSettings(base=-4.0), np.array([0.5])) == -4.0
    assert base_of(raw, np.array([0.5])) == 0.0
    with pytest.raises(ConfigError, match="needs a base"):
        base_of(shifted)


def test_a_neighbour_below_the_base_makes_nobody_harder():
    selector = OnlineSelector(OnlineSettings(budget=5, k_nearest=1), 2, base=0.0)
    row = np.ones((1, 2), np.float32)
    selector.decide(["a"], [-1.0], row)
    [decision] = selector.decide(["b"], [-2.0], row)
    assert (decision.nearest, decision.adjusted) == (("a",), -2.0)


def test_a_log_that_does_not_fit_is_refused():
    _, decisions = decided(RULES[2])
    _, _, rows = stream()
    follower = OnlineSelector(RULES[2], FEATURES, -3.0)
    with pytest.raises(ArtifactError, match="state is at 0"):
        follower.follow(decisions[3], rows[3])
    with pytest.raises(ArtifactError, match="features are needed"):
        follower.follow(decisions[0])
    with pytest.raises(ArtifactError, match="comes out differently"):
        follower.follow(replace(decisions[0], adjusted=99.0), rows[0])


def test_a_damaged_snapshot_is_refused():
    state = decided(RULES[0])[0].export()
    short = {**state.arrays, "difficulty_K": state.arrays["difficulty_K"][:-1]}
    with pytest.raises(ArtifactError, match="differ in length"):
        OnlineSelector.restore(replace(state, arrays=short))
    bad = {**state.arrays, "features_KD": np.full_like(state.arrays["features_KD"], np.nan)}
    with pytest.raises(ArtifactError, match="impossible"):
        OnlineSelector.restore(replace(state, arrays=bad))
    with pytest.raises(ArtifactError, match="format 99"):
        OnlineSelector.restore(replace(state, header={**state.header, "format": 99}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.1, "budget": 5},
        {"rate": 0.0},
        {"rate": 1.5},
        {"budget": 0},
        {"budget": 5, "neighbour_difficulty": "admitted"},
        {"difficulty": "raw", "base": 1.0},
        {"near_duplicate": 0.0},
        {"gamma": -1.0},
        {"unknown": 1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        OnlineSettings(**wrong)
