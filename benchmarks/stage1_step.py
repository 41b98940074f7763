"""A step of Stage 1 against plain fine-tuning of the same LLaVA, and its loss by itself.

- step: forward pass, backward pass and AdamW; Stage 1's own module, and the same model's forward
  pass with labels as transformers has it. Weights, batch and optimizer are the same.
- loss: from the last hidden states to their gradient and the head's; ours, and a plain reading of
  the release's formula: all positions' logits, a shifted float32 copy, unreduced token losses, and
  a weight for each of them.

Both run in turn in one process. Times are medians; their ratio is the median of the rounds' ratios.
Memory is what torch has allocated at most; a step's with weights and optimizer. ``share`` is the
supervised share of the positions.

    python -m benchmarks.stage1_step [--share 0.5 1.0] [--rounds 5] [--samples 4] [--tokens 512]
        [--vocabulary 32000] [--hidden 512] [--layers 6] [--picture 112] [--chunk-mib 64]
        [--device cpu] [--bf16] [--checkpointing] [--store stage1_step]

LLaVA 7B's sizes on a GPU: --device cuda --bf16 --checkpointing --hidden 4096 --intermediate 11008
--heads 32 --layers 32 --vision-hidden 1024 --vision-layers 24 --picture 336 --samples 8
--tokens 2048 --store stage1_step_gpu
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.side_by_side import MIB, memory_compared, time_compared
from benchmarks.store import store_result
from selfilter_ray.config import TrainConfig
from selfilter_ray.stage1.chunked_loss import chunked_loss
from selfilter_ray.stage1.loss import IGNORED, coefficients, supervised_tokens
from selfilter_ray.stage1.model import Batch, Stage1Model
from selfilter_ray.stage1.score_net import ScoreNet

PATCH, FEATURES = 14, 1536


def main() -> None:
    arguments = _arguments()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    measured: dict[str, Any] = {**vars(arguments), "threads": torch.get_num_threads()}
    measured["loss"] = {str(share): _loss(arguments, device, share) for share in arguments.share}
    model = _model(arguments).to(device)
    measured["parameters"] = sum(value.numel() for value in model.parameters())
    learning = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5)
    measured["step"] = {
        str(share): _step(model, optimizer, arguments, device, share) for share in arguments.share
    }
    store_result("stage1_step", measured, arguments.store)


def _step(
    model: Stage1Model,
    optimizer: torch.optim.Optimizer,
    arguments: argparse.Namespace,
    device: torch.device,
    share: float,
) -> dict[str, Any]:
    batch = _batch(model, arguments, share).to(device)
    inputs = batch.inputs(model.vlm.dtype)

    def ours() -> None:
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()

    def plain() -> None:
        optimizer.zero_grad()
        model.vlm(**inputs, labels=batch.labels_BT, use_cache=False).loss.backward()
        optimizer.step()

    result = time_compared(ours, plain, device, arguments.rounds)
    held = _held(model, optimizer)
    result["held_mib"] = round(held / MIB, 1)
    return result | memory_compared(ours, plain, device, optimizer.zero_grad, held)


def _loss(arguments: argparse.Namespace, device: torch.device, share: float) -> dict[str, Any]:
    """The loss alone, from hidden states on."""
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    shape = (arguments.samples, arguments.tokens, arguments.hidden)
    hidden_BTD = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    weight_VD = torch.empty(
        (arguments.vocabulary, arguments.hidden), device=device, dtype=dtype, requires_grad=True
    )
    torch.nn.init.normal_(weight_VD, std=0.02)
    labels_BT = _labels(arguments, share).to(device)
    z_B = torch.linspace(-1, 1, arguments.samples, device=device)
    losses: dict[str, float] = {}

    def without_gradients() -> None:
        hidden_BTD.grad = weight_VD.grad = None

    def run(name: str, loss_of: Callable[..., torch.Tensor]) -> None:
        without_gradients()
        loss = loss_of(hidden_BTD, weight_VD, labels_BT, z_B)
        loss.backward()
        losses[name] = loss.item()

    def ours() -> None:
        run("ours", lambda *parts: _ours(*parts, arguments.chunk_mib * MIB))

    def plain() -> None:
        run("plain", _plainly)

    result = time_compared(ours, plain, device, arguments.rounds)
    if abs(losses["ours"] / losses["plain"] - 1) > 1e-3:
        raise RuntimeError(f"the two losses differ: {losses}")
    return result | memory_compared(ours, plain, device, without_gradients)


def _ours(
    hidden_BTD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_BT: torch.Tensor,
    z_B: torch.Tensor,
    chunk_bytes: int,
) -> torch.Tensor:
    mask_BT = labels_BT[:, 1:] != IGNORED
    coefficient_B = coefficients(z_B, supervised_tokens(labels_BT))
    coefficient_N = coefficient_B[mask_BT.nonzero()[:, 0]]
    targets_N = labels_BT[:, 1:][mask_BT]
    hidden_ND = hidden_BTD[:, :-1][mask_BT]
    return chunked_loss(hidden_ND, weight_VD, None, targets_N, coefficient_N, chunk_bytes)[0]


def _plainly(
    hidden_BTD: torch.Tensor, weight_VD: torch.Tensor, labels_BT: torch.Tensor, z_B: torch.Tensor
) -> torch.Tensor:
    logits_BTV = torch.nn.functional.linear(hidden_BTD, weight_VD)
    shifted_NV = logits_BTV[:, :-1].float().reshape(-1, len(weight_VD))
    targets_BT = labels_BT[:, 1:]
    nll_N = torch.nn.functional.cross_entropy(shifted_NV, targets_BT.flatten(), reduction="none")
    weights_B = len(z_B) * torch.softmax(z_B, dim=0)
    weights_N = weights_B[:, None].expand(targets_BT.shape).flatten()
    return (weights_N * nll_N).sum() / (targets_BT != IGNORED).sum()


def _held(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights and of the optimizer's state."""
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [*model.parameters(), *states]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _model(arguments: argparse.Namespace) -> Stage1Model:
    text = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.intermediate or 3 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
    )
    vision = CLIPVisionConfig(
        hidden_size=arguments.vision_hidden,
        intermediate_size=4 * arguments.vision_hidden,
        num_hidden_layers=arguments.vision_layers,
        num_attention_heads=arguments.vision_hidden // 64,
        image_size=arguments.picture,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=arguments.vocabulary - 1
    )
    train = TrainConfig(
        gradient_checkpointing=arguments.checkpointing, loss_chunk_mib=arguments.chunk_mib
    )
    torch.set_default_dtype(torch.bfloat16 if arguments.bf16 else torch.float32)
    vlm = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    return Stage1Model(vlm.train(), ScoreNet(FEATURES), train)


