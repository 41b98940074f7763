"""Comparing methods: who takes part, what is recorded, and what a failure costs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from rich.console import Console

from selfilter_ray.compare.comparison import compare
from selfilter_ray.compare.entries import Entry, entries_of
from selfilter_ray.compare.files import PICKS, RESULT, read_comparison, write_comparison
from selfilter_ray.compare.result import Comparison
from selfilter_ray.compare.settings import CompareConfig
from selfilter_ray.compare.terminal_table import print_comparison
from selfilter_ray.errors import ArtifactError, ConfigError, DataError
from selfilter_ray.select import registry
from selfilter_ray.select.contract import Pool, Selection, pool_of

SEEDS = (0, 1, 2)


@pytest.fixture
def pool() -> Pool:
    rng = np.random.default_rng(0)
    return pool_of(
        [f"id{row:03d}" for row in range(60)],
        rng.choice(["photos", "charts"], 60),
        rng.normal(size=(60, 8)),
        {
            "difficulty": rng.normal(size=60),
            "answer_tokens": rng.integers(1, 40, 60),
            "clip_score": np.where(np.arange(60) == 7, np.nan, rng.normal(size=60)),
        },
    )


def entries(pool: Pool, *methods: str | dict[str, Any]) -> list[Entry]:
    return entries_of(CompareConfig(methods=list(methods)).methods, pool)


def test_a_comparison(pool: Pool) -> None:
    told: list[int] = []
    found = compare(
        pool,
        entries(pool, {"method": "selfilter", "label": "ours"}, "clip_score"),
        SEEDS,
        12,
        {"ours": {"train": 30.0}},
        progress=told.append,
    )
    assert [method.label for method in found.methods] == ["ours", "clip_score", "random"]
    assert sum(told) == 9
    ours, clip, random = found.methods
    assert (ours.same_picks, clip.same_picks, random.same_picks) == (True, True, False)
    assert (ours.cost, clip.cost) == ({"train": 30.0}, {})
    assert ours.settings["gamma"] == 1.0
    assert found.reference == "random"
    assert found.failures == []
    assert found.pool.metrics["tokens"] == pytest.approx(pool.columns["answer_tokens"].mean())
    best = pool.ids[np.argmax(pool.columns["difficulty"])]
    assert ours.first_picks[0] == best
    assert found.stability("ours") == 1.0
    assert found.stability("random") < 0.5
    assert found.overlap_with_reference("random") is None
    assert 0 <= found.overlap_with_reference("ours") < 0.6


def test_means_and_spread_over_seeds(pool: Pool) -> None:
    found = compare(pool, entries(pool, "random"), SEEDS, 10)
    (random,) = found.methods
    values = [run.metrics["difficulty"] for run in random.runs]
    assert [run.seed for run in random.runs] == list(SEEDS)
    assert random.metrics["difficulty"].mean == pytest.approx(np.mean(values))
    assert random.metrics["difficulty"].std == pytest.approx(np.std(values, ddof=1))
    single = compare(pool, entries(pool, "random"), [4], 10).methods[0]
    assert single.metrics["difficulty"].std is None
    assert single.same_picks is None


def test_overlaps_are_those_of_the_picks(pool: Pool) -> None:
    found = compare(pool, entries(pool, "selfilter", "random"), [3], 15)
    picks = found.picks.to_pylist()
    sets = [
        {pick["id"] for pick in picks if pick["label"] == label} for label in found.overlap.labels
    ]
    both = len(sets[0] & sets[1])
    assert found.overlap.share[0][1] == pytest.approx(both / 15)
    assert found.overlap.jaccard_first_seed[1][0] == pytest.approx(both / (30 - both))


def test_one_failing_method_does_not_cost_the_others(pool: Pool) -> None:
    def fragile(pool: Pool, budget: int, seed: int, settings: Any) -> Selection:
        if settings.method == "prototypicality":
            raise ZeroDivisionError("no clusters")
        if settings.method == "semdedup" and seed == 1:
            raise DataError("seed 1 is unlucky: take another.")
        return registry.select(pool, budget, seed, settings)

    found = compare(pool, entries(pool, "prototypicality", "semdedup"), SEEDS, 8, select=fragile)
    assert [method.label for method in found.methods] == ["semdedup", "random"]
    assert [run.seed for run in found.methods[0].runs] == [0, 2]
    broken, unlucky = found.failures
    assert (broken.label, broken.seeds) == ("prototypicality", [0, 1, 2])
    assert broken.message.startswith("ZeroDivisionError: no clusters (test_compare.py:")
    assert (unlucky.seeds, unlucky.message) == ([1], "seed 1 is unlucky: take another.")


@pytest.mark.parametrize("indices", [[0, 1], [0, 1, 1], [0, 1, 60], [-1, 0, 1], [[0, 1, 2]]])
def test_a_wrong_selection_is_a_failure(pool: Pool, indices: list[Any]) -> None:
    def wrong(pool: Pool, budget: int, seed: int, settings: Any) -> Selection:
        rows = np.array(indices) if settings.method == "semdedup" else np.arange(budget)
        return Selection(rows, np.zeros(budget))

    found = compare(pool, entries(pool, "semdedup", "clip_score"), [0], 3, select=wrong)
    assert [failure.label for failure in found.failures] == ["semdedup"]
    assert "it chose" in found.failures[0].message


def test_all_failing_is_an_error(pool: Pool) -> None:
    bare = replace(pool, columns={})
    with pytest.raises(DataError, match="none of the methods could select") as raised:
        compare(bare, entries(pool, "selfilter", "clip_score"), SEEDS, 5)
    assert "selfilter: " in str(raised.value)
    assert "clip_score: " in str(raised.value)


@pytest.mark.parametrize("budget", [0, 1, 60])
def test_any_budget(pool: Pool, budget: int) -> None:
    found = compare(pool, entries(pool, "selfilter"), SEEDS, budget)
    assert not found.failures
    assert found.picks.num_rows == 2 * 3 * budget
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))).budget == budget
    if budget == 60:
        assert found.overlap.share == [[1.0, 1.0], [1.0, 1.0]]


def test_a_pool_of_ids_only(pool: Pool) -> None:
    bare = Pool(pool.ids, pool.sources, None, {})
    found = compare(bare, entries_of(None, bare), SEEDS, 10)
    assert {method.method for method in found.methods} == {"random"}
    known = {name for name, value in found.methods[0].metrics.items() if value.mean is not None}
    assert known == {"source_kl"}


def test_the_reference_is_uniform(pool: Pool) -> None:
    stratified = {"method": "random", "kind": "stratified", "label": "random"}
    found = compare(pool, entries(pool, stratified), [0], 6)
    assert [method.label for method in found.methods] == ["random", "uniform random"]
    assert found.reference == "uniform random"
    named = compare(pool, entries(pool, {"method": "random", "label": "dice"}), [0], 6)
    assert [method.label for method in named.methods] == [named.reference] == ["dice"]


def test_default_entries_are_those_that_the_pool_has_everything_for(pool: Pool) -> None:
    names = {entry.method for entry in entries_of(None, pool)}
    assert {"selfilter", "random", "clip_score", "semdedup"} <= names  # a gap in clip_score is fine
    assert not {"el2n", "image_reward"} & names
    without = {entry.method for entry in entries_of(None, replace(pool, features_ND=None))}
    assert "random" in without
    assert not {"selfilter", "semdedup"} & without


def test_labels(pool: Pool) -> None:
    found = entries(
        pool, "el2n", {"method": "el2n", "keep": "middle"}, {"method": "loss", "label": "x"}
    )
    assert [entry.label for entry in found] == ["el2n", "el2n keep=middle", "x"]
    assert found[0].title == registry.METHODS["el2n"].title
    with pytest.raises(ConfigError, match="more than one entry named 'el2n'"):
        entries(pool, "el2n", {"method": "el2n", "keep": "top"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["el3n"]}, "Did you mean el2n"),
        ({"methods": [{"method": "el2n", "kep": "top"}]}, "Did you mean keep"),
        ({"methods": [{"keep": "top"}]}, "a mapping with the key method"),
        ({"methods": [7]}, "give a method's name"),
        ({"methods": []}, "at least 1 item"),
        ({"methods": [{"method": "el2n", "ratio": 0.1}]}, "give compare.ratio instead"),
        ({"methods": [{"method": "el2n", "label": " "}]}, "label must be a text"),
        ({"seeds": [1, 1]}, "each seed counts once"),
        ({"seeds": []}, "at least 1 item"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"budget": 3, "ratio": 0.5}, "not both"),
        ({"metods": []}, "Extra inputs"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CompareConfig.model_validate(settings)


def test_settings_survive_a_dump() -> None:
    config = CompareConfig(methods=["random", {"method": "el2n", "keep": "middle", "label": "m"}])
    assert CompareConfig.model_validate(config.model_dump()) == config
    assert CompareConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_budget_of_the_settings() -> None:
    assert CompareConfig().count(100, 15) == 15
    assert CompareConfig(ratio=0.2).count(100, 15) == 20
    assert CompareConfig(budget=7).count(100, 15) == 7
    with pytest.raises(ConfigError, match="only 100 records"):
        CompareConfig(budget=101).count(100, 15)


def test_files(pool: Pool, tmp_path: Any) -> None:
    found = compare(pool, entries(pool, "selfilter"), SEEDS, 10)
    write_comparison(tmp_path, found)
    again = read_comparison(tmp_path)
    assert again.picks is None
    assert again == found.model_copy(update={"picks": None})
    picks = pq.read_table(tmp_path / PICKS).to_pylist()
    assert len(picks) == 2 * 3 * 10
    assert picks[0] == {
        "label": "selfilter",
        "method": "selfilter",
        "seed": 0,
        "rank": 0,
        "id": found.methods[0].first_picks[0],
    }
    write_comparison(tmp_path, again)
    assert (tmp_path / PICKS).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 9}', "{", "null"])
def test_damaged_files(tmp_path: Any, text: str) -> None:
    with pytest.raises(ArtifactError, match="compare first"):
        read_comparison(tmp_path)
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(ArtifactError, match="compare"):
        read_comparison(tmp_path)


def printed(comparison: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_comparison(console, comparison)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 250])
def test_the_table_fits_any_terminal(pool: Pool, width: int) -> None:
    found = compare(pool, entries(pool, "selfilter", "clip_score"), SEEDS, 10)
    text = printed(found, width)
    assert max(len(line) for line in text.splitlines()) <= width
    coverage = found.methods[0].metrics["coverage"].mean
    assert f"{coverage:.3f}" in text
    random = found.methods[2].metrics["coverage"]
    assert f"{random.mean:.3f} \u00b1 {random.std:.3f}" in text
    for title in ("redundancy", "source KL", "seconds", "seed to seed"):
        assert text.count(title) == 1
    assert "Same picks for every seed" in text.replace("\n", " ")


def test_hostile_labels_in_the_terminal(pool: Pool) -> None:
    label = "[red]x[/red]\x1b[2J" + 6 * "\u4e2d\u6587"

    def fragile(pool: Pool, budget: int, seed: int, settings: Any) -> Selection:
        if settings.method == "semdedup":
            raise DataError("[bold]\x1b]0;title\x07")
        return registry.select(pool, budget, seed, settings)

    chosen = entries(pool, {"method": "clip_score", "label": label}, "semdedup")
    text = printed(compare(pool, chosen, [0], 10, select=fragile), 120)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text
    assert "[bold]" in text
