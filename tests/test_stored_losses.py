"""Stage 1 on part of the pool, and with a frozen VLM: the score net alone, from stored losses."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from run_folders import INPUTS, finish_stages, write_features

from selfilter_ray.config import TrainConfig, load_config
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.features.shards import Features, Shard, ShardRecord, finish_shard
from selfilter_ray.known import KnownSamples
from selfilter_ray.measure.table import SCHEMA, STATISTICS
from selfilter_ray.measuring import pass_before_tuning
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.scoring import net_scores
from selfilter_ray.stage1.agreement import NotFiniteError
from selfilter_ray.stage1.rows import part_of_pool
from selfilter_ray.stage1.score_net import ScoreNet, load_score_net
from selfilter_ray.stage1.statistics import SampleStatistics
from selfilter_ray.stage1.stored import StoredLosses, round_loss, train_from_losses
from selfilter_ray.stage1.summary import correlations
from selfilter_ray.stage1_run import run_stage1, trained_part
from selfilter_ray.stages import StageKeys
from selfilter_ray.wanted import wanted_by

ROWS, FEATURES = 40, 6
IDS = np.array([f"r{row:02d}" for row in range(ROWS)], dtype=object)
JUDGE = {"base_url": "http://host/v1", "model": "m"}


def config(run_dir="r", ratings=False, **train):
    sections = {"ratings": {"judges": [JUDGE]}} if ratings else {}
    settings = {"epochs": 30, "batch_size": 8, "learning_rate": 3e-2, **train}
    return load_config(
        {"run_dir": str(run_dir), "data": {"inputs": ["a.json"]}, "train": settings, **sections}
    )


# A part of the pool


@given(
    st.sets(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=30),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.integers(0, 5),
)
@hypothesis_settings(deadline=None, max_examples=50)
def test_a_larger_part_of_the_pool_contains_a_smaller_one(names, first, second, seed):
    ids = np.array(sorted(names), dtype=object)
    small, large = (part_of_pool(ids, f, seed).tolist() for f in sorted((first, second)))
    assert set(small) <= set(large)
    assert small == sorted(small)
    assert len(small) == max(1, round(min(first, second) * len(ids)))


def test_another_seed_takes_another_part():
    parts = {tuple(part_of_pool(IDS, 0.5, seed)) for seed in range(5)}
    assert len(parts) == 5


# The loss of a round


@st.composite
def rounds(draw):
    """Chunks of samples with logits and labels; some samples have no supervised token."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    return sizes, draw(st.integers(0, 2**31 - 1))


