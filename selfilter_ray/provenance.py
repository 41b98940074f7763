"""What a result was made from: input files, code and package versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import selfilter_ray

if TYPE_CHECKING:
    from selfilter_ray.samples.inputs import InputFile

PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "deepspeed",
    "open_clip_torch",
    "peft",
    "numpy",
    "pyarrow",
    "pillow",
    "safetensors",
)


def describe_inputs(
    files: Iterable[InputFile], known: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Path or URI, size, time and SHA-256 of each file; the time is that of this host's file.

    Args:
        known: earlier descriptions; a file of the same size and time is not read again.
    """
    before = {(item["path"], item["bytes"], item["modified_ns"]): item for item in known}
    described = []
    for file in files:
        status = file.path.stat()
        identity = (file.place, status.st_size, status.st_mtime_ns)
        described.append(
            before.get(identity)
            or {
                "path": identity[0],
                "bytes": identity[1],
                "modified_ns": identity[2],
                "sha256": hash_file(file.path),
            }
        )
    return described


def hash_model(name: str) -> str:
    """SHA-256 over the files of a model's folder; the name itself where it is none."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = sorted(file for file in folder.iterdir() if file.is_file())
    text = "".join(f"{file.name}:{hash_file(file)}\n" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of Python, this package and those that decide a result."""
    found = {"python": platform.python_version(), "selfilter-ray": selfilter_ray.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
