"""ImageReward as the release computes it, from its own names, in plain torch and float64.

Nothing here uses transformers or the product: sizes and names are written down from the release.
Shapes: B pairs, L states a picture, P patches of K numbers, V width of the image encoder, T tokens,
S tokens that are looked at, H width of the text encoder.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "user", "assistant", ":", ".", "what", "is", "this", "a", "red", "cat", "dog"]
SIZES = {  # two heads of 64 over 4 x 4 patches; four heads of 12
    "width": 128,
    "patch": 8,
    "grid": 4,
    "blocks": 2,
    "hidden": 48,
    "layers": 2,
    "inner": 96,
    "vocab": len(WORDS) + 2,
    "positions": 40,
}
TEXT_HEADS = 4
RELEASE = {
    "width": 1024,
    "patch": 16,
    "grid": 14,
    "blocks": 24,
    "hidden": 768,
    "layers": 12,
    "inner": 3072,
    "vocab": 30524,
    "positions": 512,
}
RELEASE_MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30524,
    "encoder_width": 768,
    "add_cross_attention": True,
}
MED = "med_config.json"
V, T = "blip.visual_encoder.", "blip.text_encoder."
HEAD = {0: (1024, None), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}


def public_shapes(width, patch, grid, blocks, hidden, layers, inner, vocab, positions):
    """Every tensor that the score needs, written down from the release's modules."""
    shapes = {
        f"{V}cls_token": (1, 1, width),
        f"{V}pos_embed": (1, grid * grid + 1, width),
        f"{V}patch_embed.proj.weight": (width, 3, patch, patch),
        f"{V}patch_embed.proj.bias": (width,),
        f"{T}embeddings.word_embeddings.weight": (vocab, hidden),
        f"{T}embeddings.position_embeddings.weight": (positions, hidden),
    }

    def linear(name, rows, columns):
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name, size):
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    for block in (f"{V}blocks.{number}." for number in range(blocks)):
        norm(block + "norm1", width)
        norm(block + "norm2", width)
        linear(block + "attn.qkv", 3 * width, width)
        linear(block + "attn.proj", width, width)
        linear(block + "mlp.fc1", 4 * width, width)
        linear(block + "mlp.fc2", width, 4 * width)
    norm(f"{V}norm", width)
    norm(f"{T}embeddings.LayerNorm", hidden)
    for layer in (f"{T}encoder.layer.{number}." for number in range(layers)):
        for attention, seen in (("attention", hidden), ("crossattention", width)):
            linear(f"{layer}{attention}.self.query", hidden, hidden)
            linear(f"{layer}{attention}.self.key", hidden, seen)
            linear(f"{layer}{attention}.self.value", hidden, seen)
            linear(f"{layer}{attention}.output.dense", hidden, hidden)
            norm(f"{layer}{attention}.output.LayerNorm", hidden)
        linear(layer + "intermediate.dense", inner, hidden)
        linear(layer + "output.dense", hidden, inner)
        norm(layer + "output.LayerNorm", hidden)
    for number, (rows, columns) in HEAD.items():
        linear(f"mlp.layers.{number}", rows, columns or hidden)
    return shapes


def random_state(**changes):
    """Random weights large enough that picture and text both move the reward, and the extras."""
    sizes = SIZES | changes
    generator = torch.Generator().manual_seed(7)
    state = {}
    for name, shape in public_shapes(**sizes).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            is_scale = "norm" in name.lower() and name.endswith("weight")
            state[name] = 0.2 * noise + (1.0 if is_scale else 0.0)
        else:
            state[name] = noise / math.sqrt(noise[0].numel() if len(shape) < 4 else 20.0)
    state[f"{T}embeddings.position_ids"] = torch.arange(sizes["positions"])[None]
    for side, columns in (("vision", sizes["width"]), ("text", sizes["hidden"])):
        state[f"blip.{side}_proj.weight"] = torch.zeros(256, columns)
        state[f"blip.{side}_proj.bias"] = torch.zeros(256)
    return state


def med_config(**changes):
    small = {
        "hidden_size": SIZES["hidden"],
        "intermediate_size": SIZES["inner"],
        "max_position_embeddings": SIZES["positions"],
        "num_attention_heads": TEXT_HEADS,
        "num_hidden_layers": SIZES["layers"],
        "vocab_size": SIZES["vocab"],
    }
    return RELEASE_MED_CONFIG | small | changes


