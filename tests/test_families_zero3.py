"""Every family under ZeRO-3 on two CPU ranks, one of which has texts only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_pool import tiny_stage1, write_pictures
from family_steps import RATE, Trained, on_ranks, trained_by_torch
from tiny_vlms import TINY
from two_ranks import on_two_ranks

# Adam's first steps have the size of the learning rate, however small a gradient is.
CLOSE = {"rtol": 1e-4, "atol": RATE / 50}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    folder: Path = tmp_path_factory.mktemp("families")
    write_pictures(folder)
    return {name: tiny_stage1(name, folder, folder / name) for name in TINY}


@pytest.fixture(scope="module")
def on_ranks_by_family(models, tmp_path_factory) -> dict[str, Trained]:
    folder = next(iter(models.values())).folder.parent
    of_rank_0, _ = on_two_ranks(on_ranks(folder), tmp_path_factory.mktemp("ranks"))
    return {name: Trained(**fields) for name, fields in of_rank_0.items()}


@pytest.mark.parametrize("family", list(TINY))
def test_two_ranks_learn_what_one_learns_from_both_batches(models, on_ranks_by_family, family):
    trained = on_ranks_by_family[family]
    expected = trained_by_torch(models[family])
    assert trained.sharded
    assert trained.weights.keys() == expected.keys()
    for name, value in trained.weights.items():
        torch.testing.assert_close(
            value, expected[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("family", list(TINY))
def test_a_checkpoint_between_the_steps_changes_nothing(on_ranks_by_family, family):
    trained = on_ranks_by_family[family]
    assert trained.weights.keys() == trained.resumed.keys()
    for name, value in trained.weights.items():
        assert torch.equal(value, trained.resumed[name]), name
