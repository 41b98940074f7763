"""The interface of an embedder, and how a config becomes one.

Shapes: B batch, I image dimension, T text dimension, C H W a preprocessed picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from selfilter_ray.config import BundledConfig, OpenClipConfig


class Embedder(Protocol):
    """Turns pictures and texts into L2-normalised float32 vectors.

    Attributes:
        image_dim, text_dim: sizes of the vectors.
        shared_space: whether the cosine of an image and a text vector means anything (CLIP score).
    """

    image_dim: int
    text_dim: int
    shared_space: bool

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """One RGB picture to its (C, H, W) input. Called from several threads at once."""
        ...

    def embed_images(self, pixels_BCHW: torch.Tensor) -> np.ndarray:
        """(B, image_dim) float32."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(B, text_dim) float32. Texts are cut at the model's own length."""
        ...

    def weights_hash(self) -> str:
        """SHA-256 over all weights: which model made a feature."""
        ...


def build_embedder(config: OpenClipConfig | BundledConfig, device: str = "cpu") -> Embedder:
    """The embedder that a config names, on a device.

    Raises:
        ConfigError: when its packages or weights are not there.
    """
    if isinstance(config, BundledConfig):
        from selfilter_ray.features.bundled import BundledEmbedder

        return BundledEmbedder(config, device)
    from selfilter_ray.features.open_clip import OpenClipEmbedder

    return OpenClipEmbedder(config, device)


def hash_weights(*modules: torch.nn.Module) -> str:
    """SHA-256 over names and values of all tensors of the modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def normalised(vectors_BD: torch.Tensor) -> np.ndarray:
    """Rows scaled to length 1, as float32 on the CPU; a zero row stays zero."""
    vectors_BD = torch.nn.functional.normalize(vectors_BD.float(), dim=-1, eps=1e-12)
    result: np.ndarray = vectors_BD.cpu().numpy()
    return result
