"""The closed loop: what is tuned, what is not tuned again, and what the results amount to."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from rich.console import Console
from trained_pool import HELD, ROWS, another_process, make_config, make_run, record

from selfilter_ray.compare.comparison import compare
from selfilter_ray.compare.entries import entries_of
from selfilter_ray.compare.trained.cells import BLIND, FRESH, WHOLE
from selfilter_ray.compare.trained.files import TrainedFolder
from selfilter_ray.compare.trained.loop import TrainedLoop, check_inputs
from selfilter_ray.compare.trained.result import Missing, TrainedComparison, ranked
from selfilter_ray.compare.trained.settings import TrainedConfig, counts_of
from selfilter_ray.compare.trained.statistics import estimate
from selfilter_ray.compare.trained.terminal_table import print_trained
from selfilter_ray.compare.trained.tuner import Places, Work
from selfilter_ray.config import PretrainedVlm
from selfilter_ray.errors import ArtifactError, ConfigError, DataError
from selfilter_ray.known_truth.truth import TRUTH
from selfilter_ray.report.compare_page import write_compare_page
from selfilter_ray.samples.files import SCHEMA, read_samples, write_samples

CELLS = 2 * (3 * 2 + 3)  # seeds x (methods x budgets + yardsticks)
COSTS = {"hard": {"pre model's pass": 3.0}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    run, pool = make_run(folder)
    with another_process() as tuned:
        Alone.tuned = staticmethod(tuned)
        yield folder, run, pool


class Alone:
    """Works cells off one after the other, with a real tuner. ``broken``: labels that fail."""

    def __init__(self, config, broken=()):
        self.config, self.broken = config, broken
        self.seen = []

    def __call__(self, cells, models, steps, places, keep):
        failed = {}
        for cell in cells:
            self.seen.append((cell.label, cell.budget, cell.seed))
            if cell.label in self.broken:
                failed[cell.key] = "it broke"
                continue
            work = Work(cell.kind, cell.seed, steps.get(cell.budget), cell.ids, models[cell.seed])
            keep(cell, self.tuned(self.config, places, work))
        return failed


def loop_of(made, config, runner, told=None):
    _, run, pool = made
    entries = entries_of(config.compare.methods, pool)
    tell = (lambda cells: None) if told is None else told.append
    return TrainedLoop(config, run, pool, entries, "the pool's key", runner, tell)


@pytest.fixture(scope="module")
def compared(made):
    """A whole comparison, its runner, and what its progress was told."""
    config, told = make_config(made[0]), []
    runner = Alone(config)
    loop = loop_of(made, config, runner, told)
    assert loop.count() == CELLS
    return loop.compare(COSTS), runner, told


def test_every_method_budget_and_seed_has_a_model(compared):
    comparison, runner, told = compared
    assert sum(told) == CELLS and comparison.missing == []
    assert comparison.budgets == [6, 20] and comparison.steps == {6: 15, 20: 15, ROWS: 15}
    assert (comparison.rows, comparison.held_out, comparison.measure) == (ROWS, HELD, "accuracy")
    for label in ("random", "hard", "prototypicality"):
        for budget in comparison.budgets:
            outcome = comparison.outcome(label, budget)
            assert outcome.measures["token_loss"].seeds == 2
            assert outcome.tuning.mean > 0
            difference = outcome.to_random["token_loss"]
            assert difference.mean is None if label == "random" else difference.seeds == 2
    for label in (WHOLE, BLIND, FRESH):
        assert comparison.outcome(label).measures["accuracy"].seeds == 2
    # a seed's models all come before the next seed's
    assert [seed for _, _, seed in runner.seen] == sorted(seed for _, _, seed in runner.seen)


def test_tuning_teaches_and_pictures_tell(compared):
    comparison, _, _ = compared
    loss = {
        label: comparison.outcome(label).measures["token_loss"].mean for label in (WHOLE, FRESH)
    }
    assert loss[WHOLE] < 0.8 * loss[FRESH]
    groups = comparison.outcome(WHOLE).groups
    assert set(groups["by_source"]) == {"s0", "s1"} and set(groups["by_question_type"]) == {"color"}


def test_the_same_again_tunes_nothing_and_says_the_same(made, compared):
    comparison, _, _ = compared
    config = make_config(made[0])
    runner, told = Alone(config), []
    again = loop_of(made, config, runner, told).compare(COSTS)
    assert runner.seen == [] and sum(told) == CELLS
    seconds = {"selecting", "tuning"}
    for one, other in zip(again.outcomes, comparison.outcomes, strict=True):
        assert one.model_dump(exclude=seconds) == other.model_dump(exclude=seconds)


def test_a_model_tuned_again_is_the_same(made, compared, tmp_path):
    """Another process group, another folder: what a cell gives hangs on its key alone."""
    files = TrainedFolder(made[1].path)
    before = {file.name: json.loads(file.read_text()) for file in files.cells.glob("*.json")}
    kept = tmp_path / "cells"
    shutil.move(files.cells, kept)
    config = make_config(made[0])
    try:
        loop_of(made, config, Alone(config)).compare(COSTS)
        for name, result in before.items():
            now = json.loads((files.cells / name).read_text())
            assert now["evaluation"] == result["evaluation"] and now["loss"] == result["loss"]
    finally:
        shutil.rmtree(files.cells)
        shutil.move(kept, files.cells)


def test_a_damaged_result_is_made_again_and_one_that_fails_costs_only_itself(made, compared):
    comparison, _, _ = compared
    files = TrainedFolder(made[1].path)
    config = make_config(made[0])
    first = next(iter(sorted(files.cells.glob("*.json"))))
    text = first.read_text()
    first.write_text(text[: len(text) // 2])
    runner = Alone(config)
    loop_of(made, config, runner).compare(COSTS)
    assert len(runner.seen) == 1 and json.loads(first.read_text())["evaluation"]
    more = make_config(made[0], budgets=[6, 0.5, 9])
    found = loop_of(made, more, Alone(more, broken=("hard",))).compare(COSTS)
    assert {(m.label, m.budget, m.message) for m in found.missing} == {("hard", 9, "it broke")}
    assert {m.seed for m in found.missing} == {0, 1}
    assert found.outcome("hard", 9) is None and found.outcome("random", 9) is not None
    assert found.outcome("hard", 6).measures == comparison.outcome("hard", 6).measures


def test_a_method_that_cannot_select_is_missing_under_every_seed(made, compared):
    config = make_config(made[0])
    folder, run, pool = made
    lacking = pool.__class__(pool.ids, pool.sources, pool.features_ND, {})
    found = loop_of((folder, run, lacking), config, Alone(config)).compare({})
    assert {(m.label, m.budget, m.seed) for m in found.missing} == {
        ("hard", budget, seed) for budget in (6, 20) for seed in (0, 1)
    }


def test_the_best_go_on_to_further_budgets(made, compared):
    comparison, _, _ = compared
    config = make_config(made[0], leaders={"budgets": [0.7, 6], "methods": 1})
    runner = Alone(config)
    told = []
    loop = loop_of(made, config, runner, told)
    found = loop.compare(COSTS)
    assert sum(told) == loop.count() == CELLS + 2 * 2
    assert found.budgets == [6, 20, 28]
    assert {label for label, budget, _ in runner.seen if budget == 28} == {
        "random",
        max(
            ("hard", "prototypicality"),
            key=lambda label: (
                comparison.outcome(label, 20).measures["accuracy"].mean,
                -len(label),
            ),
        ),
    } and {budget for _, budget, _ in runner.seen} == {28}


def test_another_start_model_is_another_result(made, compared, tmp_path):
    """Under the same path, too."""
    folder = made[0]
    start = tmp_path / "start"
    fresh = sorted(TrainedFolder(made[1].path).fresh.iterdir())
    seen = []
    for model in fresh[:2]:
        shutil.rmtree(start, ignore_errors=True)
        shutil.copytree(model / "initial_vlm", start)
        config = make_config(folder, budgets=[6], blind=False)
        vlm = PretrainedVlm(path=str(start))
        config = config.model_copy(update={"train": config.train.model_copy(update={"vlm": vlm})})
        runner = Alone(config)
        loop_of(made, config, runner).compare({})
        seen.append(len(runner.seen))
    assert seen == [10, 10]


def test_own_steps_follow_the_number_of_records(made):
    config = make_config(made[0], steps="own", budgets=[6], blind=False)
    config = config.model_copy(
        update={"compare": config.compare.model_copy(update={"seeds": (0,)})}
    )
    found = loop_of(made, config, Alone(config)).compare({})
    assert found.steps == {6: 4, ROWS: 20}
    assert found.outcome(BLIND) is None
    assert found.outcome("random", 6).measures["accuracy"].half is None


def test_the_planted_among_the_picks_are_counted(made, compared):
    folder, _, pool = made
    kinds = ["wrong_answer" if row % 4 == 0 else "clean" for row in range(ROWS)]
    truth = pa.table([pool.ids.tolist(), kinds, [None] * ROWS], schema=TRUTH)
    pq.write_table(truth, folder / "truth.parquet")
    config = make_config(folder, truth=str(folder / "truth.parquet"))
    found = loop_of(made, config, Alone(config)).compare(COSTS)
    picks = pq.read_table(TrainedFolder(made[1].path).picks).to_pylist()
    planted = dict(zip(pool.ids.tolist(), kinds, strict=True))
    own = [p["id"] for p in picks if (p["label"], p["budget"], p["seed"]) == ("hard", 6, 0)]
    share = np.mean([planted[id] == "wrong_answer" for id in own])
    assert found.planted_in_pool == 0.25
    assert found.outcome("hard", 6).planted.mean == pytest.approx(share)
    assert found.outcome("hard", 6).precision.mean == pytest.approx(1 - share)
    assert found.outcome(WHOLE).planted.mean is None


def test_what_is_written_is_read_again_and_another_version_is_refused(made, compared):
    files = TrainedFolder(made[1].path)
    comparison, _, _ = compared
    files.write(comparison)
    assert files.read() == comparison
    with pytest.raises(ArtifactError, match="format 99"):
        TrainedComparison.from_json(comparison.to_json() | {"format": 99})
    with pytest.raises(ArtifactError, match="outcomes"):
        TrainedComparison.from_json(comparison.to_json() | {"outcomes": [{}]})
    with pytest.raises(ArtifactError, match="compare --train first"):
        TrainedFolder(made[0] / "nothing").read()


def test_held_out_records_must_be_there_and_be_others(made):
    with pytest.raises(ConfigError, match="held_out"):
        loop_of(made, c := make_config(made[0], held_out=[]), Alone(c)).compare({})
    again = [record(made[0], f"p{row:02d}") | {"id": f"again{row}"} for row in range(3)]
    (made[0] / "pool_again.json").write_text(json.dumps(again))
    config = make_config(made[0], held_out=[str(made[0] / "pool_again.json")])
    with pytest.raises(ConfigError, match=r"3 records of the pool, 'again0' first"):
        loop_of(made, config, Alone(config)).compare({})


def test_the_blind_see_nothing(made, compared):
    files = TrainedFolder(made[1].path)
    for folder, rows in ((files.blind_samples, ROWS), (files.blind_held_out, HELD)):
        table = read_samples(folder, ["images", "turns"])
        assert table.num_rows == rows and not any(table["images"].to_pylist())
        assert "<image>" not in str(table["turns"].to_pylist())
        assert "What colour?" in str(table["turns"].to_pylist())


def test_a_picture_that_cannot_be_read_fails_the_cell(made, compared, tmp_path):
    """Else models would be compared on different records, and that would be kept."""
    config, files = make_config(made[0]), TrainedFolder(made[1].path)
    held = read_samples(files.held_out, SCHEMA.names).to_pylist()
    held[3]["images"] = [str(tmp_path / "gone.png")]
    write_samples(tmp_path, pa.Table.from_pylist(held, schema=SCHEMA))
    places = Places(made[1].samples, tmp_path, files.blind_samples, files.blind_held_out)
    (model,) = list(files.fresh.glob("*/initial_vlm"))[:1]
    work = Work("fresh", 0, None, np.empty(0, object), str(model))
    with pytest.raises(DataError, match=r"of 12 held-out records could not be evaluated: 1 "):
        Alone.tuned(config, places, work)


def test_a_method_may_not_be_named_as_a_yardstick(made):
    config = make_config(made[0])
    methods = [{"method": "random", "kind": "stratified", "label": WHOLE}]
    config = config.model_copy(
        update={"compare": config.compare.model_copy(update={"methods": methods})}
    )
    with pytest.raises(ConfigError, match="means something else"):
        loop_of(made, config, Alone(config))


@pytest.mark.parametrize("columns", [None, {"id": ["p00"], "kind": ["clean"]}])
def test_a_truth_that_is_none_is_refused_before_anything_is_tuned(made, columns):
    file = made[0] / "no_truth.parquet"
    file.unlink(missing_ok=True)
    if columns is not None:
        pq.write_table(pa.table(columns), file)
    config = make_config(made[0], truth=str(file))
    runner = Alone(config)
    with pytest.raises(ConfigError, match=r"compare\.train\.truth"):
        loop_of(made, config, runner).compare({})
    with pytest.raises(ConfigError, match=r"compare\.train\.truth"):
        check_inputs(config)
    assert runner.seen == []


def test_a_seed_that_is_missing_lifts_no_method(compared):
    """By the differences to random over the seeds that both have."""
    comparison, _, _ = compared
    place = next(n for n, o in enumerate(comparison.outcomes) if (o.label, o.budget) == ("hard", 6))
    outcomes = list(comparison.outcomes)
    lucky = {"accuracy": estimate([0.99]), "token_loss": estimate([0.1])}
    behind = {name: estimate([-0.5]) for name in lucky}
    outcomes[place] = outcomes[place].model_copy(update={"measures": lucky, "to_random": behind})
    standing = ranked(comparison.model_copy(update={"outcomes": outcomes}), 6)
    assert standing[-1].label == "hard"
    text = io.StringIO()
    print_trained(
        Console(file=text, width=100), comparison.model_copy(update={"outcomes": outcomes})
    )
    assert "hard (1 seed)" in text.getvalue()


def test_when_every_cell_fails_it_says_why(made, tmp_path):
    config = make_config(made[0], evaluate={"short_tokens": 3})  # other keys
    labels = ("random", "hard", "prototypicality", WHOLE, BLIND, FRESH)
    with pytest.raises(DataError, match="First: it broke"):
        loop_of(made, config, Alone(config, broken=labels)).compare({})


@pytest.mark.parametrize(
    "section",
    [
        {"budgets": []},
        {"budgets": [0]},
        {"budgets": [1.5]},
        {"budgets": [5, 5]},
        {"steps": 0},
        {"steps": "all"},
        {"leaders": {"methods": 0}},
        {"runner": "threads"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(section):
    with pytest.raises(ValidationError):
        TrainedConfig.model_validate(section)


def test_budgets_are_numbers_or_shares():
    assert counts_of((0.05, 7, 1.0, 0.07), 100) == [5, 7, 100]
    for budget in (101, 0.001):
        with pytest.raises(ConfigError, match="budgets"):
            counts_of((budget,), 100)


def test_the_page_and_the_terminal_show_it(made, compared):
    comparison, _, _ = compared
    folder, run, pool = made
    config = make_config(folder)
    picked = compare(pool, entries_of(config.compare.methods, pool), (0, 1), 6)
    bad = Missing(label="<b>bad</b>", budget=6, seed=1, message="a <script> fault")
    comparison = comparison.model_copy(update={"missing": [bad]})
    page = write_compare_page(run, picked, None, comparison).read_text()
    assert 'id="trained"' in page and "What they teach" in page
    assert "&lt;b&gt;bad&lt;/b&gt;" in page and "a &lt;script&gt; fault" in page
    assert "<script> fault" not in page
    assert WHOLE in page and page.count('class="mark') >= 6
    text = io.StringIO()
    print_trained(Console(file=text, width=100), comparison)
    shown = text.getvalue()
    assert "Tuned on 6 of 40 records, 15 steps, 2 seeds" in shown
    assert "Failed: <b>bad</b>, 6, seed 1: a <script> fault" in shown
    assert f"{WHOLE} " in shown and f"{FRESH} " in shown
    assert 'id="trained"' not in write_compare_page(run, picked).read_text()
