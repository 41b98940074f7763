"""Any number of ranks makes the same steps, and goes on from the checkpoint of any other number."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from stage1_pool import logged, make_pool, score_weights
from world_sizes import CASES, MIDDLE, TWO_HALVES, on_one_and_two_ranks

# Of the score net's largest weight, and of a VLM tensor's: sums over ranks have another order.
FLOAT32, BFLOAT16 = 1e-5, 1e-2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All cases, trained on one rank and on two, whole and from the other's checkpoint."""
    folder = tmp_path_factory.mktemp("world sizes")
    (folder / "pool").mkdir()
    on_one_and_two_ranks(folder, make_pool(folder / "pool").model)
    return folder


def distance(one, other):
    """The largest difference of two tensors, as a share of the largest value."""
    return ((one.double() - other.double()).abs().max() / other.abs().max().double()).item()


def slack(case):
    return BFLOAT16 if case.startswith("bf16") else FLOAT32


@pytest.mark.parametrize("case", CASES)
def test_one_rank_and_two_train_the_same_score_net(case, finished):
    one, two = (finished / case / f"whole-{ranks}" for ranks in (1, 2))
    assert distance(score_weights(one), score_weights(two)) < slack(case)
    kept = ("step", "epoch", "learning_rate", "samples", "tokens")
    assert [[m[key] for key in kept] for m in logged(one)] == [
        [m[key] for key in kept] for m in logged(two)
    ]
    losses = [[m["loss"] for m in logged(folder)] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=10 * slack(case))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_going_on_with_another_number_of_ranks_ends_as_if_nothing_had_been(case, ranks, finished):
    whole = finished / case / f"whole-{3 - ranks}"
    resumed = finished / case / f"resumed-{ranks}"
    assert logged(resumed)[0]["step"] == MIDDLE + 1
    assert len(logged(whole)) == MIDDLE + len(logged(resumed))
    assert distance(score_weights(resumed), score_weights(whole)) < slack(case)
    files = sorted(whole.glob("vlm/*.safetensors"))
    assert files
    for file in files:
        weights, again = load_file(file), load_file(resumed / "vlm" / file.name)
        assert weights.keys() == again.keys()
        for name, value in weights.items():
            if value.any():
                assert distance(again[name], value) < 10 * slack(case), name


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_was_seen_of_each_sample_survives_another_number_of_ranks(ranks, finished):
    name = "sample_statistics.parquet"
    for case in CASES:
        whole, resumed = (
            pq.read_table(finished / case / folder / name)
            for folder in (f"whole-{3 - ranks}", f"resumed-{ranks}")
        )
        assert resumed.select(["id", "answer_tokens"]) == whole.select(["id", "answer_tokens"])
        assert resumed["train_loss"].to_pylist() == pytest.approx(
            whole["train_loss"].to_pylist(), rel=10 * slack(case)
        )


def test_two_half_batches_under_global_weights_are_one_whole_batch(finished):
    one, two = finished / "one whole batch", finished / TWO_HALVES / "whole-2"
    weights, again = score_weights(one), score_weights(two)
    assert weights.abs().max() > 1e-3
    assert distance(again, weights) < FLOAT32
    losses = [[m["loss"] for m in logged(folder)] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_checkpoint_runs_no_code_when_it_is_loaded(finished):
    for folder in finished.glob("*/checkpoint-*"):
        assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json", ""}


@pytest.mark.parametrize("stage", ["bf16, zero 2", "zero 3"])
def test_each_rank_writes_its_share_only(stage, finished):
    shares = [
        sum(value.numel() for value in load_file(file).values())
        for file in sorted((finished / stage / "checkpoint-2").glob("state-*"))
    ]
    (whole,) = (finished / stage / "checkpoint-1").glob("state-*")
    total = sum(value.numel() for value in load_file(whole).values())
    assert len(shares) == 2
    assert sum(shares) == total
    assert max(shares) < 0.6 * total
    assert all(value.dtype == torch.float32 for value in load_file(whole).values())