def _batch(model: Stage1Model, arguments: argparse.Namespace, share: float) -> Batch:
    """One picture a sample. Any position may be supervised: the worst that can come."""
    samples, tokens = arguments.samples, arguments.tokens
    ids_BT = torch.randint(arguments.vocabulary - 1, (samples, tokens))
    ids_BT[:, 1 : 1 + (arguments.picture // PATCH) ** 2] = arguments.vocabulary - 1
    side = arguments.picture
    return Batch(
        rows=torch.arange(samples),
        input_ids_BT=ids_BT,
        attention_mask_BT=torch.ones_like(ids_BT),
        labels_BT=_labels(arguments, share),
        pictures={"pixel_values": torch.randn(samples, 3, side, side)},
        token_inputs={},
        features_BD=torch.randn(samples, FEATURES),
    )


def _labels(arguments: argparse.Namespace, share: float) -> torch.Tensor:
    shape = (arguments.samples, arguments.tokens)
    labels_BT = torch.randint(arguments.vocabulary - 1, shape)
    return labels_BT.where(torch.rand(shape) < share, IGNORED)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 1.0])
    sizes = {
        "rounds": 5,
        "samples": 4,
        "tokens": 512,
        "vocabulary": 32_000,
        "hidden": 512,
        "intermediate": 0,
        "heads": 8,
        "layers": 6,
        "vision-hidden": 128,
        "vision-layers": 2,
        "picture": 112,
        "chunk-mib": 64,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--store", default="stage1_step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
