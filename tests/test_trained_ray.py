"""The closed loop's cells on Ray: cells that fail, cells that kill their process, and Ray Train.

There is one CPU: an actor that finds no room must not hold up the others, nor those Ray Train.
"""

from __future__ import annotations

import json
import os
import signal

import pytest
from trained_pool import make_config, make_run

from selfilter_ray.compare.entries import entries_of
from selfilter_ray.compare.trained.files import TrainedFolder
from selfilter_ray.compare.trained.loop import TrainedLoop
from selfilter_ray.compare.trained.tuner import Tuner
from selfilter_ray.config import Config
from selfilter_ray.errors import DataError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    return folder, *make_run(folder)


@pytest.fixture(scope="module")
def ray_is_up(made):
    from selfilter_ray.distributed.runtime import connected

    with connected(Config.model_validate({**made_of(made), "ray": {"num_cpus": 1}}).ray):
        yield


def made_of(made):
    return make_config(made[0]).model_dump(mode="json")


def compared(made, config, run, told=None):
    _, folder, pool = made
    entries = entries_of(config.compare.methods, pool)
    tell = (lambda cells: None) if told is None else told.append
    return TrainedLoop(config, folder, pool, entries, "the pool's key", run, tell).compare({})


def evaluations(made):
    files = TrainedFolder(made[1].path)
    return {f.name: json.loads(f.read_text())["evaluation"] for f in files.cells.glob("*.json")}


def test_on_actors_a_fault_and_a_death_cost_no_other_cell(made, ray_is_up):
    from selfilter_ray.distributed import tuners

    class Clumsy(Tuner):
        """Under seed 1 it fails on 6 records, and dies on 20."""

        def __call__(self, work):
            if work.kind == "whole" or work.kind == "blind" or work.seed == 0:
                return super().__call__(work)
            if len(work.ids) == 6:
                raise DataError("these are no good")
            if len(work.ids) == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(work)

    config = make_config(made[0], actors=[1, 2])
    told = []
    clumsily = lambda *work: tuners.tune_on_actors(config, *work, tuner=Clumsy)  # noqa: E731
    found = compared(made, config, clumsily, told)
    messages = {(m.label, m.budget, m.seed): m.message for m in found.missing}
    labels = ("random", "hard", "prototypicality")
    assert {key: messages[key] for key in messages if key[1] == 6} == {
        (label, 6, 1): "these are no good" for label in labels
    }
    assert {key for key in messages if key[1] == 20} == {(label, 20, 1) for label in labels}
    assert all("died twice" in messages[label, 20, 1] for label in labels)
    assert sum(told) == 18 - len(messages) == 12
    before = evaluations(made)
    # the next run makes what is missing, and nothing else
    again = compared(made, config, lambda *work: tuners.tune_on_actors(config, *work))
    assert again.missing == [] and before.items() <= evaluations(made).items()


def test_on_ray_train_the_models_are_the_same(made, ray_is_up):
    from selfilter_ray.distributed import tuners

    _, folder, _ = made
    config = make_config(made[0], budgets=[6], runner="train")
    config = config.model_copy(
        update={
            "compare": config.compare.model_copy(
                update={"seeds": (0,), "methods": [{"method": "random"}]}
            ),
        }
    )
    compared(made, config, lambda *work: tuners.tune_on_actors(config, *work))
    before = evaluations(made)
    files = TrainedFolder(folder.path)
    for file in files.cells.glob("*.json"):
        file.unlink()
    found = compared(
        made,
        config,
        lambda *work: tuners.tune_on_train(config, folder, lambda: None, *work),
    )
    assert found.missing == []
    now = evaluations(made)
    assert len(now) == 4 and now.items() <= before.items()
    assert not (files.path / "tuned").exists()
