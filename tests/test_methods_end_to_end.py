"""Self-Filter on ratings, then many methods compared in its folder, with real models and servers.

The pool is 40 records with two kinds of pictures. CLIP and ImageReward have random weights, the VLM
is a LLaVA of a few thousand parameters, the judge a server on loopback.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from image_reward_reference import MED, WORDS, med_config, random_state
from judge_server import says, serving
from PIL import Image
from run_folders import featurized_copy
from stage1_pool import TINY_VLM

from selfilter_ray import load_scorer, tune
from selfilter_ray.cli import main
from selfilter_ray.compare.files import read_comparison
from selfilter_ray.errors import ConfigError
from selfilter_ray.pipeline import run
from selfilter_ray.stage1.score_net import load_score_net

pytest.importorskip("open_clip", reason="needs CLIP's towers (extra clip)")
pytest.importorskip("openai", reason="needs the judge's client (extra judge)")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

RECORDS, TEXT_ONLY, PICKS, TRAINED = 40, 4, 10, 32
RATINGS = ["clip_score", "image_reward", "judge_quality"]
METHODS = [
    *("selfilter", "random", "el2n", "grand", "ifd", "visual_gain", "clip_score", "image_reward"),
    *("judge", "prototypicality", "semdedup", "d2", "coincide", "coido", "mllm_selector"),
    "selfilter_grouped",
    {"method": "loss", "model": "tuned", "label": "tuned loss"},
]
SEEDS = [0, 1]


@pytest.fixture(scope="module")
def pool_file(tmp_path_factory):
    """40 records of two sources; four of them have no picture."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows = []
    for number in range(RECORDS):
        colour = ("red", "green", "blue", "grey")[number % 4]
        question, answer = (
            f"what is number {number}?",
            f"a {colour} cat" + " and a dog" * (number % 5),
        )
        record = {"id": f"r{number:02}", "source": f"s{number % 2}"}
        if number % 10 != 3:
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            pixels[..., number % 3] = 255
            Image.fromarray(pixels).save(folder / f"{number}.png")
            record["image"], question = f"{number}.png", f"<image>\n{question}"
        record["conversations"] = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": answer},
        ]
        rows.append(record)
    (folder / "pool.json").write_text(json.dumps(rows))
    return folder / "pool.json"


@pytest.fixture(scope="module")
def image_reward(tmp_path_factory):
    """The section of an ImageReward in the public layout."""
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(random_state(), folder / "ImageReward.pt")
    (folder / MED).write_text(json.dumps(med_config()))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    weights, config = str(folder / "ImageReward.pt"), str(folder / MED)
    return {"weights": weights, "config": config, "tokenizer": str(folder)}


@pytest.fixture(scope="module")
def judge():
    """A judge that likes long answers."""
    with serving(lambda asked: says(f"{len(asked.text) % 11}\nit is so")) as server:
        yield server


@pytest.fixture(scope="module")
def settings(tmp_path_factory, pool_file, image_reward, judge):
    """The Scores setting, an MLP, part of the pool; nothing has run yet."""
    judging = {"base_url": judge.url, "model": "judge", "backoff_seconds": 0.01}
    return {
        "run_dir": str(tmp_path_factory.mktemp("runs") / "scores"),
        "data": {"inputs": [str(pool_file)]},
        "featurize": {
            "embedder": {"name": "open_clip", "architecture": "ViT-S-32-alt", "pretrained": None},
            "batch_size": 8,
            "shard_rows": 20,
        },
        "ratings": {"image_reward": image_reward, "judges": [judging]},
        "train": {
            "vlm": TINY_VLM,
            "prompt": "plain",
            "inputs": "scores",
            "score_net_hidden": [4],
            "pool_fraction": TRAINED / RECORDS,
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "bf16": False,
            "gradient_checkpointing": False,
        },
        "measure": {"shard_rows": 20, "batch_size": 4},
        "select": {"ratio": PICKS / RECORDS},
        "compare": {"methods": METHODS, "seeds": SEEDS},
        "coido_model": {"clusters": 4, "hidden": [8], "pool_fraction": 0.5, "inputs": "both"},
    }


