"""The easy-vqa package as a pool of LLaVA records (MIT licence, drawings of 64 px, 13 answers)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from selfilter_ray import atomic
from selfilter_ray.bundled.packages import cache_folder, package_folder
from selfilter_ray.errors import ConfigError

SPLITS = ("train", "test")
FORMAT = 2  # of the records; another one is written beside what an older version left
NEGATIONS = frozenset({"no", "not"})
SHAPES = frozenset({"circle", "rectangle", "triangle"})


def packaged_dataset(name: str) -> Path:
    """The LLaVA JSON file of ``easy-vqa/train`` or ``easy-vqa/test``, written on first use.

    It lies in the user's cache folder, with a link to the images of the package beside it.

    Raises:
        ConfigError: for another name, or when the package is not installed.
    """
    package, _, split = name.partition("/")
    if package != "easy-vqa" or split not in SPLITS:
        raise ConfigError(f"no packaged data set {name!r}: use easy-vqa/train or easy-vqa/test.")
    data = package_folder("easy_vqa", "install selfilter-ray[bundled]") / "data" / split
    folder = cache_folder() / f"easy-vqa-{FORMAT}"
    _link(folder / split, data / "images")
    file = folder / f"easy_vqa_{split}.json"
    if file.exists():
        return file
    questions = json.loads((data / "questions.json").read_text(encoding="utf-8"))
    atomic.write_json(
        file, [_record(split, row, *question) for row, question in enumerate(questions)]
    )
    return file


def _record(split: str, row: int, question: str, answer: str, image: int) -> dict[str, Any]:
    return {
        "id": f"easy-vqa-{split}-{image:04d}-{row:05d}",
        "image": f"{split}/{image}.png",
        "source": f"easy-vqa/{_kind(question, answer)}",
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
    }


def _kind(question: str, answer: str) -> str:
    if answer in {"yes", "no"}:
        return "absence" if NEGATIONS & set(question.split()) else "presence"
    return "shape" if answer in SHAPES else "color"


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() == target.resolve():
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
