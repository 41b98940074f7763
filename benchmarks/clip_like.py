"""Features that look like CLIP's of an instruction pool, for benchmarks of selection.

An image half and a text half of length 1 beside each other, each a narrow cone (a common direction)
around which clusters of very different sizes lie; inside a cluster the spread is of low dimension.
Every image has two records, as in LLaVA-Instruct, and one record in a hundred is there twice.
"""

from __future__ import annotations

import numpy as np

ROWS_AT_ONCE = 50_000
INNER = 48  # dimensions in which the members of a cluster differ
CONE, SPREAD, NOISE = 0.8, 0.6, 0.25


def clip_like(samples: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(M, D) float32 features and (M,) difficulties that go with the clusters."""
    random = np.random.default_rng(seed)
    clusters = max(2, samples // 100)
    share = 1.0 / np.arange(1, clusters + 1) ** 0.7
    label_M = random.choice(clusters, size=samples, p=share / share.sum())
    half = features // 2
    features_MD = np.empty((samples, features), np.float32)
    image_M = np.arange(samples) // 2  # two records of one image follow each other
    _fill(features_MD[:, :half], label_M[image_M * 2 % samples], image_M, random)
    _fill(features_MD[:, half:], label_M, np.arange(samples), random)
    twins = random.integers(0, samples, samples // 100)
    features_MD[random.integers(0, samples, len(twins))] = features_MD[twins]
    hard = random.normal(size=clusters)
    return features_MD, hard[label_M] + random.normal(size=samples)


def _fill(
    half_MH: np.ndarray, label_M: np.ndarray, item_M: np.ndarray, random: np.random.Generator
) -> None:
    """Rows of length 1; rows of one item are equal."""
    width = half_MH.shape[1]
    cone = random.normal(size=width) / np.sqrt(width)
    centres = random.normal(size=(int(label_M.max()) + 1, width)).astype(np.float32)
    centres *= np.float32(SPREAD / np.sqrt(width))
    axes = (random.normal(size=(INNER, width)) / np.sqrt(width * INNER)).astype(np.float32)
    seed = int(random.integers(2**31))
    for start in range(0, len(half_MH), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(half_MH)))
        items, place = np.unique(item_M[rows], return_inverse=True)
        own = np.random.default_rng([seed, start])
        inner = own.standard_normal((len(items), INNER), dtype=np.float32) @ axes
        noise = own.standard_normal((len(items), width), dtype=np.float32)
        around = np.float32(SPREAD) * inner + noise * np.float32(NOISE / np.sqrt(width))
        values = np.float32(CONE) * cone.astype(np.float32) + centres[label_M[rows]] + around[place]
        half_MH[rows] = values / np.linalg.norm(values, axis=1, keepdims=True)