@pytest.fixture(scope="module")
def scored(ray_cluster, settings):
    """A finished run in the Scores setting: its folder and manifest."""
    manifest = run(settings)
    return Path(settings["run_dir"]), manifest


@pytest.fixture(scope="module")
def compared(scored, settings, judge, tmp_path_factory):
    """The comparison in the folder of that run: what was there before, what the command printed."""
    folder, _ = scored
    asked, before = len(judge.asked), moments(folder)
    output = command(tmp_path_factory, "compare", settings)
    assert len(judge.asked) == asked
    return folder, before, output


def command(tmp_path_factory, name, settings, *more):
    """Standard output of a command in this process, which must end well."""
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        said = Said()
        patch.setattr(sys, "argv", ["selfilter-ray", name, str(file), *more])
        patch.setattr(sys, "stdout", said)
        patch.setenv("COLUMNS", "150")
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return said.text


class Said:
    """Keeps what is written to it: a module's fixtures cannot use capsys."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False


def moments(folder):
    """When each file of finished work was written."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in {".parquet", ".safetensors", ".json", ".jsonl"}
    }


def unchanged(before, after, *parts):
    """Whether the files below some folders of the run are those that were there."""
    below = {path: time for path, time in before.items() if set(parts) & set(path.parts)}
    assert below
    return below == {p: time for p, time in after.items() if set(parts) & set(p.parts)}


# The Scores setting


def test_the_score_net_sees_three_scaled_ratings(scored):
    folder, manifest = scored
    net, metadata = load_score_net(folder / "stage1" / "score_net.safetensors")
    assert (net.features, [len(layer.weight) for layer in net.hidden]) == (3, [4])
    assert metadata["inputs"] == "scores"
    assert metadata["scaling"]["columns"] == RATINGS
    assert net.linear.weight.abs().max() > 0
    scores = pq.read_table(folder / "scores.parquet")
    scaling = metadata["scaling"]
    for place, name in enumerate(RATINGS):
        values = [value for value in scores[name].to_pylist() if value is not None]
        assert scaling["low"][place] == pytest.approx(min(values))
        assert scaling["high"][place] == pytest.approx(max(values))
        assert scaling["low"][place] < scaling["high"][place]
    assert list(manifest["stages"]) == (
        ["read", "featurize", "rate", "train", "score", "select", "report"]
    )


def test_a_run_on_ratings_leaves_its_columns_and_as_many_records_as_asked(scored, judge):
    folder, manifest = scored
    scores = pq.read_table(folder / "scores.parquet")
    wanted = {"id", "weight", "difficulty", "train_loss", "answer_tokens", *RATINGS}
    assert set(scores.column_names) == wanted
    assert scores["clip_score"].null_count == scores["image_reward"].null_count == TEXT_ONLY
    assert scores["judge_quality"].null_count == scores["difficulty"].null_count == 0
    assert manifest["stages"]["rate"]["not_rated"] == {"image_reward": 4, "judge_quality": 0}
    assert len(judge.asked) == RECORDS
    assert scores["train_loss"].null_count == RECORDS - TRAINED
    assert manifest["stages"]["train"]["trained_on"] == TRAINED
    ids = (folder / "selected.ids").read_text().splitlines()
    assert len(set(ids)) == len(ids) == PICKS
    hardest = np.argmax(scores["difficulty"].to_numpy())
    assert ids[0] == scores["id"][hardest].as_py()


def test_running_it_again_does_nothing_and_asks_nobody(scored, settings, judge):
    folder, manifest = scored
    before, asked = moments(folder), len(judge.asked)
    assert run(settings)["stages"] == manifest["stages"]
    assert moments(folder) == before
    assert len(judge.asked) == asked


def test_a_scorer_of_features_alone_refuses_a_net_that_sees_ratings(scored):
    with pytest.raises(ConfigError, match=r"train\.inputs"):
        load_scorer(scored[0], device="cpu")


# The comparison


