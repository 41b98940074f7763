"""The folder of a run: where every file lives, and which stages are finished.

``manifest.json`` holds, for each finished stage, the key that its result depends on. A stage is
skipped when its key is unchanged, so a second run does nothing and an interrupted one goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError, ConfigError

FORMAT = 1
CHECKPOINTS = "checkpoints"  # of an unfinished training, inside its folder
STAGES = ("read", "featurize", "rate", "train", "score", "select", "report")


class RunFolder:
    """Paths and manifest of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.manifest_file = self.path / "manifest.json"
        self.samples = self.path / "samples"
        self.read_quarantine = self.samples / "quarantine.jsonl"
        self.images = self.samples / "images"
        self.quarantine = self.path / "quarantine.jsonl"
        self.features = self.path / "features"
        self.raters = self.path / "ratings"
        self.ratings = self.path / "ratings.parquet"
        self.stage1 = self.path / "stage1"
        self.checkpoints = self.stage1 / CHECKPOINTS
        self.score_net = self.stage1 / "score_net.safetensors"
        self.metrics = self.stage1 / "metrics.jsonl"
        self.sample_statistics = self.stage1 / "sample_statistics.parquet"
        self.tuned = self.path / "tuned"
        self.seed_model = self.path / "seed_model"
        self.coido_model = self.path / "coido_model"
        self.measured = self.path / "measured"
        self.scores = self.path / "scores.parquet"
        self.selection = self.path / "selection.parquet"
        self.selected_json = self.path / "selected.json"
        self.selected_ids = self.path / "selected.ids"
        self.report = self.path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two runs in one folder would overwrite each other.

        Raises:
            ConfigError: when the folder cannot be written, or another process works in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"run_dir {self.path} cannot be written: {error.strerror}. Choose another run_dir."
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another process is working in {self.path}: wait for it."
                ) from None
            for folder in (self.path, self.samples, self.features, self.stage1):
                atomic.sweep(folder)
            yield
        finally:
            os.close(descriptor)

    def manifest(self) -> dict[str, Any]:
        """The manifest, or an empty one.

        Raises:
            ArtifactError: when it is damaged or written by another version.
        """
        try:
            manifest = json.loads(self.manifest_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"format": FORMAT, "stages": {}}
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{self.manifest_file} cannot be read ({error}): remove it to start over."
            ) from None
        format = manifest.get("format") if isinstance(manifest, dict) else None
        if isinstance(format, int) and format != FORMAT:  # first: the rest may look different
            raise ArtifactError(
                f"{self.manifest_file} has format {format}, this version reads "
                f"{FORMAT}: use the version that wrote it, or another run_dir."
            )
        if format is None or not _are_stages(manifest.get("stages")):
            raise ArtifactError(f"{self.manifest_file} is not a manifest: remove it to start over.")
        return manifest

    def save_manifest(self, manifest: dict[str, Any]) -> None:
        atomic.write_json(self.manifest_file, manifest)

    def finished(self, stage: str) -> dict[str, Any] | None:
        """The record of a finished stage, or None."""
        record: dict[str, Any] | None = self.manifest()["stages"].get(stage)
        return record

    def require(self, stage: str) -> dict[str, Any]:
        """The record of a finished stage.

        Raises:
            ConfigError: when the stage has not been run.
        """
        record = self.finished(stage)
        if record is None:
            raise ConfigError(f"{self.path} has no finished stage {stage!r}: run it first.")
        return record


def _are_stages(stages: Any) -> bool:
    return isinstance(stages, dict) and all(
        isinstance(record, dict) and "key" in record for record in stages.values()
    )


def stage_key(*parts: Any) -> str:
    """A short hash of everything a stage's result depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
