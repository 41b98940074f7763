"""A run that is killed in every stage, each time as a process of its own, ends as one that was not.

Too long for every commit: ``make chaos``.
"""

import json

import pytest
from test_pipeline import (
    PATIENCE_SECONDS,
    has_steps_after,
    kill_when,
    records,
    settings,
    start_command,
    uninterrupted,
)

__all__ = ["records", "settings", "uninterrupted"]  # fixtures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]


def test_kill_9_in_every_stage_changes_nothing(uninterrupted, settings, tmp_path):
    run_dir = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(settings | {"run_dir": str(run_dir)}))
    kill_when(config, (run_dir / "samples").exists)
    kill_when(config, lambda: len(list(run_dir.glob("features/*.done.json"))) >= 2)
    assert not (run_dir / "features" / "shard-00007.done.json").exists()
    kill_when(config, lambda: has_steps_after(run_dir, 20))
    assert not (run_dir / "stage1" / "score_net.safetensors").exists()
    kill_when(config, (run_dir / "stage1" / "score_net.safetensors").exists)
    kill_when(config, (run_dir / "scores.parquet").exists)
    assert not (run_dir / "selected.ids").exists()
    assert start_command(config).wait(PATIENCE_SECONDS) == 0
    whole = uninterrupted[0]
    for name in ("selected.ids", "selected.json"):
        assert (run_dir / name).read_text() == (whole / name).read_text()
