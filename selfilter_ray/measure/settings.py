"""Settings of the scoring pass: config section ``measure``."""

from __future__ import annotations

from selfilter_ray.strict import ActorsConfig, Positive


class MeasureConfig(ActorsConfig):
    """One pass of a VLM over the pool, on Ray Data actors.

    ``batch_size`` samples go through the VLM at once; ``chunk_tokens`` answer tokens times the
    vocabulary is the largest tensor that the language model's head makes. ``shard_rows`` records
    make one shard: the grain of work, of files and of resuming. ``no_image``, ``no_question``: the
    losses without the one or the other, each another pass through the VLM. ``grand``: gradient
    norms. ``bf16``: null takes that of ``train``. What is switched off is null in the table.
    """

    batch_size: Positive = 16
    chunk_tokens: Positive = 256
    shard_rows: Positive = 512
    no_image: bool = True
    no_question: bool = True
    grand: bool = True
    bf16: bool | None = None
