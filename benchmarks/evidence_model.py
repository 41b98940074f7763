"""The parts of the small LLaVA of benchmarks/evidence.py: a vision tower that sees, and words.

The tower is a CLIP vision model of 32 px, taught color and shape of drawings by their captions, as
the towers of real VLMs are taught by captions before. The language model has random weights.
Neither has seen a picture or a record of a pool.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModel,
    LlamaForCausalLM,
)

from benchmarks.store import new_folder
from selfilter_ray.config.vlm import TextConfig, VisionConfig
from selfilter_ray.known_truth.questions import COLORS, SHAPES
from selfilter_ray.stage1.vlm import (
    VISION_LAYER,
    image_processor_of,
    text_config,
    train_tokenizer,
    vision_config,
)

VISION = VisionConfig(image_size=32, patch_size=8, hidden_size=96, layers=3, heads=4)
TEXT = TextConfig(vocab_size=400, hidden_size=96, intermediate_size=256, layers=2, heads=4)
BATCH, RATE, WARM_UP, CHECKED = 32, 5e-4, 50, 300


def write_tower(captions: Path, folder: Path, steps: int) -> dict[str, float]:
    """Teach a vision tower, and write it with its image processor.

    Args:
        captions: ``captions.json`` of a pool with known truth; five at least.
        folder: to write.
        steps: of 32 pictures; each batch is turned by quarters and mirrored at random.

    Returns:
        How many ``pictures`` it was taught on, how many were ``held_back``, and of which share of
        these it says color and shape rightly.
    """
    processor = image_processor_of(VISION)
    pixels_N3HW, said_N2 = _pictures(captions, processor)
    torch.manual_seed(0)
    tower = CLIPVisionModel(vision_config(VISION))
    heads = nn.ModuleList([nn.Linear(VISION.hidden_size, len(kinds)) for kinds in (COLORS, SHAPES)])
    weights = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=WARM_UP / max(steps, WARM_UP + 1)
    )

    def logits(batch_B3HW: torch.Tensor) -> list[torch.Tensor]:
        found = tower(pixel_values=batch_B3HW, output_hidden_states=True)
        seen_BD = found.hidden_states[VISION_LAYER][:, 1:].mean(1)  # what a projector gets
        return [head(seen_BD) for head in heads]

    random = np.random.default_rng(0)
    checked = min(CHECKED, len(said_N2) // 5)
    for _ in range(steps):
        rows = torch.from_numpy(random.integers(checked, len(said_N2), BATCH))
        batch = torch.rot90(pixels_N3HW[rows], int(random.integers(4)), (2, 3))
        batch = batch.flip(3) if random.integers(2) else batch
        pairs = zip(logits(batch), said_N2[rows].T, strict=True)
        loss = sum(nn.functional.cross_entropy(found, right) for found, right in pairs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        said = [found.argmax(1) for found in logits(pixels_N3HW[:checked])]
    right = (torch.stack(said, 1) == said_N2[:checked]).all(1).float().mean().item()
    with new_folder(folder) as part:
        tower.save_pretrained(part)
        processor.save_pretrained(part)
    return {"pictures": len(said_N2) - checked, "held_back": checked, "right": right}


def write_language_model(records: Path, folder: Path) -> None:
    """A Llama of random weights, and a tokenizer of the words in LLaVA records."""
    turns = (turn for record in json.loads(records.read_text()) for turn in record["conversations"])
    tokenizer = train_tokenizer((turn["value"] for turn in turns), TEXT.vocab_size)
    torch.manual_seed(0)
    model = LlamaForCausalLM(text_config(TEXT, tokenizer))
    with new_folder(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def _pictures(captions: Path, processor: CLIPImageProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, H, W) pixels and (N, 2) numbers of color and shape."""
    pixels, said = [], []
    for record in json.loads(captions.read_text()):
        with Image.open(captions.parent / record["image"]) as picture:
            found = processor(picture.convert("RGB"), return_tensors="pt")
        pixels.append(found["pixel_values"][0])
        color, shape = record["conversations"][1]["value"].split()
        said.append((COLORS.index(color), SHAPES.index(shape)))
    return torch.stack(pixels), torch.tensor(said)