@given(rounds(), st.sampled_from(["sum", "mean"]), st.sampled_from(["device", "global"]))
@hypothesis_settings(deadline=None, max_examples=40)
def test_the_gradient_is_that_of_the_weighted_loss_over_logits(drawn, reduction, scope):
    sizes, seed = drawn
    random = torch.Generator().manual_seed(seed)
    samples, length, words = sum(sizes), 5, 7
    logits_BTV = torch.randn(samples, length, words, generator=random, dtype=torch.float64)
    labels_BT = torch.randint(0, words, (samples, length), generator=random)
    labels_BT[torch.rand(samples, length, generator=random) < 0.4] = -100
    features_MD = torch.randn(samples, 3, generator=random)
    nll_BT = torch.nn.functional.cross_entropy(
        logits_BTV.transpose(1, 2), labels_BT, ignore_index=-100, reduction="none"
    )
    tokens_B = (labels_BT != -100).sum(1).double()
    starts = np.cumsum([0, *sizes])
    chunks = [list(range(a, b)) for a, b in itertools.pairwise(starts)]

    net = ScoreNet(3, "uniform", (4,))
    train = TrainConfig(loss_reduction=reduction, weight_scope=scope)
    ours = round_loss(net, features_MD, StoredLosses(nll_BT.sum(1), tokens_B), chunks, train)
    found = torch.autograd.grad(ours, list(net.parameters()))

    parts = []
    for rows in [list(range(samples))] if scope == "global" else chunks:
        weight_B = torch.softmax(net(features_MD[rows]).double(), 0)
        if reduction == "sum":
            whole = (weight_B[:, None] * nll_BT[rows]).sum() * len(rows)
            parts.append(whole / tokens_B[rows].sum().clamp(min=1))
        else:
            mean_B = nll_BT[rows].sum(1) / tokens_B[rows].clamp(min=1)
            parts.append((weight_B * mean_B).sum())
    reference = torch.stack(parts).mean()
    assert ours.item() == pytest.approx(reference.item(), rel=1e-5, abs=1e-6)
    for value, expected in zip(
        found, torch.autograd.grad(reference, list(net.parameters())), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


# The training


def made_losses():
    """Losses that grow with the first feature; one sample has nothing supervised."""
    random = np.random.default_rng(0)
    features_ND = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    tokens_N = random.integers(3, 9, ROWS).astype(np.float64)
    tokens_N[7] = 0
    loss_N = np.exp(features_ND[:, 0].astype(np.float64)) * tokens_N
    clip_N = random.normal(size=ROWS).astype(np.float32)
    return Features(IDS, features_ND, clip_N), loss_N, tokens_N


def stored(loss_N, tokens_N):
    return StoredLosses(torch.from_numpy(loss_N), torch.from_numpy(tokens_N))


def trained(folder, **train):
    inputs, loss_N, tokens_N = made_losses()
    losses, settings = stored(loss_N, tokens_N), config(losses="stored", **train)
    summary = train_from_losses(settings, inputs, None, losses, folder, lambda steps: None)
    return summary, inputs, loss_N / np.maximum(tokens_N, 1)


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_samples_of_high_loss_become_difficult(hidden, reduction, tmp_path):
    summary, inputs, loss_N = trained(
        tmp_path, score_net_hidden=hidden, loss_reduction=reduction, workers=2, batch_size=4
    )
    difficulty_N = -net_scores(tmp_path / "score_net.safetensors", inputs, tmp_path / "none")
    assert np.corrcoef(difficulty_N, loss_N)[0, 1] > 0.7
    assert load_score_net(tmp_path / "score_net.safetensors")[1] == {
        "loss_reduction": reduction,
        "weight_scope": "device",
        "inputs": "clip",
        "scaling": None,
        "losses": "stored",
    }
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, summary["steps"] + 1))
    assert lines[-1]["epoch"] == 30.0
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert sum(line["samples"] for line in lines) == 30 * ROWS
    assert len({line["learning_rate"] for line in lines}) > 10


def test_stored_statistics_are_those_of_the_pass(tmp_path):
    _, _, loss_N = trained(tmp_path, epochs=1)
    table = pq.read_table(tmp_path / "sample_statistics.parquet").to_pydict()
    assert table["id"] == IDS.tolist()
    assert (table["answer_tokens"][7], table["train_loss"][7]) == (0, None)
    kept = [row for row in range(ROWS) if row != 7]
    np.testing.assert_allclose([table["train_loss"][row] for row in kept], loss_N[kept], rtol=1e-6)


def test_the_same_seed_gives_the_same_net_and_another_one_another(tmp_path):
    weights = []
    for name in ("a", "b"):
        trained(tmp_path / name, score_net_init="uniform")
        weights.append(weight_of(tmp_path / name))
    assert torch.equal(*weights)
    inputs, loss_N, tokens_N = made_losses()
    other = config(losses="stored", score_net_init="uniform").model_copy(update={"seed": 1})
    train_from_losses(other, inputs, None, stored(loss_N, tokens_N), tmp_path / "c", int)
    assert not torch.equal(weight_of(tmp_path / "c"), weights[0])


def weight_of(folder):
    return load_score_net(folder / "score_net.safetensors")[0].linear.weight


