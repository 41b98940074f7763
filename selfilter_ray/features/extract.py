"""The feature pass over one shard: decoding runs ahead in threads while the model works.

Shapes: N rows of the shard, P distinct pictures, I and T the embedder's dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selfilter_ray.config import FeaturizeConfig, LimitsConfig
from selfilter_ray.features.decode import Decoder
from selfilter_ray.features.embedder import Embedder
from selfilter_ray.features.shards import OK, TEXT_ONLY
from selfilter_ray.samples.files import iterate_samples
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample, Turn, scorer_text

COLUMNS = ("id", "locator", "turns", "images")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Both halves of N samples, and what is wrong with those that have none.

    Attributes:
        images_NI, texts_NT: float32; zero for a sample with a problem, the image's also where
            there is no picture.
        problems: one or None a sample.
    """

    images_NI: np.ndarray
    texts_NT: np.ndarray
    problems: tuple[BadRow | None, ...]


class Extractor:
    """Samples in, feature rows out. One model call at a time, whatever the number of callers."""

    def __init__(self, embedder: Embedder, config: FeaturizeConfig, limits: LimitsConfig) -> None:
        self.embedder = embedder
        self.batch_size = config.batch_size
        self._decoder = Decoder(
            embedder.preprocess,
            limits,
            config.batch_size,
            config.decode_threads,
            config.prefetch_batches,
        )
        self._model = threading.Lock()

    def __call__(self, samples: pa.Table) -> pa.Table:
        """Features of the samples, in their order.

        Args:
            samples: rows with ``COLUMNS``.

        Returns:
            A table with id, locator, image_embedding (I), text_embedding (T), scores, status and
            detail. Where ``status`` is neither ``ok`` nor ``text_only`` it is the reason of the
            quarantine, and the embeddings are zero.
        """
        rows = list(iterate_samples(samples))
        embedded = self.embed([row.turns for row in rows], [row.images for row in rows])
        return self._table(rows, embedded)

    def embed(
        self, turns: Sequence[tuple[Turn, ...]], images: Sequence[Sequence[str | bytes]]
    ) -> Embedded:
        """Both halves of N samples.

        Args:
            turns, images: of each sample; an image is a path, or the bytes of a file.
        """
        pictures_PI, place, bad = self._pictures(images)
        texts_NT = self.texts([scorer_text(of_one) for of_one in turns])
        images_NI = np.zeros((len(images), self.embedder.image_dim), np.float32)
        problems: list[BadRow | None] = []
        for number, names in enumerate(images):
            problem = next((bad[name] for name in names if name in bad), None)
            if problem is None and names:
                images_NI[number] = _mean(pictures_PI[[place[name] for name in names]])
            if problem is None and not _usable(images_NI[number], texts_NT[number]):
                problem = BadRow("embedding_not_finite", "the embedding holds NaN or Infinity")
            problems.append(problem)
        failed_N = np.array([problem is not None for problem in problems], dtype=bool)
        images_NI[failed_N] = 0.0
        texts_NT[failed_N] = 0.0
        return Embedded(images_NI, texts_NT, tuple(problems))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, T) embeddings; equal texts are embedded once, similar lengths together."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        vectors_DT = np.zeros((len(distinct), self.embedder.text_dim), np.float32)
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            with self._model:
                vectors_DT[start : start + len(batch)] = self.embedder.embed_texts(batch)
        place = {text: number for number, text in enumerate(distinct)}
        result: np.ndarray = vectors_DT[[place[text] for text in texts]]
        return result

    def _pictures(
        self, images: Sequence[Sequence[str | bytes]]
    ) -> tuple[np.ndarray, dict[str | bytes, int], dict[str | bytes, BadRow]]:
        """Every distinct picture once: its vector, its place, or its problem."""
        names = list(dict.fromkeys(name for of_one in images for name in of_one))
        vectors_PI = np.zeros((len(names), self.embedder.image_dim), np.float32)
        place: dict[str | bytes, int] = {}
        problems: dict[str | bytes, BadRow] = {}
        for batch in self._decoder.batches(names):
            problems.update(batch.problems)
            if batch.names:
                start = len(place)
                place.update({name: start + number for number, name in enumerate(batch.names)})
                with self._model:
                    vectors_PI[start : len(place)] = self.embedder.embed_images(batch.pixels_BCHW)
        return vectors_PI, place, problems

    def _table(self, rows: Sequence[Sample], embedded: Embedded) -> pa.Table:
        images_NI, texts_NT = embedded.images_NI, embedded.texts_NT
        status = [
            problem.reason if problem else OK if row.images else TEXT_ONLY
            for row, problem in zip(rows, embedded.problems, strict=True)
        ]
        detail = [problem.detail if problem else "" for problem in embedded.problems]
        clip_N = np.einsum("nd,nd->n", images_NI, texts_NT) if self.embedder.shared_space else None
        no_score = np.array([name != OK for name in status], dtype=bool)
        clip = (
            pa.nulls(len(rows), pa.float32()) if clip_N is None else pa.array(clip_N, mask=no_score)
        )
        return pa.table(
            {
                "id": pa.array([row.id for row in rows], pa.string()),
                "locator": pa.array([row.locator for row in rows], pa.string()),
                "image_embedding": fixed_size_list(images_NI),
                "text_embedding": fixed_size_list(texts_NT),
                "scores": pa.StructArray.from_arrays([clip], ["clip_score"]),
                "status": pa.array(status, pa.string()),
                "detail": pa.array(detail, pa.string()),
            }
        )


def fixed_size_list(vectors_ND: np.ndarray) -> pa.FixedSizeListArray:
    """The rows of a float32 matrix as one parquet column."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors_ND, np.float32).ravel()), vectors_ND.shape[1]
    )


def _mean(vectors_KI: np.ndarray) -> np.ndarray:
    """Direction of the mean: a record with several pictures has one image half (ours)."""
    if len(vectors_KI) == 1:
        only: np.ndarray = vectors_KI[0]
        return only
    mean_I = vectors_KI.mean(axis=0)
    unit: np.ndarray = mean_I / max(float(np.linalg.norm(mean_I)), 1e-12)
    return unit


def _usable(image_I: np.ndarray, text_T: np.ndarray) -> bool:
    return bool(np.isfinite(image_I).all() and np.isfinite(text_T).all())
