"""Online selection decides what its definition says, checked pair by pair, one sample at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.online.decision import Decision
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import OnlineSettings


def cosine(first_D, second_D):
    """With one rounding for each of the three sums, the root and the quotient."""
    dots = [
        math.fsum(a * b for a, b in zip(*pair, strict=True))
        for pair in ((first_D, second_D), (first_D, first_D), (second_D, second_D))
    ]
    return dots[0] / math.sqrt(dots[1] * dots[2])


class Reference:
    """The definitions, read plainly: every value from all kept samples, at every arrival."""

    def __init__(self, wanted, base=0.0):
        self.wanted, self.base = wanted, base
        self.kept = []  # (sequence, difficulty, weight, row)
        self.recent, self.seen, self.admitted = [], 0, 0

    def decide(self, sequence, difficulty, row):
        wanted = self.wanted
        difficulty -= self.base
        limit = wanted.near_duplicate
        newcomer = (sequence, difficulty, difficulty, row)
        near = self._nearest(newcomer, self.kept, 1)
        repeats = limit is not None and near and near[0][0] >= limit
        if wanted.budget is None:
            return self._by_rate(newcomer, repeats)
        if repeats:
            return "near_duplicate", self._value(newcomer, self.kept), None
        everyone = [*self.kept, newcomer]
        value = self._value(newcomer, everyone)
        if len(everyone) <= wanted.budget:
            self.kept = everyone
            return "admitted", value, None
        weakest = min(everyone, key=lambda sample: (self._value(sample, everyone), -sample[0]))
        self.kept = [sample for sample in everyone if sample is not weakest]
        if weakest is newcomer:
            return "too_easy", value, None
        return "admitted", value, weakest[0]

    def _by_rate(self, newcomer, repeats):
        sequence, difficulty, _, row = newcomer
        near = self._nearest(newcomer, self.kept, self.wanted.k_nearest)
        adjusted = self._penalised(difficulty, near)
        if repeats:
            return "near_duplicate", adjusted, None
        ahead = self.admitted - self.wanted.wanted_rate * self.seen
        passes = self.wanted.wanted_rate * max(self.wanted.slack - ahead, 0.0)
        stays = (1.0 - self.wanted.wanted_rate) * max(self.wanted.slack + ahead, 0.0)
        window = sorted(self.recent[-self.wanted.window :], reverse=True)
        places = int(passes / (passes + stays) * (len(window) + 1))
        bar = math.inf if places == 0 else [*window, -math.inf][places - 1]
        spare = self.admitted + 1 <= self.wanted.wanted_rate * (self.seen + 1)
        admitted = adjusted > bar or (adjusted == bar and spare)
        self.seen, self.admitted = self.seen + 1, self.admitted + admitted
        self.recent.append(adjusted)
        if admitted:
            by_base = self.wanted.neighbour_difficulty == "base"
            self.kept.append((sequence, difficulty, difficulty if by_base else adjusted, row))
        return ("admitted" if admitted else "too_easy"), adjusted, None

    def _value(self, sample, everyone):
        harder = [other for other in everyone if (-other[1], other[0]) < (-sample[1], sample[0])]
        return self._penalised(sample[1], self._nearest(sample, harder, self.wanted.k_nearest))

    def _nearest(self, sample, others, count):
        likeness = [(cosine(sample[3], other[3]), -other[0], other[2]) for other in others]
        return sorted(likeness, reverse=True)[:count]

    def _penalised(self, difficulty, near):
        penalty = math.fsum(max(weight, 0.0) * (close * close) for close, _, weight in near)
        return difficulty - self.wanted.gamma * penalty


SMALL = st.integers(-2, 2)


@st.composite
def streams(draw, samples=40):
    count, features = draw(st.integers(0, samples)), draw(st.integers(1, 3))
    row = st.lists(SMALL, min_size=features, max_size=features).filter(any)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    difficulty = draw(st.lists(st.integers(-8, 8), min_size=count, max_size=count))
    return np.array(rows, np.float32).reshape(count, features), np.array(difficulty) / 4.0


@st.composite
def wishes(draw):
    common = {
        "gamma": draw(st.integers(0, 8)) / 4.0,
        "k_nearest": draw(st.integers(0, 4)),
        "near_duplicate": draw(st.sampled_from([None, None, 0.5, 1.0])),
        "difficulty": draw(st.sampled_from(["shifted", "raw"])),
    }
    if draw(st.booleans()):
        return OnlineSettings(budget=draw(st.integers(1, 12)), **common)
    return OnlineSettings(
        rate=draw(st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0])),
        neighbour_difficulty=draw(st.sampled_from(["base", "admitted"])),
        window=draw(st.integers(1, 30)),
        slack=draw(st.sampled_from([1.0, 2.5, 16.0])),
        **common,
    )


def names(count):
    return [str(number) for number in range(count)]


def decide_in_parts(wanted, features_ND, difficulty_N, cuts, base=0.0):
    """The selector after the stream, and its decisions."""
    selector, decisions = OnlineSelector(wanted, features_ND.shape[1], base), []
    ids = names(len(features_ND))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    for start, stop in pairwise(bounds):
        part = slice(start, stop)
        decisions += selector.decide(ids[part], difficulty_N[part], features_ND[part])
    return selector, decisions


@given(stream=streams(), wanted=wishes(), cuts=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_small_stream_is_decided_as_defined(stream, wanted, cuts):
    features_ND, difficulty_N = stream
    base = -2.0 if wanted.difficulty == "shifted" else 0.0
    selector, decisions = decide_in_parts(wanted, features_ND, difficulty_N, cuts, base)
    reference = Reference(wanted, base)
    for number, decision in enumerate(decisions):
        row = features_ND[number].astype(float).tolist()
        reason, adjusted, evicted = reference.decide(number, float(difficulty_N[number]), row)
        assert (decision.reason, decision.adjusted) == (reason, adjusted)
        assert decision.evicted == (None if evicted is None else str(evicted))
    assert selector.export().arrays["sequence_K"].tolist() == [s[0] for s in reference.kept]


def clustered(seed, samples, features, clusters=12, copies=0.1):
    """Rows in clusters, some of them exact copies, and difficulties with many ties."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, features))
    rows = centres[random.integers(0, clusters, samples)]
    rows = rows + 0.2 * random.normal(size=rows.shape)
    twins = random.integers(0, samples, int(copies * samples))
    rows[random.integers(0, samples, len(twins))] = rows[twins]
    return rows.astype(np.float32), random.integers(0, 40, samples) / 8.0


