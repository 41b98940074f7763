"""A tuned model as a folder that needs nothing of this package: for lmms-eval and other programs.

``tuned/vlm`` is nearly that already. What is added: adapters are merged into the weights, the
prompt of the training becomes the chat template, and a text says how to start.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from selfilter_ray.config import TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.evaluate.chat_template import chat_template
from selfilter_ray.measure.load import load_vlm, whole_model
from selfilter_ray.stage1.families.contract import Family
from selfilter_ray.stage1.families.registry import family_of

README = "README.txt"
# What lmms-eval calls its wrapper of a kind of model; "huggingface" is the one for any other.
LMMS_EVAL = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "internvl": "internvl_hf",
}


def export(model: str | Path, folder: Path, train: TrainConfig, base: str | None = None) -> Path:
    """Write the model, its processor and ``README.txt``; the folder appears when all is there.

    Args:
        model: ``tuned/vlm`` of a run, or another VLM or folder of adapters.
        folder: which must not exist, or be empty.
        train: the settings it was tuned with, ``config.tuning()``: its prompt and type.
        base: the model that adapters belong to; None takes the one that they name.

    Returns:
        The folder.

    Raises:
        ConfigError: when the folder holds something.
        SelfilterError: when the model cannot be used.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: give a new folder.")
    # Sums of adapters and weights are made in float32; only their result is rounded.
    vlm = load_vlm(str(model), base, torch.float32, "cpu")
    _merge_adapters(vlm)
    family = family_of(whole_model(str(model), base))
    templated = _with_template(family, train.prompt)
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    vlm.to(torch.bfloat16 if train.bf16 else torch.float32).save_pretrained(temporary)
    family.save(str(temporary))
    (temporary / README).write_text(_readme(family, templated), encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    os.replace(temporary, folder)
    return folder


def _merge_adapters(vlm: Any) -> None:
    """Each adapted layer becomes a plain one; without adapters nothing happens."""
    adapted = [(name, part) for name, part in vlm.named_modules() if hasattr(part, "lora_A")]
    for name, layer in adapted:
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(vlm.get_submodule(parent), own, layer.get_base_layer())


def _with_template(family: Family, prompt: str) -> bool:
    """Give processor and tokenizer the chat template; some programs read the one, some the other.

    Returns:
        Whether there is one.
    """
    processor, tokenizer = family.processor, family.tokenizer
    own = getattr(processor, "chat_template", None) or tokenizer.chat_template
    template = chat_template(prompt, family) or own
    processor.chat_template = tokenizer.chat_template = template
    return bool(template)


def _readme(family: Family, templated: bool) -> str:
    name = LMMS_EVAL.get(family.config.model_type, "huggingface")
    prompt = (
        "Its chat template is the prompt that it was tuned with.\n"
        if templated
        else "It has no chat template: give the program the prompt that it was tuned with.\n"
    )
    return (
        f"A {type(family.config).__name__.removesuffix('Config')} model in the layout of "
        "transformers: AutoModelForImageTextToText and\nAutoProcessor load this folder. "
        f"{prompt}\n"
        "With lmms-eval, from this folder, on a machine with a GPU:\n\n"
        f"    python -m lmms_eval --model {name} --model_args pretrained=$PWD \\\n"
        "        --tasks mme,pope,gqa --batch_size 1 --output_path results\n\n"
        "With VLMEvalKit, name this folder as model_path of the class that wraps this kind of\n"
        "model, in a file for its --config.\n"
    )
