"""A wrong config is refused with the key that is wrong and, where there is one, the right key."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from selfilter_ray.config import (
    BundledConfig,
    DataConfig,
    FeaturizeConfig,
    TrainConfig,
    load_config,
    parse_config,
)
from selfilter_ray.errors import ConfigError
from selfilter_ray.select.settings import SelfilterSettings, parse_method
from selfilter_ray.strict import Strict

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(file for file in FOLDER.rglob("*.yaml") if file.name != "serve.yaml")
ASSEMBLED = {"kind": "assembled", "language_model": "m"}
YAML = "run_dir: r\ndata: {inputs: [a.json]}\n"


def tree(**sections: Any) -> dict[str, Any]:
    return {"run_dir": "r", "data": {"inputs": ["a.json"]}, **sections}


def problem(source: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_the_smallest_config_is_an_output_and_an_input():
    config = load_config(tree())
    assert config.run_dir == "r"
    assert config.data.inputs == ["a.json"]
    assert config.select.count(1000) == 150


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_config_that_is_delivered_loads_and_survives_a_round_trip(file, monkeypatch):
    for name in re.findall(r"\$\{(\w+)", file.read_text(encoding="utf-8")):
        monkeypatch.setenv(name, "/data/value")
    config = load_config(file)
    assert parse_config(config.model_dump(mode="json")) == config
    assert load_config(config) == config


def test_there_are_configs_to_load():
    assert "quickstart.yaml" in {file.name for file in CONFIGS}


# Wrong keys


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"sed": 1}, "sed: unknown key. Did you mean seed?"),
        ({"select": {"ratoi": 0.1}}, "select.ratoi: unknown key. Did you mean ratio?"),
        ({"ratio": 0.1}, "ratio: unknown key. Did you mean select.ratio?"),
        ({"select": {"epochs": 1}}, "select.epochs: unknown key. Did you mean train.epochs?"),
        (
            {"ray": {"zzz": 1}},
            "ray.zzz: unknown key. Known here: address, num_cpus.",
        ),
        (
            {"data": {"inputs": ["a"], "limits": {"image_pixel": 1}}},
            "data.limits.image_pixel: unknown key. Did you mean image_pixels?",
        ),
        (
            {"featurize": {"embedder": {"name": "bundled", "image_siz": 64}}},
            "featurize.embedder.image_siz: unknown key. Did you mean image_size?",
        ),
        (
            {"featurize": {"embedder": {"name": "open_clip", "architectur": "x"}}},
            "featurize.embedder.architectur: unknown key. Did you mean architecture?",
        ),
        (
            {"train": {"vlm": {"kind": "scratch", "visoin": {}}}},
            "train.vlm.visoin: unknown key. Did you mean vision?",
        ),
        (
            {"train": {"vlm": {"kind": "scratch", "text": {"layer": 1}}}},
            "train.vlm.text.layer: unknown key. Did you mean layers?",
        ),
        (
            {"train": {"vlm": ASSEMBLED | {"vision": {"layer": 2}}}},
            "train.vlm.vision.layer: unknown key. Did you mean layers?",
        ),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_the_nearest_right_one(sections, line):
    assert line in problem(tree(**sections)).splitlines()[1:][-1]


def test_every_wrong_key_is_named_at_once():
    message = problem({"sed": 1, "data": {"input": ["a"]}, "select": {"gama": 1}})
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == [
        "run_dir",
        "data.inputs",
        "data.input",
        "select.gama",
        "sed",
    ]
    assert "run_dir: missing, it must be given." in message


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"seed": "x"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"run_dir": 7}, "run_dir"),
        ({"data": None}, "data"),
        ({"data": []}, "data"),
        ({"data": {"inputs": []}}, "data.inputs"),
        ({"data": {"inputs": "a.json"}}, "data.inputs"),
        ({"data": {"inputs": ["a", 7]}}, "data.inputs.1"),
        ({"data": {"inputs": ["a"], "limit": 0}}, "data.limit"),
        ({"data": {"inputs": ["a"], "limits": {"turns": 0}}}, "data.limits.turns"),
        ({"data": {"inputs": ["a"], "limits": {"image_aspect_ratio": 0.5}}},
         "data.limits.image_aspect_ratio"),
        ({"select": {"budget": -1}}, "select.budget"),
        ({"select": {"budget": 2.5}}, "select.budget"),
        ({"select": {"budget": "many"}}, "select.budget"),
        ({"select": {"ratio": 1.5}}, "select.ratio"),
        ({"select": {"ratio": -0.1}}, "select.ratio"),
        ({"select": {"ratio": "15 %"}}, "select.ratio"),
        ({"select": {"ratio": float("nan")}}, "select.ratio"),
        ({"select": {"gamma": float("nan")}}, "select.gamma"),
        ({"select": {"gamma": float("inf")}}, "select.gamma"),
        ({"select": {"method": "randm"}}, "select"),
        ({"select": {"budget": 5, "ratio": 0.5}}, "select"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate"),
        ({"train": {"learning_rate": "1e-3x"}}, "train.learning_rate"),
        ({"train": {"zero_stage": 4}}, "train.zero_stage"),
        ({"train": {"bf16": "maybe"}}, "train.bf16"),
        ({"train": {"vlm": {"kind": "assembled"}}}, "train.vlm.language_model"),
        ({"train": {"vlm": {"kind": "other"}}}, "train.vlm"),
        ({"train": {"vlm": {}}}, "train.vlm"),
        ({"train": {"vlm": "llava"}}, "train.vlm"),
        ({"train": {"vlm": {"kind": "scratch", "vision": {"image_size": 10}}}}, "train.vlm.vision"),
        ({"train": {"vlm": {"kind": "scratch", "vision": {"heads": 7}}}}, "train.vlm.vision"),
        ({"train": {"vlm": {"kind": "scratch", "text": {"heads": 7}}}}, "train.vlm.text"),
        ({"featurize": {"embedder": {"name": "clip"}}}, "featurize.embedder"),
        ({"featurize": {"actors": 0}}, "featurize.actors"),
        ({"featurize": {"actors": [2]}}, "featurize.actors.1"),
        ({"featurize": {"actors": [3, 1]}}, "featurize"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_under_the_key_the_user_wrote(sections, key):
    lines = problem(tree(**sections)).splitlines()
    assert lines[0] == "config is not valid:"
    assert key in {line.strip().split(": ")[0] for line in lines[1:]}


@pytest.mark.parametrize("actors", [1, 4, [1, 4], [2, 2]])
def test_actors_are_a_number_or_a_range(actors):
    wanted = tuple(actors) if isinstance(actors, list) else actors
    assert load_config(tree(featurize={"actors": actors})).featurize.actors == wanted


def test_a_config_cannot_be_changed_once_it_is_checked():
    config = load_config(tree())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


# How many to select


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 15),
        ({"ratio": 0.0}, 0),
        ({"ratio": 1.0}, 100),
        ({"ratio": 0.333}, 33),
        ({"budget": 0}, 0),
        ({"budget": 100}, 100),
        ({"budget": 7}, 7),
    ],
)
def test_budget_or_ratio_say_how_many_records_to_keep(settings, count):
    assert SelfilterSettings(**settings).count(100) == count


def test_a_budget_past_the_usable_records_is_refused():
    with pytest.raises(ConfigError, match=r"select\.budget is 101, but only 100 records"):
        SelfilterSettings(budget=101).count(100)


def test_both_budget_and_ratio_are_refused():
    assert "give budget or ratio, not both" in problem(tree(select={"budget": 1, "ratio": 0.1}))


# Files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- a\n- b\n", "must be a mapping"),
        ("text", "must be a mapping"),
        ("run_dir: [unclosed", "is not YAML"),
        ("run_dir: a\n  data: b", "is not YAML"),
        ("\tx: 1", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("run_dir: \0", "is not YAML"),
        ("x: !!python/object:os.system {}", "is not YAML"),
        ("x: !!python/object/apply:os.mkdir [made]", "is not YAML"),
        ("x: !!python/name:os.system", "is not YAML"),
        ("x: !unknown 1", "is not YAML"),
        ("x: 2020-99-99", "is not YAML"),  # a date of a month that does not exist
        ("x: !!int ''", "is not YAML"),
        ("x: !!bool perhaps", "is not YAML"),
        ("x: !!timestamp now", "is not YAML"),
        ("? [a]\n: b", "is not YAML"),
        ("x: *nowhere", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("x: " + "[" * 800 + "]" * 800, "is not YAML"),
        ("x: " + "{a: " * 800, "is not YAML"),
        ("a: &a [*a]", "nested too deeply, or in itself"),
        ("a: &a {b: *a}", "nested too deeply, or in itself"),
        (b"run_dir: \xff", "is not UTF-8"),
        (YAML.encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused_and_named(tmp_path, text, message):
    file = written(tmp_path, text)
    said = problem(file)
    assert message in said
    assert str(file) in said
    assert list(tmp_path.iterdir()) == [file]


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.process_time()
    assert "check its aliases" in problem(written(tmp_path, "\n".join(lines)))
    assert time.process_time() - started < 5


def test_ordinary_aliases_and_merges_work(tmp_path):
    text = "run_dir: &r runs/a\ndata: &d {inputs: [*r]}\nray: {<<: {num_cpus: 3}}\n"
    config = load_config(written(tmp_path, text))
    assert config.data.inputs == ["runs/a"]
    assert config.ray.num_cpus == 3


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    assert "cannot be read: No such file" in problem(tmp_path / "missing.yaml")
    assert "cannot be read: Is a directory" in problem(tmp_path)


def test_a_key_that_is_no_text_is_refused(tmp_path):
    assert "config is not valid" in problem(written(tmp_path, YAML + "1: x\n"))
    assert "config is not valid" in problem(written(tmp_path, YAML + "null: x\n"))


# Environment


def test_variables_are_put_in_everywhere_and_numbers_are_still_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "/here")
    monkeypatch.setenv("LIMIT", "12")
    text = "run_dir: ${PLACE}/run\ndata: {inputs: ['${PLACE}/${PLACE}'], limit: '${LIMIT}'}\n"
    config = load_config(written(tmp_path, text))
    assert config.run_dir == "/here/run"
    assert config.data.inputs == ["/here//here"]
    assert config.data.limit == 12
    monkeypatch.setenv("LIMIT", "many")
    assert "data.limit" in problem(written(tmp_path, text))


@pytest.mark.parametrize(
    ("value", "result"), [(None, "other"), ("", "other"), ("set", "set"), ("${PLACE}", "${PLACE}")]
)
def test_a_default_stands_in_for_a_variable_that_is_missing_or_empty(
    tmp_path, monkeypatch, value, result
):
    monkeypatch.delenv("PLACE", raising=False)
    if value is not None:
        monkeypatch.setenv("PLACE", value)
    text = YAML.replace("run_dir: r", "run_dir: ${PLACE:-other}")
    assert load_config(written(tmp_path, text)).run_dir == result


def test_a_missing_variable_is_named_with_its_place(tmp_path, monkeypatch):
    monkeypatch.delenv("PLACE", raising=False)
    said = problem(written(tmp_path, "run_dir: r\ndata: {inputs: ['${PLACE}']}\n"))
    assert "data: inputs needs the environment variable PLACE" in said


@pytest.mark.parametrize("text", ["$HOME", "${}", "${1A}", "${A-b}", "$$", "${A:b}"])
def test_what_is_no_variable_stays_as_it_is(tmp_path, text):
    config = load_config(written(tmp_path, YAML.replace("run_dir: r", f"run_dir: '{text}'")))
    assert config.run_dir == text


# Overrides


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("seed=7", lambda c: c.seed, 7),
        (" seed =7", lambda c: c.seed, 7),
        ("run_dir=a=b", lambda c: c.run_dir, "a=b"),
        ("select.ratio=0.5", lambda c: c.select.ratio, 0.5),
        ("data.limits.turns=3", lambda c: c.data.limits.turns, 3),
        ("data.inputs=[a, b]", lambda c: c.data.inputs, ["a", "b"]),
        ("data.limit=null", lambda c: c.data.limit, None),
        ("data.limit=", lambda c: c.data.limit, None),
        ("featurize.embedder={name: bundled, image_size: 64}", lambda c: c.featurize.embedder,
         BundledConfig(image_size=64)),
        ("train.deepspeed.a.b=1", lambda c: c.train.deepspeed, {"a": {"b": 1}}),
        ("train.vlm.vision.layers=4", lambda c: c.train.vlm.vision.layers, 4),
    ],
)  # fmt: skip
def test_an_override_sets_one_value(override, get, value):
    source = tree(train={"vlm": {"kind": "scratch"}})
    assert get(load_config(source, [override])) == value
    assert get(load_config(parse_config(source), [override])) == value
    assert source == tree(train={"vlm": {"kind": "scratch"}})


def test_later_overrides_win_and_the_file_yields_to_them(tmp_path):
    file = written(tmp_path, YAML + "seed: 1\n")
    assert load_config(file, ["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "write it as key.subkey=value"),
        ("", "write it as key.subkey=value"),
        ("=1", "write it as key.subkey=value"),
        ("seed.x=1", "seed is a value, not a section"),
        ("data.inputs.0=b", "inputs is a value, not a section"),
        ("seed=[1", "the value is not YAML"),
        ("seed=2020-99-99", "the value is not YAML"),
        ("seed=" + "[" * 800, "the value is not YAML"),
        ("seed=!!python/name:os.system", "the value is not YAML"),
        ("select.ratoi=1", "Did you mean ratio?"),
        ("sel.ratio=1", "Did you mean select?"),
        ("seed=x", "seed: Input should be a valid integer"),
        (".=1", "unknown key"),
    ],
)
def test_a_wrong_override_is_refused(override, message):
    said = problem(tree(seed=1), override)
    assert message in said
    assert len(said) < 2000


# What a result depends on


def test_speed_settings_are_no_part_of_what_decides_the_result():
    fields = load_config(tree()).data.result_fields()
    assert "check_threads" not in fields
    assert fields["inputs"] == ["a.json"]
    assert fields["limits"]["turns"] == 256  # sections are told as plain values
    for section in (DataConfig, FeaturizeConfig, TrainConfig):
        assert section.speed_only
        assert section.speed_only < set(section.model_fields)


def test_sections_inside_sections_leave_out_their_own_speed_settings():
    class Inner(Strict):
        speed_only = frozenset({"fast"})
        fast: int = 1
        exact: int = 2

    class Outer(Strict):
        inner: Inner = Inner()

    assert Outer().result_fields() == {"inner": {"exact": 2}}


def preset(name="paper", **sections):
    return parse_config({"run_dir": "r", "data": {"inputs": ["a"]}, "preset": name, **sections})


def test_the_papers_preset_fills_in_what_the_config_does_not_say():
    config = preset(train={"epochs": 1}, select={"ratio": 0.05})
    train, select = config.train, config.select
    assert (train.loss_reduction, train.weight_scope) == ("sum", "device")
    assert (train.score_net_init, train.score_net_learning_rate) == ("uniform", None)
    assert (select.difficulty, select.gamma, select.k_nearest) == ("raw", 1.0, 10)
    assert (train.epochs, select.ratio) == (1, 0.05)
    assert preset(select={"difficulty": "shifted"}).select.difficulty == "shifted"
    assert parse_config(config.model_dump(mode="json")) == config


def test_the_recommended_preset_selects_by_the_grouped_draw():
    config = preset("recommended", select={"ratio": 0.05})
    assert config.select == parse_method({"method": "selfilter_grouped", "ratio": 0.05})
    assert preset("recommended", select={"alpha": 1.0}).select.alpha == 1.0
    assert preset("recommended", select="selfilter").select == parse_method("selfilter")
    assert parse_config(config.model_dump(mode="json")) == config


def test_a_preset_leaves_sections_of_another_kind_alone():
    assert preset(select="random").select == parse_method("random")
    assert preset(select={"method": "el2n", "ratio": 0.1}).select.ratio == 0.1
    assert preset(train={"objective": "plain"}).train.score_net_init == "zeros"
    with pytest.raises(ConfigError, match="preset"):
        parse_config({"run_dir": "r", "data": {"inputs": ["a"]}, "preset": "papers"})
