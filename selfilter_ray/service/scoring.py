"""From samples of requests to their difficulty, by the models of a finished run.

A sample that brings its features gets the difficulty that the run gives a record with these
features, bit for bit. A conversation is embedded first; how it is batched with others shows in the
last bits of its features, as it does offline, and so in its difficulty: by less than 1e-5.

Shapes: B samples, I, T and D = I + T features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfilter_ray.config import parse_config
from selfilter_ray.errors import ArtifactError
from selfilter_ray.features.shards import shard_files
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.scorer import extractor, trained_net
from selfilter_ray.scoring import score_features
from selfilter_ray.service.incoming.reader import limits_of_records
from selfilter_ray.service.incoming.refusals import Unusable, refused
from selfilter_ray.service.incoming.vectors import refuse_odd
from selfilter_ray.service.messages import Incoming, Preview, Refused, Scored
from selfilter_ray.service.run_copy import run_copy
from selfilter_ray.service.scored_pool import load_pool
from selfilter_ray.service.settings import PreviewSettings, ServiceLimits
from selfilter_ray.service.thumbnails import preview_of

Problem = Unusable | BadRow
# Products of more rows are shared among threads, and on a busy machine the last thread comes late:
# 64 rows of 1,664 features then take 8 ms instead of 0.1 ms. The results are the same.
ROWS_AT_ONCE = 8


class FeatureScorer:
    """The score net alone, for samples that bring their features. Used by any number of threads.

    Attributes:
        folder: the run on this host.
        features: I and T.
        base: the least difficulty of the scored pool.

    Raises:
        ConfigError: when train or score of the run are not finished, or its net takes ratings.
        ArtifactError: when its files are missing or damaged.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.folder = folder = run_copy(run_dir)
        self._net = trained_net(folder)
        self._pool = load_pool(folder)
        self.base = self._pool.least
        self.features = _sizes(folder)
        if sum(self.features) != self._net.features:
            raise ArtifactError(
                f"the score net of {folder.path} takes {self._net.features} features, but its "
                f"samples have {sum(self.features)}: run train again."
            )

    def score(self, samples: Sequence[Incoming], previews: bool = False) -> list[Scored | Refused]:
        """Difficulty of each, in their order.

        Args:
            samples: all with features.
            previews: features have none; for the same call as ``IncomingScorer``.
        """
        rows = [_given(sample, self.features) for sample in samples]
        return self.score_rows(samples, rows, [Preview()] * len(samples))

    def score_rows(
        self,
        samples: Sequence[Incoming],
        rows: Sequence[np.ndarray | Problem],
        previews: Sequence[Preview],
    ) -> list[Scored | Refused]:
        """Of samples whose features, or what is wrong with them, stand in ``rows``."""
        good = [row for row in rows if isinstance(row, np.ndarray)]
        features_BD = np.stack(good) if good else np.zeros((0, self._net.features), np.float32)
        difficulty_B = self._difficulty(features_BD)
        numbers = zip(
            features_BD,
            difficulty_B.tolist(),
            self._pool.weight(difficulty_B).tolist(),
            self._pool.percentile(difficulty_B).tolist(),
            strict=True,
        )
        answers: list[Scored | Refused] = []
        for sample, row, preview in zip(samples, rows, previews, strict=True):
            if not isinstance(row, np.ndarray):
                answers.append(refused(sample.id, row))
                continue
            features_D, difficulty, weight, percentile = next(numbers)
            if not np.isfinite(difficulty):
                problem = Unusable("not_finite", "the difficulty is beyond float32")
                answers.append(refused(sample.id, problem))
                continue
            digest = sample.digest
            answers.append(
                Scored(sample.id, difficulty, weight, percentile, features_D, digest, preview)
            )
        return answers

    def _difficulty(self, features_BD: np.ndarray) -> np.ndarray:
        starts = range(0, len(features_BD), ROWS_AT_ONCE)
        with np.errstate(over="ignore"):  # what is beyond float32 is refused
            pieces = [score_features(self._net, features_BD[n : n + ROWS_AT_ONCE]) for n in starts]
        return -np.concatenate([np.zeros(0, np.float32), *pieces])


class IncomingScorer:
    """Embedder and score net. Used by any number of threads: the embedder works for one at a time,
    while pictures of the others are decoded.

    Args:
        limits: of images; what is too large is refused before it is decoded.
        previews: what ``Scored.preview`` holds.
        device: None for a GPU when there is one.

    Attributes:
        features, base: as of ``FeatureScorer``.

    Raises:
        ConfigError, ArtifactError: as ``FeatureScorer``.
    """

    def __init__(
        self,
        run_dir: str | Path,
        limits: ServiceLimits,
        previews: PreviewSettings,
        device: str | None = None,
    ) -> None:
        self._net = FeatureScorer(run_dir)
        self.features, self.base = self._net.features, self._net.base
        self._limits, self._previews = limits_of_records(limits), previews
        config = parse_config(self._net.folder.manifest()["config"])
        self._extract = extractor(config, self._limits, device)
        embedder = self._extract.embedder
        if (embedder.image_dim, embedder.text_dim) != self.features:
            raise ArtifactError(
                f"the embedder makes {embedder.image_dim} and {embedder.text_dim} features, but "
                f"the samples of {run_dir} have {self.features}: the manifest was edited, or the "
                "embedder's package is of another version."
            )

    def score(self, samples: Sequence[Incoming], previews: bool = False) -> list[Scored | Refused]:
        """Difficulty of each, in their order.

        Args:
            samples: with features or with a conversation, mixed as they come.
            previews: whether conversations get one.
        """
        talks = [number for number, sample in enumerate(samples) if sample.features_D is None]
        embedded = dict(zip(talks, self._embed([samples[n] for n in talks]), strict=True))
        rows = [
            embedded[number] if number in embedded else _given(sample, self.features)
            for number, sample in enumerate(samples)
        ]
        shown = [
            self._preview(sample) if previews and isinstance(row, np.ndarray) else Preview()
            for sample, row in zip(samples, rows, strict=True)
        ]
        return self._net.score_rows(samples, rows, shown)

    def _embed(self, samples: Sequence[Incoming]) -> list[np.ndarray | Problem]:
        """Features of conversations, or what is wrong with each."""
        embedded = self._extract.embed(
            [sample.turns for sample in samples], [sample.images for sample in samples]
        )
        features_BD = np.concatenate([embedded.images_NI, embedded.texts_NT], axis=1)
        return [
            problem or features_D
            for problem, features_D in zip(embedded.problems, features_BD, strict=True)
        ]

    def _preview(self, sample: Incoming) -> Preview:
        if sample.features_D is not None:
            return Preview()
        return preview_of(sample.turns, sample.images, self._previews, self._limits)


def _given(sample: Incoming, sizes: tuple[int, int]) -> np.ndarray | Problem:
    """The features that a sample brought, or what is wrong with them."""
    if sample.features_D is None:
        raise ValueError(f"sample {sample.id} has no features: score it with an IncomingScorer")
    try:
        refuse_odd(sample.features_D, sizes)
    except Unusable as problem:
        return problem
    return sample.features_D


def _sizes(folder: RunFolder) -> tuple[int, int]:
    """I and T of the run's samples."""
    file = shard_files(folder.features)[0]
    try:
        schema = pq.read_schema(file)
        image, text = (schema.field(f"{half}_embedding").type for half in ("image", "text"))
        return image.list_size, text.list_size
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"{file} cannot be read ({error}): remove it and run featurize."
        ) from None
