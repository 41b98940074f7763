"""ImageReward's network (arXiv 2304.05977, section 3.1) on transformers' BLIP parts.

A picture goes through a ViT; a BERT encoder reads the text and looks at all states of the picture
in every layer; the state of its first token goes through a linear head to one number, which is
standardised by the mean and deviation that the release found on its own data.

Shapes: B pairs of picture and text, L states a picture (patches and one class token), V width of
the image encoder, T tokens, H width of the text encoder, C H W a picture in ``pixels_BCHW``.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

REWARD_MEAN = 0.16717362830052426
REWARD_STD = 1.0333394966054072


class ImageReward(nn.Module):
    """Picture states once a picture, then a reward for each text that is paired with it."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = RewardHead(text.hidden_size)

    def picture_states(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, L, V): the image encoder's normalised last layer, class token first."""
        states_BLV: torch.Tensor = self.vision(pixels_BCHW).last_hidden_state
        return states_BLV

    def forward(
        self, states_BLV: torch.Tensor, ids_BT: torch.Tensor, mask_BT: torch.Tensor
    ) -> torch.Tensor:
        """(B,) float32 rewards of the pairs, standardised."""
        states_BTH = self.text(
            ids_BT, attention_mask=mask_BT, encoder_hidden_states=states_BLV
        ).last_hidden_state
        rewards_B = self.head(states_BTH[:, 0].float())
        return (rewards_B - REWARD_MEAN) / REWARD_STD


class RewardHead(nn.Module):
    """H to 1 by five linear layers without activations, as published; dropout only in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, states_BH: torch.Tensor) -> torch.Tensor:
        """(B, H) to (B,)."""
        rewards_B1: torch.Tensor = self.layers(states_BH)
        return rewards_B1.squeeze(-1)
