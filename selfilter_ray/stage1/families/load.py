"""The weights of a VLM, of any family."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.stage1.families.registry import family_class


def load_model(path: str, dtype: torch.dtype, quantize: str = "none") -> Any:
    """What transformers makes of a folder or hub name.

    Args:
        quantize: ``nf4`` for a language model of 4 bits a weight, to be trained with adapters.

    Raises:
        ArtifactError: when weights are missing.
        ConfigError: when ``nf4`` cannot be had on this machine.
    """
    from transformers import AutoModelForImageTextToText

    options = {"quantization_config": _nf4(path, dtype)} if quantize == "nf4" else {}
    vlm, found = AutoModelForImageTextToText.from_pretrained(
        path, dtype=dtype, output_loading_info=True, **options
    )
    if found["missing_keys"]:  # transformers would go on with random values
        missing = sorted(found["missing_keys"])
        raise ArtifactError(f"{path} lacks {len(missing)} weights, {missing[0]} among them.")
    return vlm


def _nf4(path: str, dtype: torch.dtype) -> Any:
    """Double quantisation and computing in ``dtype``, as QLoRA has it (arXiv 2305.14314).

    Parts that may be trained whole keep their type. Stored as ``dtype``, so that ZeRO-3 can shard.
    """
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train.lora.quantize: nf4 needs a GPU and selfilter-ray[qlora]: set it to none."
        )
    from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        parts = family_class(config).parts(AutoModelForImageTextToText.from_config(config))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
        llm_int8_skip_modules=[parts.head, *parts.projector, *parts.vision],
    )
