"""A trained run as a function: from records to difficulties, without the VLM and without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from selfilter_ray.config import Config, LimitsConfig, parse_config
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.features.embedder import build_embedder
from selfilter_ray.features.extract import Extractor
from selfilter_ray.features.shards import OK, TEXT_ONLY, features_of
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples import Sample
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.images import check_image
from selfilter_ray.samples.parse import parse_row
from selfilter_ray.samples.paths import image_place
from selfilter_ray.samples.quarantine import REMEDIES, BadRow
from selfilter_ray.scoring import score_features
from selfilter_ray.stage1.score_net import ScoreNet, load_score_net
from selfilter_ray.storage import local_copy

# What a run folder must hold for scoring.
SCORING = ("manifest.json", "stage1/score_net.safetensors")


class Scorer:
    """Difficulty of samples by the embedder and the score net of a finished run."""

    def __init__(self, run_dir: str | Path, device: str | None = None) -> None:
        folder = RunFolder(local_copy(run_dir, SCORING))
        self.net = trained_net(folder)
        self.config = parse_config(folder.manifest()["config"])
        self._extract = extractor(self.config, self.config.data.limits, device)

    def score(
        self, samples: Sequence[Sample | Mapping[str, Any]], image_root: str | Path = "."
    ) -> np.ndarray:
        """Difficulty of each sample; higher is harder.

        Args:
            samples: ``Sample`` objects, or records as ``data.inputs`` hold them, whose images are
                paths.
            image_root: folder or URI that the image paths of records are relative to.

        Returns:
            (N,) float32, in the order of the samples.

        Raises:
            DataError: naming the first sample that cannot be used, and why.
        """
        if not samples:
            return np.zeros(0, np.float32)
        rows = [self._sample(number, item, image_root) for number, item in enumerate(samples)]
        features = self._extract(table_of(rows))
        self._refuse_failures(features)
        return -score_features(self.net, features_of(features))

    def _sample(
        self, number: int, item: Sample | Mapping[str, Any], image_root: str | Path
    ) -> Sample:
        if isinstance(item, Sample):
            return item
        try:
            row = parse_row(dict(item), self.config.data.limits)
            images = tuple(self._path(image, image_root) for image in row.images)
        except BadRow as error:
            raise _refused(number, error) from None
        return Sample(row.id or str(number), row.source or "", row.turns, images, "", "")

    def _path(self, image: str | bytes, root: str | Path) -> str:
        if isinstance(image, bytes):
            raise BadRow("image_value", "give images as paths here")
        path = image_place(root, image)
        check_image(path, self.config.data.limits)
        return path

    def _refuse_failures(self, features: pa.Table) -> None:
        for number, status in enumerate(features["status"].to_pylist()):
            if status not in {OK, TEXT_ONLY}:
                raise _refused(number, BadRow(status, features["detail"][number].as_py()))


def load_scorer(run_dir: str | Path, device: str | None = None) -> Scorer:
    """The scorer of a run whose Stage 1 is finished.

    Args:
        run_dir: the run's folder, or its URI: then what scoring needs is copied to this host.
        device: for the embedder; a GPU when there is one.

    Raises:
        ConfigError: when the folder has no finished Stage 1, or its score net takes ratings.
        ArtifactError: when its files are damaged.
    """
    return Scorer(run_dir, device)


def trained_net(folder: RunFolder) -> ScoreNet:
    """The score net of a run, which sees features and nothing else.

    Raises:
        ConfigError: when Stage 1 is not finished, or the net takes ratings.
        ArtifactError: when its file is damaged.
    """
    folder.require("train")
    net, metadata = load_score_net(folder.score_net)
    _refuse_ratings(metadata.get("inputs", "clip"), folder)
    return net


def extractor(config: Config, limits: LimitsConfig, device: str | None = None) -> Extractor:
    """What makes the features of a run.

    Args:
        limits: of images; larger ones are refused.
        device: None for a GPU when there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    embedder = build_embedder(config.featurize.embedder, device)
    return Extractor(embedder, config.featurize, limits)


def _refuse_ratings(inputs: str, folder: RunFolder) -> None:
    if inputs != "clip":
        raise ConfigError(
            f"the score net of {folder} takes ratings of each sample (train.inputs: {inputs}),"
            " which a scorer does not make: train a run with train.inputs: clip."
        )


def _refused(number: int, error: BadRow) -> DataError:
    return DataError(f"sample {number}: {error.detail}; remedy: {REMEDIES[error.reason]}.")
