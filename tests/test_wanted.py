"""What the methods of a run want made, what that costs, and which stages it keeps or leaves out."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from run_folders import INPUTS, OUTPUTS

from selfilter_ray import atomic
from selfilter_ray.compare.entries import Entry
from selfilter_ray.config import load_config
from selfilter_ray.errors import ConfigError
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard
from selfilter_ray.run_folder import STAGES, RunFolder
from selfilter_ray.select.settings import SETTINGS, parse_method
from selfilter_ray.stages import StageKeys
from selfilter_ray.wanted import costs_of, methods_of, wanted_by

REWARD = {"weights": "ImageReward.pt", "config": "med_config.json"}
SCORES = {"inputs": "scores"}


def judge(dimension="quality", **more):
    return {"base_url": "http://host/v1", "model": "m", "dimension": dimension, **more}


RATERS = {"image_reward": REWARD, "judges": [judge(), judge("helpfulness"), judge("accuracy")]}


def config(**sections):
    return load_config({"run_dir": "r", "data": {"inputs": ["a.json"]}, **sections})


def wanted(*methods, **sections):
    return wanted_by([parse_method(method) for method in methods], config(**sections))


# Every method: Stage 1, passes, CoIDO's scorer, columns.
NOTHING = (False, (), False, ())
BY_METHOD = {
    "selfilter": (True, (), False, ("difficulty",)),
    "selfilter_grouped": (True, ("tuned",), False, ("difficulty", "tuned_loss")),
    "mllm_selector": (False, ("seed",), False, ("seed_loss", "seed_member")),
    "random": NOTHING,
    "el2n": (False, ("pre",), False, ("pre_el2n",)),
    "grand": (False, ("pre",), False, ("pre_grand",)),
    "loss": (False, ("pre",), False, ("pre_loss",)),
    "ifd": (False, ("pre",), False, ("pre_loss", "pre_loss_no_question")),
    "visual_gain": (False, ("pre",), False, ("pre_loss", "pre_loss_no_image")),
    "clip_score": (False, (), False, ("clip_score",)),
    "image_reward": (False, (), False, ("image_reward",)),
    "judge": (False, (), False, ("judge_quality",)),
    "alpagasus": (False, (), False, ("judge_helpfulness",)),
    "prototypicality": NOTHING,
    "semdedup": NOTHING,
    "d2": (False, ("pre",), False, ("pre_el2n",)),
    "coincide": NOTHING,
    "coido": (False, (), True, ("coido_score",)),
}


def test_every_method_is_among_those_below():
    assert BY_METHOD.keys() == SETTINGS.keys()


@pytest.mark.parametrize("name", BY_METHOD)
def test_a_method_wants_what_it_reads_and_nothing_else(name):
    found = wanted(name, ratings=RATERS)
    assert (found.stage1, found.models, found.coido, found.columns) == BY_METHOD[name]


@pytest.mark.parametrize(
    ("method", "models", "stage1"),
    [
        ({"method": "el2n", "model": "tuned"}, ("tuned",), True),
        ({"method": "loss", "model": "seed"}, ("seed",), False),
        ({"method": "d2", "column": "difficulty"}, (), True),
        ({"method": "d2", "column": "clip_score"}, (), False),
        ({"method": "d2", "column": "tuned_margin"}, ("tuned",), True),
        ({"method": "mllm_selector", "necessity": "gain"}, ("pre", "seed"), False),
        ({"method": "random", "kind": "length_matched"}, ("pre",), False),
        ({"method": "random", "kind": "stratified"}, (), False),
    ],
)
def test_settings_of_a_method_change_what_it_wants(method, models, stage1):
    found = wanted(method)
    assert (found.models, found.stage1) == (models, stage1)


def test_several_methods_want_the_union_and_each_model_once():
    found = wanted("selfilter", "el2n", {"method": "loss", "model": "tuned"}, "d2", "coido")
    assert found.stage1
    assert found.coido
    assert found.models == ("pre", "tuned")
    assert found.columns == ("coido_score", "difficulty", "pre_el2n", "tuned_loss")
    lengths = wanted(
        {"method": "random", "kind": "length_matched"}, {"method": "loss", "model": "seed"}
    )
    assert lengths.models == ("seed",)  # which counts the tokens, too


@pytest.mark.parametrize(
    ("method", "section"),
    [
        ("image_reward", r"ratings\.image_reward"),
        ("judge", r"ratings\.judges"),
        ("alpagasus", r"ratings\.judges"),
        ({"method": "d2", "column": "judge_accuracy"}, r"ratings\.judges"),
    ],
)
def test_a_rating_that_nobody_makes_names_the_section_to_write(method, section):
    name = method if isinstance(method, str) else method["method"]
    with pytest.raises(ConfigError, match=f"method {name} needs .*{section}"):
        wanted(method)
    wanted(method, ratings=RATERS)


def test_a_judge_of_another_dimension_is_not_enough():
    with pytest.raises(ConfigError, match="judge_helpfulness"):
        wanted("alpagasus", ratings={"judges": [judge("accuracy")]})


@pytest.mark.parametrize("column", ["beauty", "el2n", "post_loss", "seed"])
def test_a_column_that_nothing_makes_is_refused(column):
    with pytest.raises(ConfigError, match=f"d2 reads the column '{column}'.*nothing makes"):
        wanted({"method": "d2", "column": column})


def test_the_methods_of_a_comparison_come_beside_that_of_select():
    settings = config(select={"method": "el2n"}, compare={"methods": ["coido", "random"]})
    assert [method.method for method in methods_of(settings, comparing=True)] == [
        "el2n",
        "coido",
        "random",
    ]
    assert [method.method for method in methods_of(settings, comparing=False)] == ["el2n"]
    assert [method.method for method in methods_of(config(), comparing=True)] == ["selfilter"]


# Which stages there are, and what a change costs


def keys(folder, inputs=INPUTS, **sections):
    settings = config(**sections)
    return StageKeys(settings, inputs, folder, wanted_by([settings.select], settings))


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def finish(folder, made, columns=("id",)):
    """What a run of these keys leaves."""
    for stage in made.needed():
        for name in OUTPUTS[stage]:
            shard = {"key": made[stage], "rows": 3, "seconds": 1.0, "model": "m"}
            text = json.dumps(shard) if name.endswith(".done.json") else ""
            atomic.write_text(folder.path / name, text)
        record = {"rows": 3, "out": 3, "models": {}, "columns": list(columns), "seconds": 1.0}
        record["counts"] = {"in": 3, "out": 3, "quarantined": {}}
        record["seed_set"] = made.wanted.seed_set
        made.finish(stage, record, {"seed": 0})


def unfinished(made):
    return [stage for stage in made.needed() if not made.is_finished(stage)]


@pytest.mark.parametrize(
    ("sections", "left_out"),
    [
        ({}, {"rate"}),
        ({"ratings": {"judges": [judge()]}}, {"rate"}),
        (
            {
                "ratings": {"judges": [judge()]},
                "train": SCORES | {"score_columns": ["judge_quality"]},
            },
            set(),
        ),
        ({"select": "semdedup"}, {"rate", "train"}),
        ({"select": "judge", "ratings": {"judges": [judge()]}}, {"train"}),
        ({"select": {"method": "el2n", "model": "tuned"}}, {"rate"}),
    ],
)
def test_stages_that_make_nothing_wanted_are_left_out(folder, sections, left_out):
    assert keys(folder, **sections).needed() == [s for s in STAGES if s not in left_out]
    assert keys(folder, **sections).needed(("train",)) == ([] if "train" in left_out else ["train"])


def test_a_stage_does_not_wait_for_those_that_are_left_out(folder):
    made = keys(folder, select="semdedup")
    finish(folder, made)
    assert set(folder.manifest()["stages"]) == {"read", "featurize", "score", "select", "report"}
    made.require_before("report")
    with pytest.raises(ConfigError, match="score needs train"):
        keys(folder).require_before("score")


def test_a_rater_that_is_added_costs_neither_features_nor_training(folder):
    finish(folder, keys(folder), ["id", "difficulty"])
    added = keys(folder, ratings={"judges": [judge()]})
    assert unfinished(added) == ["score", "select", "report"]
    added.refuse_loss(STAGES, redo=False)


def test_training_of_other_settings_is_kept_where_no_method_needs_any(folder):
    finish(folder, keys(folder), ["id", "difficulty"])
    other = keys(folder, select="semdedup", train={"epochs": 9})
    other.refuse_loss(other.asked(STAGES), redo=False)
    finish(folder, other)
    assert keys(folder).is_finished("train")
    with pytest.raises(ConfigError, match="finished train of other settings"):
        keys(folder, train={"epochs": 9}).refuse_loss(STAGES, redo=False)


def test_another_seed_set_is_drawn_for_another_budget(folder):
    method = {"method": "mllm_selector", "ratio": 0.2}
    columns = ["id", "seed_member", "seed_loss"]
    finish(folder, keys(folder, select=method), columns)
    assert keys(folder, select=method).is_finished("score")
    assert keys(folder, select="random").is_finished("score")
    assert not keys(folder, select=method | {"ratio": 0.05}).is_finished("score")
    assert not keys(folder, select=method | {"seed_ratio": 0.1}).is_finished("score")


def test_a_comparison_of_all_methods_wants_every_rating():
    raters = {"ratings": {"judges": [judge()]}}
    assert not wanted("selfilter", **raters).ratings
    all_methods = wanted_by([parse_method("selfilter")], config(**raters), comparing=True)
    assert all_methods.ratings and "judge_quality" in all_methods.columns


def test_a_rating_that_the_score_net_sees_is_part_of_the_training(folder):
    columns = ["judge_quality"]
    sees = SCORES | {"score_columns": columns}
    finish(folder, keys(folder, train=sees, ratings={"judges": [judge()]}), ["id", "difficulty"])
    again = keys(folder, train=sees, ratings={"judges": [judge(concurrency=2)]})
    assert unfinished(again) == []
    other = keys(folder, train=sees, ratings={"judges": [judge(temperature=1.0)]})
    assert unfinished(other) == ["rate", "train", "score", "select", "report"]
    with pytest.raises(ConfigError, match="finished train of other settings"):
        other.refuse_loss(STAGES, redo=False)


def test_scores_are_finished_when_they_hold_what_is_wanted(folder):
    made = keys(folder, select="el2n")
    finish(folder, made, ["id", "pre_el2n", "pre_loss"])
    assert made.is_finished("score")
    assert keys(folder, select="loss").is_finished("score")
    assert keys(folder, select="random").is_finished("score")
    assert not keys(folder, select="ifd").is_finished("score")
    assert not keys(folder, select="selfilter").is_finished("score")


@pytest.mark.parametrize(
    "sections",
    [
        {"measure": {"batch_size": 3}},
        {"seed_model": {"epochs": 2}},
        {"coido_model": {"clusters": 3}},
    ],
    ids=str,
)
def test_settings_of_the_models_beside_stage_1_reach_the_scores_alone(folder, sections):
    before, after = keys(folder), keys(folder, **sections)
    assert [stage for stage in STAGES if before[stage] != after[stage]] == [
        "score",
        "select",
        "report",
    ]


def test_actors_of_the_scoring_pass_and_of_image_reward_cost_nothing(folder):
    few, many = ({"measure": {"actors": n}, "ratings": {"image_reward": REWARD | {"actors": n}}}
                 for n in (1, 4))  # fmt: skip
    before, after = keys(folder, **few), keys(folder, **many)
    assert all(before[stage] == after[stage] for stage in STAGES)


# What a method costs

PARTS = {
    "score net": 1.0,
    "pre model's pass": 2.0,
    "seed model": 4.0,
    "seed model's pass": 8.0,
    "tuned model's pass": 16.0,
    "CoIDO's scorer": 32.0,
}


def costs(folder, method, train_parts=None, **sections):
    stages = {"featurize": 100.0, "train": 200.0, "rate": 400.0, "score": 63.0}
    records = {name: {"key": "k", "seconds": seconds} for name, seconds in stages.items()}
    records["score"]["parts"] = PARTS
    records["train"] |= train_parts or {}
    made_under = config(**sections).model_dump(mode="json")
    folder.save_manifest({"format": 1, "stages": records, "config": made_under})
    for number in range(2):
        record = ShardRecord("k", 1, 50.0, "m")
        finish_shard(folder.features, Shard(number, number, number + 1), pa.table({}), record)
    settings = parse_method(method)
    return costs_of([Entry("one", settings.method, settings)], folder)["one"]


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        ("random", {}),
        ("semdedup", {"features": 100.0}),
        ("clip_score", {"features": 100.0}),
        ("selfilter", {"features": 100.0, "Stage 1": 201.0}),
        ("judge", {"ratings": 400.0}),
        ("el2n", {"pre model's pass": 2.0}),
        ("d2", {"features": 100.0, "pre model's pass": 2.0}),
        (
            {"method": "loss", "model": "tuned"},
            {"features": 100.0, "Stage 1": 201.0, "tuned model's pass": 16.0},
        ),
        ("mllm_selector", {"seed model": 4.0, "seed model's pass": 8.0}),
        (
            {"method": "mllm_selector", "necessity": "gain"},
            {"seed model": 4.0, "seed model's pass": 8.0, "pre model's pass": 2.0},
        ),
        ("coido", {"features": 100.0, "CoIDO's scorer": 32.0}),
    ],
)
def test_a_method_costs_what_it_reads(folder, method, cost):
    assert costs(folder, method) == cost


def test_stored_losses_are_a_cost_of_their_own(folder):
    parts = {"parts": {"stored losses": 50.0, "net": 3.0}}
    stored = {"train": {"losses": "stored"}}
    found = costs(folder, "selfilter", parts, **stored)
    assert found == {"features": 100.0, "stored losses": 50.0, "Stage 1": 4.0}


def test_lengths_of_a_part_of_the_pool_are_measured_when_a_method_needs_them(folder):
    part = {"train": {"pool_fraction": 0.5}}
    made = keys(folder, **part)
    finish(folder, made, ["id", "difficulty", "train_loss"])
    assert made.is_finished("score")
    lengths = keys(folder, **part, select={"method": "random", "kind": "length_matched"})
    assert not lengths.is_finished("score")
    assert lengths.wanted.models == ("pre",)


def test_ratings_that_a_net_sees_are_part_of_its_cost(folder):
    rated = {"ratings": RATERS, "train": SCORES}
    assert costs(folder, "selfilter", **rated)["ratings"] == 400.0
    assert "ratings" not in costs(folder, "coido", **rated)
    assert costs(folder, "coido", **rated, coido_model={"inputs": "both"})["ratings"] == 400.0
    assert "ratings" not in costs(folder, "selfilter", ratings=RATERS)


# Settings that would fail after hours


@pytest.mark.parametrize(
    ("method", "sections", "named"),
    [
        ("selfilter", {"train": {"objective": "plain"}}, r"train\.objective is plain"),
        ("selfilter", {"train": {"objective": "coido"}}, r"train\.objective is coido"),
        ("coido", {"coido_model": {"inputs": "both"}}, "wants image_reward, judge_quality"),
        (
            {"method": "loss", "model": "tuned"},
            {"train": {"save_vlm": False}},
            r"train\.save_vlm: true",
        ),
    ],
)
def test_what_could_not_end_well_is_refused_before_it_starts(method, sections, named):
    with pytest.raises(ConfigError, match=named):
        wanted(method, **sections)
    wanted("semdedup", **sections)  # which does not need it
