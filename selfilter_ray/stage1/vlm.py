"""The target VLM as a folder that transformers loads, whatever it is made from.

Every rank loads the same folder, so a model put together from parts or built from sizes is written
once, before training starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from selfilter_ray.config import (
    AssembledVlm,
    PretrainedVlm,
    ScratchVlm,
    TextConfig,
    VisionConfig,
    VlmConfig,
)
from selfilter_ray.errors import ConfigError, SelfilterError
from selfilter_ray.samples.record import IMAGE_TOKEN
from selfilter_ray.stage1.families.registry import family_of

VISION_LAYER = -2  # LLaVA takes the last but one layer, without the class token


def prepare_vlm(config: VlmConfig, folder: Path, texts: Iterable[str], seed: int) -> str:
    """Make the initial model, unless it is there already.

    Args:
        config: what to make it from.
        folder: where a model that has to be built is written.
        texts: of the pool, for the tokenizer of a model from scratch.
        seed: of the random weights.

    Returns:
        What ``from_pretrained`` takes.
    """
    if isinstance(config, PretrainedVlm):
        return _checked(config.path)
    torch.manual_seed(seed)
    model, tokenizer = (
        _scratch(config, texts) if isinstance(config, ScratchVlm) else _assembled(config)
    )
    image_processor = image_processor_of(config.vision)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return str(folder)


def _checked(path: str) -> str:
    """What every rank is going to load but the weights: better missed here than there."""
    try:
        family_of(path)
    except SelfilterError:
        raise
    except Exception as error:  # the loaders raise many types
        raise ConfigError(
            f"the VLM {path} cannot be loaded: {error} Give a folder, or the name of one that this "
            "machine can download."
        ) from error
    # Workers have other working directories.
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _scratch(
    config: ScratchVlm, texts: Iterable[str]
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    tokenizer = train_tokenizer(texts, config.text.vocab_size)
    text = text_config(config.text, tokenizer)
    vision = vision_config(config.vision)
    return LlavaForConditionalGeneration(_llava_config(vision, text, tokenizer)), tokenizer


def _assembled(
    config: AssembledVlm,
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    name = _language_model(config.language_model)
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    language = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tower, vision = _vision(config.vision)
    llava = _llava_config(vision, language.config, tokenizer)
    llava.projector_hidden_act = "linear" if config.projector == "linear" else "gelu"
    model = LlavaForConditionalGeneration(llava)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    if tower is not None:
        model.model.vision_tower.load_state_dict(tower.state_dict())
    _init_projector(model.model.multi_modal_projector, config)
    return model, tokenizer


def _vision(source: str | VisionConfig) -> tuple[Any, Any]:
    """A pretrained tower and its config, or None and the config of a new one."""
    if isinstance(source, VisionConfig):
        return None, vision_config(source)
    tower = CLIPVisionModel.from_pretrained(source)
    return tower, tower.config


def _llava_config(vision: Any, text: Any, tokenizer: PreTrainedTokenizerBase) -> LlavaConfig:
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=VISION_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
    )


def text_config(sizes: TextConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Of a LLaMA with the tokenizer's words; ``sizes.vocab_size`` is only what it was asked for."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def vision_config(sizes: VisionConfig) -> CLIPVisionConfig:
    """Of a CLIP vision tower."""
    return CLIPVisionConfig(
        hidden_size=sizes.hidden_size,
        intermediate_size=4 * sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )


def image_processor_of(vision: str | VisionConfig) -> CLIPImageProcessor:
    """The one that comes with a tower, or CLIP's at the size of a new one."""
    if isinstance(vision, str):
        return CLIPImageProcessor.from_pretrained(vision)
    size = vision.image_size
    return CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


def _init_projector(projector: Any, config: AssembledVlm) -> None:
    if config.projector == "linear":
        # LLaVA 1.0's projector: the second layer of transformers' one is the identity.
        torch.nn.init.eye_(projector.linear_2.weight)
        torch.nn.init.zeros_(projector.linear_2.bias)
    if config.projector_weights is None:
        return
    state = _projector_state(Path(config.projector_weights))
    missing = {"linear_1.weight", "linear_1.bias"} - set(state)
    if missing:
        raise ConfigError(
            f"{config.projector_weights} holds no projector: {sorted(missing)} missing."
        )
    projector.load_state_dict(state, strict=config.projector == "mlp")


def _projector_state(file: Path) -> dict[str, torch.Tensor]:
    """The release's names (``model.mm_projector.0.weight``) or transformers' own."""
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"projector_weights {file} cannot be loaded: {error}") from None
    names = {"0": "linear_1", "2": "linear_2"}
    renamed = {}
    for key, tensor in state.items():
        short = re.sub(r"^.*(mm_projector|multi_modal_projector)\.", "", key)
        layer, _, kind = short.rpartition(".")
        renamed[f"{names.get(layer, layer) or 'linear_1'}.{kind}"] = tensor.float()
    return renamed


def _language_model(name: str) -> str:
    if name == "package:smollm2":
        from selfilter_ray.bundled.smollm2 import smollm2_folder

        return str(smollm2_folder())
    if name.startswith("package:"):
        raise ConfigError(f"no packaged language model {name!r}: there is package:smollm2.")
    return name


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of the pool's own words: any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", IMAGE_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[IMAGE_TOKEN],
    )