def test_every_method_selects_under_every_seed(compared):
    folder, _, output = compared
    comparison = read_comparison(folder)
    labels = [method if isinstance(method, str) else method["label"] for method in METHODS]
    assert comparison.failures == []
    assert [method.label for method in comparison.methods] == labels
    assert all([run.seed for run in method.runs] == SEEDS for method in comparison.methods)
    assert comparison.budget == PICKS
    assert (folder / "compare.html").read_text().count("tuned loss") > 1
    assert f"comparison: {folder / 'compare.html'}" in output
    for label in labels:
        assert label in output


def test_a_comparison_says_what_each_method_cost_before_it_could_select(compared):
    methods = {method.label: method.cost for method in read_comparison(compared[0]).methods}
    parts = {label: set(cost) for label, cost in methods.items()}
    assert parts["random"] == set()
    assert parts["semdedup"] == {"features"}
    assert parts["selfilter"] == {"features", "Stage 1", "ratings"}
    assert parts["judge"] == parts["image_reward"] == {"ratings"}
    assert parts["el2n"] == parts["grand"] == {"pre model's pass"}
    assert parts["tuned loss"] == {"features", "ratings", "Stage 1", "tuned model's pass"}
    assert parts["mllm_selector"] == {"seed model", "seed model's pass"}
    assert parts["coido"] == {"features", "ratings", "CoIDO's scorer"}
    assert parts["d2"] == {"features", "pre model's pass"}
    assert all(seconds > 0 for cost in methods.values() for seconds in cost.values())


def test_a_comparison_leaves_finished_features_and_training_as_they_were(compared, scored):
    folder, before, _ = compared
    assert unchanged(before, moments(folder), "features", "stage1", "ratings", "samples")
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    for stage in ("read", "featurize", "rate", "train"):
        assert stages[stage] == scored[1]["stages"][stage]


def test_the_seed_set_is_part_of_what_mllm_selector_picks(compared):
    folder = compared[0]
    scores = pq.read_table(folder / "scores.parquet").to_pydict()
    members = {id for id, is_in in zip(scores["id"], scores["seed_member"], strict=True) if is_in}
    assert len(members) == round(0.05 * RECORDS)
    picks = pq.read_table(folder / "comparison_picks.parquet").to_pylist()
    for seed in SEEDS:
        rows = [row for row in picks if row["label"] == "mllm_selector" and row["seed"] == seed]
        assert {row["id"] for row in rows} >= members
        assert len(rows) == PICKS


def test_each_model_says_something_else_of_the_samples(compared):
    scores = pq.read_table(compared[0] / "scores.parquet")
    losses = {model: scores[f"{model}_loss"].to_numpy() for model in ("pre", "seed", "tuned")}
    assert all(np.isfinite(loss_N).all() for loss_N in losses.values())
    assert losses["tuned"].mean() < losses["seed"].mean() < losses["pre"].mean()


def test_comparing_again_makes_nothing_but_the_selections(
    compared, settings, judge, tmp_path_factory
):
    folder = compared[0]
    before, asked = moments(folder), len(judge.asked)
    command(tmp_path_factory, "compare", settings)
    after = moments(folder)
    again = {path.name for path in after if after[path] != before.get(path)}
    assert again == {"comparison.json", "comparison_picks.parquet"}
    assert len(judge.asked) == asked


def test_another_method_in_the_folder_needs_no_further_pass(compared, settings):
    folder = compared[0]
    before = moments(folder)
    run(settings | {"select": {"method": "el2n", "budget": 5}})
    assert unchanged(before, moments(folder), "features", "stage1", "measured", "scores.parquet")
    ids = (folder / "selected.ids").read_text().splitlines()
    scores = pq.read_table(folder / "scores.parquet").sort_by([("pre_el2n", "descending")])
    assert set(ids) == set(scores["id"].to_pylist()[:5])
    page = (folder / "report.html").read_text()
    assert "5 of 40 records chosen (12.5 %) by EL2N, mean difficulty" in page
    assert "Hardest records" in page


# Without Stage 1


@pytest.fixture
def featurized(scored, tmp_path):
    """A folder as the command featurize leaves it."""
    return featurized_copy(scored[0], tmp_path / "run")


