"""What every selection method promises, for the whole registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_pools import make_pool, raw_pool, shuffled

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.select.contract import Pool, pool_of
from selfilter_ray.select.registry import METHODS, needs_of, select
from selfilter_ray.select.settings import SETTINGS, SelectConfig, parse_method

VARIANTS = [
    {"method": "random", "kind": "stratified"},
    {"method": "random", "kind": "length_matched"},
    {"method": "el2n", "keep": "middle"},
    {"method": "loss", "keep": "bottom", "model": "seed"},
    {"method": "alpagasus", "dimension": "accuracy"},
    {"method": "prototypicality", "keep": "near", "clusters": 3},
    {"method": "semdedup", "keep": "near", "clusters": 1},
    {"method": "coincide", "clusters": 2},
    {"method": "d2", "column": "clip_score", "k_nearest": 2},
    {"method": "coido", "quota": "none"},
    {"method": "mllm_selector", "mode": "kl"},
    {"method": "mllm_selector", "drop_top": 0.2, "groups": 3},
    {"method": "selfilter", "difficulty": "raw", "k_nearest": 2},
    {"method": "selfilter", "drop_unlearned": 0.3},
    {"method": "selfilter_grouped", "drop_unlearned": 0.0, "alpha": 0.0, "groups": 3},
    *({"method": "mllm_selector", "necessity": kind} for kind in (
        "sum", "gain", "ratio", "conditional", "task_z",
    )),
]  # fmt: skip
EVERY = [{"method": name} for name in METHODS] + VARIANTS


def label(entry: dict[str, object]) -> str:
    return " ".join(str(value) for value in entry.values())


WITH_FEATURES = [entry for entry in EVERY if needs_of(parse_method(entry)).features]
every_method = pytest.mark.parametrize("entry", EVERY, ids=label)


def chosen(pool: Pool, budget: int, entry: dict[str, object], seed: int = 0) -> list[str]:
    """The ids, after checking what must hold of any selection."""
    selection = select(pool, budget, seed, parse_method(entry))
    assert selection.indices.dtype == np.int64
    assert selection.indices.shape == selection.value.shape == (budget,)
    assert selection.value.dtype == np.float64
    assert len(set(selection.indices.tolist())) == budget
    return pool.ids[selection.indices].tolist()


def test_registry_settings_and_names_agree():
    assert list(METHODS) == list(SETTINGS)
    for name, method in METHODS.items():
        assert (method.name, method.settings) == (name, SETTINGS[name])
        assert type(parse_method(name)) is method.settings
    members = SelectConfig.__origin__.__args__
    assert set(members) == set(SETTINGS.values())


@every_method
@settings(max_examples=15, deadline=None)
@given(
    samples=st.integers(1, 40),
    part=st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**31 - 1),
    decimals=st.sampled_from([0, 1, 6]),
)
def test_exactly_the_budget_whatever_the_order_of_the_input(entry, samples, part, seed, decimals):
    raw = raw_pool(samples, seed, decimals=decimals)
    for budget in {round(part * samples), 1}:
        first = chosen(pool_of(**raw), budget, entry, seed)
        assert chosen(pool_of(**shuffled(raw, seed)), budget, entry, seed) == first


@every_method
def test_all_of_the_pool(entry):
    pool = make_pool(57)
    assert sorted(chosen(pool, 57, entry)) == pool.ids.tolist()


@every_method
def test_reads_only_what_it_says(entry):
    needs = needs_of(parse_method(entry))
    pool = make_pool(40)
    read = {*needs.columns, *needs.columns_with_gaps}
    bare = Pool(
        pool.ids,
        pool.sources,
        pool.features_ND if needs.features else None,
        {name: pool.columns[name] for name in read},
    )
    assert chosen(bare, 9, entry) == chosen(pool, 9, entry)


@every_method
def test_does_not_change_the_pool(entry):
    pool = make_pool(30)
    pool.features_ND.setflags(write=False)
    for value_N in pool.columns.values():
        value_N.setflags(write=False)
    assert len(chosen(pool, 12, entry)) == 12


@every_method
@pytest.mark.parametrize("budget", [-1, 31])
def test_a_budget_that_cannot_be_met_is_refused(entry, budget):
    with pytest.raises(ConfigError, match="from 0 to the 30"):
        select(make_pool(30), budget, 0, parse_method(entry))


@every_method
def test_missing_or_broken_values_are_refused_with_their_number(entry):
    needs = needs_of(parse_method(entry))
    pool = make_pool(30)
    for name in (*needs.columns, *needs.columns_with_gaps):
        others = {key: value for key, value in pool.columns.items() if key != name}
        with pytest.raises(DataError, match=f"column {name}, which nothing has computed"):
            chosen(Pool(pool.ids, pool.sources, pool.features_ND, others), 5, entry)
        for wrong in (np.full(30, np.nan), np.where(np.arange(30) == 3, np.inf, 1.0)):
            broken = make_pool(30, **{name: wrong})
            with pytest.raises(DataError, match=f"column {name} is NaN for (30|0) and infinite"):
                chosen(broken, 5, entry)
    for name in needs.columns:
        broken = make_pool(30, **{name: np.where(np.arange(30) < 2, np.nan, 1.0)})
        with pytest.raises(DataError, match="NaN for 2 and infinite for 0 of 30"):
            chosen(broken, 5, entry)


@pytest.mark.parametrize("entry", WITH_FEATURES, ids=label)
def test_wrong_features_are_refused(entry):
    pool = make_pool(30)
    for features, message in (
        (None, "run featurize first"),
        (pool.features_ND[:29], r"shape \(29, 6\)"),
        (pool.features_ND[0], r"shape \(6,\)"),
        (np.where(np.arange(30)[:, None] == 4, np.nan, pool.features_ND), "1 of 30 samples"),
    ):
        with pytest.raises(DataError, match=message):
            chosen(Pool(pool.ids, pool.sources, features, pool.columns), 5, entry)


@every_method
def test_all_embeddings_equal_and_all_scores_equal(entry):
    flat = {name: np.ones(40) for name in raw_pool(40)["columns"] if name not in ("seed_member",)}
    pool = make_pool(40, features_ND=np.ones((40, 4)), **flat)
    picked = chosen(pool, 11, entry)
    by_number = ("loss", "ifd", "visual_gain", "grand", "clip_score", "image_reward", "judge")
    if entry["method"] in (*by_number, "prototypicality", "semdedup") or entry == {
        "method": "el2n"
    }:
        assert picked == pool.ids[:11].tolist()


@every_method
def test_one_source_holds_nearly_all(entry):
    sources = ["big"] * 999 + ["small"]
    pool = make_pool(1000, sources=sources)
    assert len(chosen(pool, 150, entry)) == 150


@every_method
def test_zero_embeddings(entry):
    features = raw_pool(30)["features_ND"]
    features[[2, 7, 8]] = 0.0
    assert len(chosen(make_pool(30, features_ND=features), 14, entry)) == 14
    assert len(chosen(make_pool(30, features_ND=features * 0.0), 14, entry)) == 14


@pytest.mark.parametrize("method", ["prototypicality", "semdedup", "coincide"])
def test_fewer_rows_than_clusters(method):
    assert len(chosen(make_pool(5), 3, {"method": method, "clusters": 50})) == 3


@pytest.mark.parametrize("wrong", [["b", "a"], ["a", "a"]])
def test_ids_that_are_not_sorted_or_not_distinct_are_refused(wrong):
    pool = Pool(np.array(wrong, dtype=object), np.array(["s", "s"], dtype=object), None, {})
    with pytest.raises(DataError, match="distinct and sorted"):
        select(pool, 1, 0, parse_method("random"))


def test_progress_adds_up_to_the_budget():
    for entry in EVERY:
        made: list[int] = []
        select(make_pool(30), 12, 0, parse_method(entry), made.append)
        assert sum(made) == 12


def test_without_a_budget_the_settings_decide():
    pool = make_pool(40, judge_helpfulness=np.where(np.arange(40) < 13, 4.5, 4.0))
    assert len(select(pool, None, 0, parse_method("random")).indices) == 6
    assert len(select(pool, None, 0, parse_method({"method": "el2n", "budget": 9})).indices) == 9
    assert len(select(pool, None, 0, parse_method("alpagasus")).indices) == 13
    with pytest.raises(ConfigError, match="only 40 records"):
        select(pool, None, 0, parse_method({"method": "el2n", "budget": 41}))


DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from selector_pools import make_pool, raw_pool
from selfilter_ray.select.registry import METHODS, select
from selfilter_ray.select.settings import parse_method
pool = make_pool(300, features_ND=raw_pool(300, dimension=96)["features_ND"])
rows = [select(pool, 60, 0, parse_method(name)).indices.tolist() for name in METHODS]
print(hashlib.sha256(repr(rows).encode()).hexdigest())
"""