def test_a_net_that_runs_away_stops_before_it_leaves_anything(tmp_path):
    with pytest.raises(NotFiniteError, match=r"train\.score_net_learning_rate"):
        trained(tmp_path, learning_rate=1e38)
    assert not (tmp_path / "score_net.safetensors").exists()


# Stage 1 in a run's folder


def measured(ids, loss_N, tokens_N, **changed):
    empty = [None] * len(ids)
    columns = dict.fromkeys(STATISTICS, empty) | {
        "id": ids,
        "answer_tokens": tokens_N.astype(np.int32),
        "loss_sum": pa.array(loss_N, mask=tokens_N == 0),
        "status": ["ok"] * len(ids),
        "detail": [""] * len(ids),
    }
    return pa.table({name: (columns | changed)[name] for name in SCHEMA.names}, SCHEMA)


def test_a_sample_that_the_pass_failed_on_is_named():
    _, loss_N, tokens_N = made_losses()
    status = ["ok"] * ROWS
    status[5], status[9] = "image_broken", "loss_not_finite"
    table = measured(IDS, loss_N, tokens_N, status=status, detail=["torn"] * ROWS)
    with pytest.raises(DataError, match=r"2 samples have no stored loss\. First: r05: image_b"):
        StoredLosses.of(table)


@pytest.fixture
def begun(tmp_path):
    """Makes a run whose features, ratings and measured losses are finished."""

    def make(losses_only=False, **train):
        settings = config(tmp_path, ratings=train.get("inputs", "clip") != "clip", **train)
        folder = RunFolder(tmp_path)
        keys = StageKeys(settings, INPUTS, folder, wanted_by([settings.select], settings))
        inputs, loss_N, tokens_N = made_losses()
        write_features(
            folder.features, keys["featurize"], IDS, inputs.features_ND, inputs.clip_score_N
        )
        out = {"out": ROWS, "rows": ROWS}
        finish_stages(folder, keys, "read", "featurize", read=out, featurize=out)
        ratings = {"id": IDS, "judge_quality": pa.array(loss_N / 10, pa.float32())}
        pq.write_table(pa.table(ratings), folder.ratings)
        made = pass_before_tuning(settings, folder, keys["featurize"], losses_only)
        record = ShardRecord(made.whole_key(settings), ROWS, 2.5, "vlm")
        finish_shard(made.place, Shard(0, 0, ROWS), measured(IDS, loss_N, tokens_N), record)
        return SimpleNamespace(config=settings, folder=folder, keys=keys)

    return make


def never():
    raise AssertionError("Ray is not needed")


COLUMNS = ("clip_score", "judge_quality")


@pytest.mark.parametrize("losses_only", [False, True])
@pytest.mark.parametrize(
    ("inputs", "hidden", "features"),
    [("clip", (), 6), ("scores", (), 2), ("both", (4,), 8), ("clip", (4, 3), 6)],
)
def test_stored_losses_that_are_there_train_every_kind_of_net(
    begun, inputs, hidden, features, losses_only
):
    run = begun(
        losses_only,
        losses="stored",
        inputs=inputs,
        score_net_hidden=hidden,
        score_columns=COLUMNS,
        loss_reduction="mean",
    )
    (run.folder.stage1 / "vlm").mkdir(parents=True)  # of a training of other settings
    steps = []
    record = run_stage1(run.config, run.folder, run.keys, None, never, steps.append)
    net, metadata = load_score_net(run.folder.score_net)
    assert (net.features, len(net.hidden)) == (features, len(hidden))
    assert metadata["inputs"] == inputs
    assert record["models"] == {"vlm": "vlm"}
    assert record["parts"]["stored losses"] == 2.5
    assert sum(steps) == record["steps"] == 150
    assert record["correlations"]["difficulty_loss"] > 0.3
    assert not (run.folder.stage1 / "vlm").exists()


