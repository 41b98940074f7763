"""What tells a repeated sample from another one of the same id.

The digest is over what a sample says, not over how its JSON is spelled: over the turns as roles and
texts with their image marks, and the bytes of the images, wherever they came from; or over the
features as float32. Each piece is preceded by its length, so no two samples read alike.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

import numpy as np

from selfilter_ray.samples.record import Turn

BYTES = 16


def digest_of_features(features_D: np.ndarray) -> bytes:
    """Of (D,) float32 features; zero has no sign."""
    content = (features_D + np.float32(0.0)).astype("<f4", copy=False).tobytes()
    return _digest([b"features", content])


def digest_of_conversation(turns: Sequence[Turn], images: Sequence[bytes]) -> bytes:
    """Of roles and texts, and of the bytes of the image files."""
    pieces = [b"conversation", len(turns).to_bytes(8, "little")]
    pieces += [part.encode() for turn in turns for part in (turn.role, turn.text)]
    pieces += [hashlib.blake2b(image, digest_size=32).digest() for image in images]
    return _digest(pieces)


def _digest(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=BYTES)
    for piece in pieces:
        digest.update(struct.pack("<Q", len(piece)))
        digest.update(piece)
    return digest.digest()
