"""The folder ``compare_train/`` of a run: what cells read, their results, and what they amount to.

held_out/, blind_held_out/, blind_samples/   samples as parquet
fresh/                                       fresh models, a folder a seed
quarantine.jsonl                             held-out records that cannot be used
cells/KEY.json                               a result a cell: what is there is not made again
picks.parquet                                label, budget, seed, rank, id
result.json                                  ``TrainedComparison``
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfilter_ray import atomic
from selfilter_ray.compare.trained.result import TrainedComparison
from selfilter_ray.errors import ArtifactError

FOLDER, RESULT, PICKS = "compare_train", "result.json", "picks.parquet"


class TrainedFolder:
    """Paths and results below ``compare_train/`` of a run.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / FOLDER
        self.held_out, self.blind_held_out = self.path / "held_out", self.path / "blind_held_out"
        self.blind_samples = self.path / "blind_samples"
        self.fresh, self.cells = self.path / "fresh", self.path / "cells"
        self.quarantine = self.path / "quarantine.jsonl"
        self.result, self.picks = self.path / RESULT, self.path / PICKS

    def make(self) -> None:
        """Have the folders there, without what a killed process left half written."""
        for folder in (self.path, self.cells, self.fresh):
            folder.mkdir(parents=True, exist_ok=True)
            atomic.sweep(folder)
        for folder in (self.held_out, self.blind_held_out, self.blind_samples):
            folder.mkdir(exist_ok=True)

    def results(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The results that are there, by key; one that is damaged is not."""
        found = {}
        for key in set(keys):
            try:
                found[key] = json.loads(self._file(key).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
        return found

    def keep(self, key: str, result: dict[str, Any]) -> None:
        atomic.write_json(self._file(key), result)

    def write(self, comparison: TrainedComparison) -> None:
        atomic.write_json(self.result, comparison.to_json())

    def read(self) -> TrainedComparison:
        """What was compared last.

        Raises:
            ArtifactError: when there is none, or it is damaged or of another version.
        """
        try:
            value = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{self.result} cannot be read ({error}): run compare --train first."
            ) from None
        return TrainedComparison.from_json(value)

    def of_pool(self, read: str) -> TrainedComparison | None:
        """What was compared last, where that was of a pool that was read under this key."""
        try:
            found = self.read()
        except ArtifactError:
            return None
        return found if found.facts.get("pool") == read else None

    def _file(self, key: str) -> Path:
        return self.cells / f"{key}.json"
