"""Images and features as the JSON of a request. D values of an embedding."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np


def encode_features(image_D: Any, text_D: Any) -> dict[str, Any]:
    """The ``features`` of a sample: both embeddings as base64 of little-endian float32.

    Raises:
        ValueError: when one of them is not a row of numbers.
    """
    return {"image_embedding": _encoded(image_D), "text_embedding": _encoded(text_D)}


def encode_image(source: str | Path | bytes) -> dict[str, str]:
    """The ``image`` of a sample: a file, or the bytes of one, as base64.

    Raises:
        OSError: when the file cannot be read.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    return {"base64": base64.b64encode(content).decode("ascii")}


def _encoded(values_D: Any) -> dict[str, str]:
    array_D = np.asarray(values_D, dtype="<f4")
    if array_D.ndim != 1:
        raise ValueError(f"an embedding is a row of numbers, this has shape {array_D.shape}")
    return {"base64": base64.b64encode(array_D.tobytes()).decode("ascii"), "dtype": "float32"}
