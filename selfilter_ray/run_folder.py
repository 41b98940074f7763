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
from selfilter_ray.errors import ArtifactError, ConfigError, StorageError
from selfilter_ray.storage.copies import home_of
from selfilter_ray.storage.index import Index
from selfilter_ray.storage.lease import driving
from selfilter_ray.storage.mirror import Mirror
from selfilter_ray.storage.naming import IMAGES
from selfilter_ray.storage.objects import new_token
from selfilter_ray.storage.places import Uri, below, is_uri, shown
from selfilter_ray.storage.shared import WEIGHTS, publish

FORMAT = 1
CHECKPOINTS = "checkpoints"  # of an unfinished training, inside its folder
STAGES = ("read", "featurize", "rate", "train", "score", "select", "report")


class RunFolder:
    """Paths and manifest of one run.

    Args:
        place: a local path; or a URI, of which this host then keeps a working copy. Nothing is
            copied before the folder is locked.

    Attributes:
        uri: of the folder; None where it is on a disk.
        path: the folder, or the working copy.
        image_store: where images that come as bytes are kept; they are not part of the copy.
    """

    def __init__(self, place: str | Path) -> None:
        self.uri = str(place) if is_uri(place) else None
        if self.uri is None:
            self.path = Path(place).resolve()
        else:
            self.path = home_of(self.uri, "runs") / Uri.of(self.uri).name
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
        self.image_store = below(self.uri, IMAGES) if self.uri is not None else str(self.images)

    def __str__(self) -> str:
        return self.shown(self.path)

    def shown(self, path: Path) -> str:
        """A path of the folder as a user finds it."""
        if self.uri is None:
            return str(path)
        name = path.relative_to(self.path).as_posix()
        return shown(self.uri if name == "." else below(self.uri, name))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two runs in one folder would overwrite each other.

        Of a URI the copy is brought up to date first, and what was made here is pushed at the end.

        Raises:
            ConfigError: when the folder cannot be written, or another process works in it.
            StorageError: when the store of a URI does not answer.
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
                raise ConfigError(f"another process is working in {self}: wait for it.") from None
            for folder in (self.path, self.samples, self.features, self.stage1):
                atomic.sweep(folder)
            with self._up_to_date():
                yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _up_to_date(self) -> Iterator[None]:
        """Pull before the block and push after it, with no other driver meanwhile."""
        if self.uri is None:
            yield
            return
        index = Index(self.path)
        index.belongs_to(index.owner or new_token())
        index.save()
        with driving(self.uri, index.owner) as same:
            # What only this copy has is newer where nobody drove the run since, else left over.
            Mirror(self.uri, self.path).pull(leave=WEIGHTS, keep_edits=same)
            try:
                yield
            except BaseException as error:
                try:
                    publish(self.path)
                except StorageError as failed:
                    error.add_note(f"What this host made since is not in {self} yet: {failed}")
                raise
            publish(self.path)

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
        """Write the manifest, after everything that it vouches for."""
        atomic.write_json(self.manifest_file, manifest)
        publish(self.path)

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
            raise ConfigError(f"{self} has no finished stage {stage!r}: run it first.")
        return record


def _are_stages(stages: Any) -> bool:
    return isinstance(stages, dict) and all(
        isinstance(record, dict) and "key" in record for record in stages.values()
    )


def stage_key(*parts: Any) -> str:
    """A short hash of everything a stage's result depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