class Reference:
    def __init__(self, state):
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x, eps):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return centred / scale * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def patches(self, pixels_BCHW):
        size = self.state[f"{V}patch_embed.proj.weight"].shape[-1]
        cut_BPK = torch.nn.functional.unfold(pixels_BCHW.double(), size, stride=size).transpose(
            1, 2
        )
        kernel_VK = self.state[f"{V}patch_embed.proj.weight"].flatten(1)
        states_BPV = cut_BPK @ kernel_VK.T + self.state[f"{V}patch_embed.proj.bias"]
        first_B1V = self.state[f"{V}cls_token"].repeat(len(pixels_BCHW), 1, 1)
        return torch.cat([first_B1V, states_BPV], 1) + self.state[f"{V}pos_embed"]

    def picture_attention(self, name, x_BLV):
        width = x_BLV.shape[-1]
        mixed = self.linear(f"{name}.qkv", x_BLV)
        query, key, value = (mixed[..., part * width : (part + 1) * width] for part in range(3))
        return self.linear(f"{name}.proj", attend(query, key, value, width // 64))

    def block(self, name, x_BLV):
        x_BLV = x_BLV + self.picture_attention(
            f"{name}.attn", self.norm(f"{name}.norm1", x_BLV, 1e-6)
        )
        inner = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x_BLV, 1e-6))
        return x_BLV + self.linear(f"{name}.mlp.fc2", gelu(inner))

    def picture(self, pixels_BCHW):
        x_BLV = self.patches(pixels_BCHW)
        for number in range(SIZES["blocks"]):
            x_BLV = self.block(f"{V}blocks.{number}", x_BLV)
        return self.norm(f"{V}norm", x_BLV, 1e-6)

    def text_attention(self, name, x_BTH, seen, mask_BT=None):
        parts = (x_BTH, seen, seen)
        names = ("query", "key", "value")
        query, key, value = (
            self.linear(f"{name}.self.{part}", x) for part, x in zip(names, parts, strict=True)
        )
        mixed = self.linear(f"{name}.output.dense", attend(query, key, value, TEXT_HEADS, mask_BT))
        return self.norm(f"{name}.output.LayerNorm", mixed + x_BTH, 1e-12)

    def layer(self, name, x_BTH, states_BLV, mask_BT):
        x_BTH = self.text_attention(f"{name}.attention", x_BTH, x_BTH, mask_BT)
        x_BTH = self.text_attention(f"{name}.crossattention", x_BTH, states_BLV)
        inner = gelu(self.linear(f"{name}.intermediate.dense", x_BTH))
        return self.norm(
            f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", inner) + x_BTH, 1e-12
        )

    def words(self, ids_BT):
        words = self.state[f"{T}embeddings.word_embeddings.weight"][ids_BT]
        places = self.state[f"{T}embeddings.position_embeddings.weight"][: ids_BT.shape[1]]
        return self.norm(f"{T}embeddings.LayerNorm", words + places, 1e-12)

    def head(self, x_BH):
        for number in HEAD:
            x_BH = self.linear(f"mlp.layers.{number}", x_BH)
        return x_BH[:, 0]

    def rewards(self, pixels_BCHW, ids_BT, mask_BT):
        states_BLV, x_BTH = self.picture(pixels_BCHW), self.words(ids_BT)
        for number in range(SIZES["layers"]):
            x_BTH = self.layer(f"{T}encoder.layer.{number}", x_BTH, states_BLV, mask_BT)
        return (self.head(x_BTH[:, 0]) - 0.16717362830052426) / 1.0333394966054072


def attend(query, key, value, heads, mask_BS=None):
    """One head after the other; what the mask leaves out is taken out of the sum."""
    size = query.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = (query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(size)).exp()
        if mask_BS is not None:
            scores = scores * mask_BS[:, None, :]
        out.append(scores / scores.sum(-1, keepdim=True) @ value[..., part])
    return torch.cat(out, -1)


def gelu(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def reference_pixels(image):
    """Shorter side to 32, middle 32 x 32, CLIP's mean and deviation."""
    width, height = image.size
    scale = 32 / min(width, height)
    image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    pixels_HWC = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float64) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy(((pixels_HWC - mean) / std).transpose(2, 0, 1))


def reference_ids(text):
    words = text.lower().replace(":", " : ").replace(".", " . ").split()
    numbers = [WORDS.index(word) if word in WORDS else 1 for word in words]
    ids = [2, *numbers[:33], 3]
    return ids + [0] * (35 - len(ids)), [1] * len(ids) + [0] * (35 - len(ids))