@pytest.mark.parametrize(
    "wanted",
    [
        OnlineSettings(rate=0.3),
        OnlineSettings(rate=0.2, k_nearest=10, neighbour_difficulty="admitted"),
        OnlineSettings(rate=0.5, near_duplicate=0.97),
        OnlineSettings(budget=60),
        OnlineSettings(budget=40, k_nearest=3, near_duplicate=0.97),
    ],
    ids=str,
)
def test_micro_batches_decide_as_one_by_one_bit_for_bit(wanted):
    features_ND, difficulty_N = clustered(1, 400, 16)
    single, decisions = decide_in_parts(wanted, features_ND, difficulty_N, range(400))
    for seed in range(2):
        cuts = np.random.default_rng(seed).integers(0, 400, 12).tolist()
        other, same = decide_in_parts(wanted, features_ND, difficulty_N, cuts)
        assert same == decisions
        assert other.digest() == single.digest()
    assert len({decision.reason for decision in decisions}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_is_kept_exactly_and_the_weakest_kept_is_no_better_than_the_rest(seed):
    wanted = OnlineSettings(budget=50, k_nearest=1 + seed % 2)
    features_ND, difficulty_N = clustered(seed, 300, 8)
    selector, decisions = decide_in_parts(wanted, features_ND, difficulty_N, range(0, 300, 64))
    kept = set()
    for decision in decisions:
        if decision.admitted:
            kept.add(decision.id)
        kept.discard(decision.evicted)
        assert len(kept) == min(decision.sequence + 1, 50)
    assert kept == set(selector.export().ids)


def test_with_all_embeddings_equal_the_hardest_is_worth_all_and_its_copies_what_is_left():
    features_ND = np.ones((300, 4), np.float32)
    difficulty_N = np.random.default_rng(0).permutation(300) / 300.0
    selector, _ = decide_in_parts(OnlineSettings(budget=5), features_ND, difficulty_N, range(300))
    # A copy is worth its difficulty less that of the oldest harder one: what arrived first stays.
    assert difficulty_N.max() in selector.export().arrays["difficulty_K"]
    _, decisions = decide_in_parts(OnlineSettings(rate=0.2), features_ND, difficulty_N, [])
    assert abs(sum(d.admitted for d in decisions) - 60) <= 65


def test_a_newcomer_that_ties_with_the_weakest_is_refused():
    selector = OnlineSelector(OnlineSettings(budget=2, gamma=0.0), 2)
    rows = np.eye(2, dtype=np.float32)
    selector.decide(["a", "b"], [1.0, 1.0], rows)
    [tie, better] = selector.decide(["c", "d"], [1.0, 1.5], rows)
    assert (tie.reason, tie.threshold) == ("too_easy", 1.0)
    assert (better.admitted, better.evicted) == (True, "b")  # of equals the later one goes


def test_a_harder_copy_of_a_kept_sample_takes_its_place():
    selector = OnlineSelector(OnlineSettings(budget=2), 2)
    rows = np.eye(2, dtype=np.float32)
    selector.decide(["first", "other"], [5.0, 1.0], rows)
    [decision] = selector.decide(["harder"], [6.0], rows[:1])
    assert decision.admitted and decision.evicted == "first"
    [easier] = selector.decide(["easier"], [4.0], rows[:1])
    assert (easier.reason, easier.nearest) == ("too_easy", ("harder",))


def test_a_near_duplicate_is_refused_however_hard_and_names_what_it_repeats():
    for wanted in (OnlineSettings(rate=1.0, near_duplicate=0.99), OnlineSettings(budget=3)):
        wanted = wanted.model_copy(update={"near_duplicate": 0.99})
        selector = OnlineSelector(wanted, 2)
        selector.decide(["a", "b"], [1.0, 1.0], np.eye(2, dtype=np.float32))
        near, far = np.float32([[1.0, 0.01], [1.0, 0.5]])
        [decision, other] = selector.decide(["c", "d"], [1e6, 1e6], [near, far])
        assert (decision.reason, decision.nearest) == ("near_duplicate", ("a",))
        assert decision.similarities[0] == pytest.approx(0.99995, abs=1e-6)
        assert isinstance(other, Decision) and other.admitted