def test_the_number_of_threads_does_not_matter():
    here = str(Path(__file__).parent)
    digests = []
    for threads in ("1", "2"):
        environment = {
            **os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads,
        }  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-c", DIGEST, here],
            capture_output=True, text=True, env=environment, timeout=120, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        digests.append(result.stdout.strip())
    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


def test_settings_say_what_is_wrong_and_what_is_near():
    for wrong, message in (
        ("selfliter", "Did you mean selfilter?"),
        ({"method": "random", "kindd": "uniform"}, "kindd: unknown setting. Did you mean kind?"),
        ({"method": "random", "gamma": 1}, "Known: budget, kind, method, ratio"),
        ({"method": 3}, "unknown method 3"),
        ({"method": "el2n", "keep": "best"}, "select.keep: Input should be 'top'"),
        ({"budget": 3, "ratio": 0.1}, "budget or ratio, not both"),
        ({"method": "mllm_selector", "mode": "kl", "alpha": 1}, "leave alpha out"),
        ({"ratio": float("nan")}, "select.ratio"),
    ):
        with pytest.raises(ConfigError) as error:
            parse_method(wrong)
        assert message in str(error.value)


def test_a_mapping_without_method_is_selfilter():
    parsed = parse_method({"gamma": 2.0, "ratio": 0.3})
    assert (parsed.method, parsed.gamma, parsed.count(10)) == ("selfilter", 2.0, 3)
    assert parsed.result_fields()["method"] == "selfilter"


def test_settings_need_no_numpy():
    code = "import sys, selfilter_ray.select.settings; print('numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented_with_its_parameters_and_needs(name):
    text = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    methods, _, parameters = text.partition("## Parameters and needs")
    assert f"| `{name}` | " in methods
    row = next(line for line in parameters.splitlines() if line.startswith(f"| `{name}` |"))
    default = parse_method(name)
    for key, value in default.model_dump(exclude={"method", "budget", "ratio"}).items():
        assert f"`{key}: {'null' if value is None else value}`" in row
    needs = needs_of(default)
    for column in (*needs.columns, *needs.columns_with_gaps):
        assert f"`{column}`" in row or f": {column}`" in row
    assert ("features" in row) == needs.features


@every_method
def test_a_method_that_calls_itself_free_of_the_seed_is(entry):
    pool, parsed = make_pool(40), parse_method(entry)
    if METHODS[parsed.method].seeded(pool, parsed):
        pytest.skip("the seed may change its picks")
    assert chosen(pool, 9, entry, seed=0) == chosen(pool, 9, entry, seed=12345)