def test_a_method_without_stage_1_selects_and_reports(featurized, settings, tmp_path_factory):
    plain = {name: settings[name] for name in ("data", "featurize")} | {"run_dir": str(featurized)}
    output = command(tmp_path_factory, "select", plain, "--method", "semdedup")
    assert "train" not in output
    assert len((featurized / "selected.ids").read_text().splitlines()) == round(0.15 * RECORDS)
    assert not (featurized / "stage1").exists()
    method = {"select": {"method": "semdedup"}}
    output = command(tmp_path_factory, "report", plain | method)
    assert f"report: {featurized / 'report.html'}" in output
    page = (featurized / "report.html").read_text()
    assert "6 of 40 records chosen (15.0 %) by SemDeDup without Stage 1." in page
    assert page.count('class="card is-chosen"') == 6
    assert "ifficulty" not in page.split("<main>")[1].split('id="origin"')[0]


# A frozen VLM, and from the pool to the tuned model


@pytest.fixture(scope="module")
def tuned(scored, settings, tmp_path_factory):
    """Stage 1 from stored losses of a small VLM, and a wider one tuned on what was chosen."""
    folder = featurized_copy(scored[0], tmp_path_factory.mktemp("tuned") / "run")
    wider = {**TINY_VLM, "text": TINY_VLM["text"] | {"hidden_size": 24}}
    plain = {name: settings[name] for name in ("data", "featurize", "measure", "select")}
    plain |= {
        "run_dir": str(folder),
        "train": settings["train"]
        | {"inputs": "clip", "pool_fraction": 1.0, "losses": "stored", "loss_reduction": "mean"},
        "tune": {"vlm": wider, "epochs": 8},
    }
    manifest = run(plain)
    output = command(tmp_path_factory, "train", plain, "--objective", "plain")
    return folder, plain, manifest, output


def test_stored_losses_lead_to_a_selection_without_a_trained_vlm(tuned):
    folder, _, manifest, _ = tuned
    assert not (folder / "stage1" / "vlm").exists()
    assert {path.name for path in (folder / "measured").iterdir()} == {"losses"}
    scores = pq.read_table(folder / "scores.parquet")
    assert scores["train_loss"].null_count == 0
    assert len(set(scores["difficulty"].to_pylist())) > RECORDS / 2
    assert len((folder / "selected.ids").read_text().splitlines()) == PICKS
    assert set(manifest["stages"]["train"]["parts"]) == {"stored losses", "net"}
    assert "Stage 1" in (folder / "report.html").read_text()


def test_the_tuned_model_is_the_one_that_was_asked_for_and_has_learned(tuned):
    folder, _, _, output = tuned
    model = folder / "tuned" / "vlm"
    assert f"tuned on {PICKS} records: {model}" in output.replace("\n", "")
    assert json.loads((model / "config.json").read_text())["text_config"]["hidden_size"] == 24
    steps = [json.loads(line) for line in (folder / "tuned" / "metrics.jsonl").open()]
    assert sum(step["samples"] for step in steps) == 8 * PICKS
    assert steps[-1]["plain_loss"] < 0.9 * steps[0]["plain_loss"]
    record = json.loads((folder / "manifest.json").read_text())["tuned"]
    assert (record["on"], record["rows"]) == ("selection", PICKS)
    trained_on = pq.read_table(folder / "tuned" / "rows.parquet")["id"].to_pylist()
    assert trained_on == sorted((folder / "selected.ids").read_text().splitlines())


def test_tuning_again_does_nothing_and_another_selection_is_not_tuned_over_it(
    tuned, tmp_path_factory
):
    folder, plain, _, _ = tuned
    before = moments(folder / "tuned")
    assert tune(plain)["path"] == str(folder / "tuned" / "vlm")
    assert moments(folder / "tuned") == before
    other = plain | {"select": {"budget": PICKS - 1}}
    run(other)
    assert "tuned" not in json.loads((folder / "manifest.json").read_text())
    with pytest.raises(ConfigError, match=r"on other records.*--redo"):
        tune(other)
    run(plain)
    assert tune(plain)["key"] == json.loads((folder / "tuned" / "done.json").read_text())["key"]
    assert moments(folder / "tuned") == before
