"""CLIP by open_clip: any architecture, with a pretrained tag, a local checkpoint, or no weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from PIL import Image

from selfilter_ray.config import OpenClipConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.features.embedder import hash_weights, normalised


class OpenClipEmbedder:
    """Self-Filter's CLIP setting: ViT-L-14 of openai unless the config says otherwise."""

    shared_space = True

    def __init__(self, config: OpenClipConfig, device: str) -> None:
        self.device = device
        self._model, _, self._transform = _create(config, device)
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(config.architecture)
        self._dtype = open_clip.get_input_dtype(config.precision)
        with torch.inference_mode():
            text = self._model.encode_text(self._tokenizer([""]).to(device))
            size = self._model.visual.image_size
            height, width = size if isinstance(size, tuple) else (size, size)
            blank = torch.zeros(1, 3, height, width, device=device, dtype=self._dtype)
            image = self._model.encode_image(blank)
        self.image_dim, self.text_dim = int(image.shape[-1]), int(text.shape[-1])

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        pixels_CHW: torch.Tensor = self._transform(image)
        return pixels_CHW

    @torch.inference_mode()
    def embed_images(self, pixels_BCHW: torch.Tensor) -> np.ndarray:
        pixels_BCHW = pixels_BCHW.to(self.device, self._dtype, non_blocking=True)
        return normalised(self._model.encode_image(pixels_BCHW))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        tokens_BT = self._tokenizer(list(texts)).to(self.device)
        return normalised(self._model.encode_text(tokens_BT))

    def weights_hash(self) -> str:
        return hash_weights(self._model)


def _create(config: OpenClipConfig, device: str):  # type: ignore[no-untyped-def]
    if config.architecture not in open_clip.list_models():
        raise ConfigError(
            f"featurize.embedder.architecture {config.architecture!r} is not known to open_clip: "
            "choose one of open_clip.list_models()."
        )
    torch.manual_seed(0)  # without pretrained weights every actor must still build the same model
    try:
        return open_clip.create_model_and_transforms(
            config.architecture,
            pretrained=config.pretrained,
            precision=config.precision,
            device=device,
        )
    except Exception as error:
        if config.pretrained is None:
            raise
        raise ConfigError(
            f"weights {config.pretrained!r} of {config.architecture} cannot be loaded: {error}. "
            "Give a pretrained tag that this machine can download, or the path of a checkpoint."
        ) from error
