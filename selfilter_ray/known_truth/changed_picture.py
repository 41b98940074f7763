"""A picture that looks the same and is another file: shifted, tinted, a little noise.

Shapes: H, W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

MOST_SHIFT = 3  # pixels
MOST_TINT = 8  # of 255, a channel
NOISE = 4.0  # standard deviation, of 255


def changed_picture(file: Path, seed: int) -> Image.Image:
    """The picture of a file, changed as the seed says."""
    random = np.random.default_rng(seed)
    with Image.open(file) as image:
        pixels_HW3 = np.asarray(image.convert("RGB"), dtype=np.float64)
    down, right = random.integers(-MOST_SHIFT, MOST_SHIFT + 1, size=2).tolist()
    tint_3 = random.uniform(-MOST_TINT, MOST_TINT, size=3)
    noise_HW3 = random.normal(scale=NOISE, size=pixels_HW3.shape)
    changed_HW3 = _shifted(pixels_HW3, down, right) + tint_3 + noise_HW3
    return Image.fromarray(np.clip(np.rint(changed_HW3), 0, 255).astype(np.uint8))


def _shifted(pixels_HW3: np.ndarray, down: int, right: int) -> np.ndarray:
    """The border's pixels are repeated where nothing comes in."""
    height, width = pixels_HW3.shape[:2]
    rows_H = np.clip(np.arange(height) - down, 0, height - 1)
    columns_W = np.clip(np.arange(width) - right, 0, width - 1)
    return pixels_HW3[rows_H[:, None], columns_W[None, :]]
