"""The sizes in the runbook are those that the script computed, and computes still."""

import json
import re

import pytest
from manifests import DEPLOY

from benchmarks import sizes
from benchmarks.select_plan import plan_from_results

PROJECT = DEPLOY.parent
RESULT = json.loads((PROJECT / "benchmarks" / "results" / "sizes.json").read_text())
RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text()


def shown():
    """Columns of the runbook's table, as numbers."""
    table = RUNBOOK.partition("## Sizes")[2].partition("## Upgrades")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    numbers = [[float(cell.replace(",", "")) for cell in row[-4:]] for row in rows]
    return list(zip(*numbers, strict=True))


def test_the_runbook_shows_what_was_computed():
    computed = [tuple(row.values()) for row in RESULT["measured"]["sizes"]]
    for column, row in zip(shown(), computed, strict=True):
        assert column == pytest.approx(row, rel=1e-4)


def test_the_runbook_names_the_command_and_what_was_only_given():
    assert f"`{RESULT['command']}`" in RUNBOOK
    given = RESULT["measured"]["given"]
    assert f"{given['featurize_per_second_and_gpu']:g} records a second and GPU" in RUNBOOK
    assert f"{given['train_samples_per_second_and_gpu']:g} samples a second and GPU" in RUNBOOK
    assert re.search("Nothing here ran on a GPU", RUNBOOK)


def test_the_script_computes_the_stored_sizes_from_the_stored_rates():
    arguments = sizes._arguments().parse_args(["--featurize", "200", "--train", "5"])
    measured = RESULT["measured"]["bytes_a_record"]
    rows = [sizes._row(size, arguments, measured) for size in sizes.SIZES]
    assert rows == RESULT["measured"]["sizes"]


def test_a_pool_ten_times_as_large_takes_a_hundred_times_the_searching():
    small, large = (plan_from_results(n, 1536, 1)["core_hours"] for n in (1_000_000, 10_000_000))
    assert large / small == pytest.approx(100, rel=0.02)


def test_bytes_of_a_record_are_taken_from_a_finished_run(tmp_path):
    import numpy as np
    from run_folders import write_features

    rows, wide = 50, 64
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "part-00000.parquet").write_bytes(b"x" * 500)
    (tmp_path / "scores.parquet").write_bytes(b"x" * 100)
    features = np.random.default_rng(0).normal(size=(rows, wide)).astype(np.float32)
    ids = [str(number) for number in range(rows)]
    write_features(tmp_path / "features", "key", ids, features, np.zeros(rows))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {"featurize": {"out": rows}}}))
    found = sizes._bytes_a_record(tmp_path)
    assert (found["samples"], found["scores"]) == (10.0, 2.0)
    assert found["features"] > sizes.FEATURES