def test_a_pass_of_other_settings_is_not_thrown_away_for_one_of_losses(begun):
    run = begun(losses="stored", prompt="plain")
    other = run.config.model_copy(
        update={"train": run.config.train.model_copy(update={"prompt": "chatml"})}
    )
    whole = pass_before_tuning(other, run.folder, run.keys["featurize"])
    assert not whole.is_complete(other, ROWS)
    with pytest.raises(AssertionError, match="Ray"):  # for a pass of losses only
        run_stage1(other, run.folder, run.keys, None, never, lambda steps: None)
    assert pass_before_tuning(run.config, run.folder, run.keys["featurize"]).is_complete(
        run.config, ROWS
    )


def test_the_part_that_is_trained_on_is_all_or_a_random_share(begun):
    assert trained_part(begun().config, RunFolder("unused")) is None
    run = begun(pool_fraction=0.3)
    part = trained_part(run.config, run.folder)
    assert part.tolist() == part_of_pool(IDS, 0.3, 0).tolist()
    assert len(part) == 12


def test_what_was_trained_on_a_part_is_scored_as_a_whole_with_gaps(begun):
    run = begun(pool_fraction=0.3, inputs="both", score_columns=COLUMNS, score_net_hidden=[4])
    part = trained_part(run.config, run.folder)
    inputs, loss_N, tokens_N = made_losses()
    place = np.searchsorted(IDS, part)
    full = stored(loss_N, tokens_N)
    SampleStatistics(
        torch.zeros(len(part), dtype=torch.long), full.loss_sum_M[place], full.tokens_M[place]
    ).write(run.folder.sample_statistics, part)
    net = begun(losses="stored", inputs="both", score_columns=COLUMNS, score_net_hidden=[4])
    statistics = run.folder.sample_statistics.read_bytes()
    run_stage1(net.config, net.folder, net.keys, None, never, lambda steps: None)
    run.folder.sample_statistics.write_bytes(statistics)
    finish_stages(run.folder, run.keys, "rate", "train")

    difficulty_N = -net_scores(run.folder.score_net, inputs, run.folder.ratings)
    assert correlations(run.folder)["difficulty_loss"] == pytest.approx(
        spearman(difficulty_N[place], (loss_N / np.maximum(tokens_N, 1))[place], tokens_N[place])
    )
    known = KnownSamples(run.config, run.folder, run.keys, never, print, lambda rows: None)
    table = known.table(run.keys.wanted, 5)
    assert table["difficulty"].to_pylist() == pytest.approx(difficulty_N.tolist())
    assert table["answer_tokens"].null_count == ROWS - len(part)
    assert table["answer_tokens"].take(place).to_pylist() == tokens_N[place].astype(int).tolist()
    assert "answer_tokens" not in known.whole(table)
    assert "difficulty" in known.whole(table)


def spearman(first, second, tokens):
    from scipy.stats import spearmanr

    known = tokens > 0
    return float(spearmanr(first[known], second[known]).statistic)


# Settings that make no sense together


@pytest.mark.parametrize(
    ("train", "named"),
    [
        ({"losses": "stored", "objective": "plain"}, "leave it at live for the objective plain"),
        ({"losses": "stored", "objective": "coido"}, "leave it at live for the objective coido"),
        ({"losses": "stored", "pool_fraction": 0.5}, "pool_fraction would save nothing"),
        ({"pool_fraction": 0.0}, "greater than 0"),
        ({"pool_fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(train, named):
    with pytest.raises(ConfigError, match=named):
        config(**train)


def test_the_tuned_model_is_not_to_be_had_from_stored_losses():
    settings = load_config(
        {
            "run_dir": "r",
            "data": {"inputs": ["a.json"]},
            "train": {"losses": "stored"},
            "select": {"method": "loss", "model": "tuned"},
        }
    )
    with pytest.raises(ConfigError, match=r"train\.losses: live"):
        wanted_by([settings.select], settings)
