"""Precomputed features of a request. Shapes: I, T numbers of the image's and the text's half,
D = I + T.
"""

from __future__ import annotations

import math

import numpy as np

from selfilter_ray.select.neighbours.exact import SAFE_LENGTH
from selfilter_ray.service.incoming.encoding import decode_base64
from selfilter_ray.service.incoming.refusals import Unusable
from selfilter_ray.service.incoming.schemas import EncodedVector, FeaturesIn

DTYPES = {"float16": "<f2", "float32": "<f4"}


def read_features(features: FeaturesIn, sizes: tuple[int, int]) -> np.ndarray:
    """(D,) float32, both halves beside each other.

    Args:
        sizes: I and T of the run.

    Raises:
        Unusable: features_encoding, features_dimension, not_finite, features_length.
    """
    halves = {"image_embedding": sizes[0], "text_embedding": sizes[1]}
    vectors = [_half(name, getattr(features, name), size) for name, size in halves.items()]
    features_D = np.concatenate(vectors)
    refuse_odd(features_D, sizes)
    return features_D


def refuse_odd(features_D: np.ndarray, sizes: tuple[int, int]) -> None:
    """Refuse what could not be compared with other samples.

    Raises:
        Unusable: features_dimension, not_finite, features_length.
    """
    if features_D.shape != (sum(sizes),):
        raise Unusable(
            "features_dimension",
            f"{features_D.size} features, expected {sizes[0]} of the image and {sizes[1]} of the "
            "text",
        )
    # In float64 the squares of float32 numbers do not overflow: it is finite if all of them are.
    length = math.sqrt(np.dot(exact_D := features_D.astype(np.float64), exact_D))
    if not math.isfinite(length):
        raise Unusable("not_finite", "features hold NaN, Infinity, or numbers beyond float32")
    if not SAFE_LENGTH[0] < length < SAFE_LENGTH[1]:
        raise Unusable(
            "features_length",
            f"features have the length {length:.3g}, which must be between {SAFE_LENGTH[0]:g} and "
            f"{SAFE_LENGTH[1]:g}",
        )


def _half(name: str, vector: list[float] | EncodedVector, size: int) -> np.ndarray:
    """The numbers as float32; too large ones become infinite and are refused as such."""
    if isinstance(vector, EncodedVector):
        half = _decoded(name, vector).astype(np.float32, copy=False)
    else:
        with np.errstate(over="ignore"):
            half = np.array(vector, np.float32)
    if half.shape != (size,):
        raise Unusable("features_dimension", f"{name} has {half.size} numbers, expected {size}")
    return half


def _decoded(name: str, vector: EncodedVector) -> np.ndarray:
    dtype = DTYPES[vector.dtype]
    try:
        return np.frombuffer(decode_base64(vector.base64), dtype)
    except ValueError as error:
        raise Unusable("features_encoding", f"{name}: {error}") from None
