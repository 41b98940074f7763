"""The pool and what a record may hold: config section ``data``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selfilter_ray.strict import Place, Positive, Strict


class LimitsConfig(Strict):
    """What a record may hold at most. A record past a limit goes to the quarantine."""

    image_bytes: Positive = 32 * 2**20
    image_pixels: Positive = 40_000_000
    image_aspect_ratio: Annotated[float, Field(ge=1.0)] = 50.0
    images_per_record: Positive = 8
    turns: Positive = 256
    text_bytes: Positive = 262_144


class DataConfig(Strict):
    """The pool: LLaVA JSON, JSONL, parquet or a Hugging Face dataset folder.

    ``inputs`` are files or folders, or ``package:easy-vqa/train`` for the packaged data set. They
    and ``image_root`` are local paths or URIs.
    ``limit`` keeps that many records, chosen by a hash of the id and the seed, so that the choice
    does not depend on the order of the input.
    """

    speed_only = frozenset({"check_threads"})

    inputs: list[Place] = Field(min_length=1)
    image_root: Place | None = None
    source_field: str = "source"
    limit: Positive | None = None
    limits: LimitsConfig = LimitsConfig()
    check_threads: Positive = 8
