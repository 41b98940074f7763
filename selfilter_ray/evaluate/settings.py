"""Settings of an evaluation."""

from __future__ import annotations

from selfilter_ray.strict import Positive, Strict


class EvaluateConfig(Strict):
    """One pass of a VLM over held-out records.

    ``batch_size`` samples go through the VLM at once; ``chunk_tokens`` answer tokens times the
    vocabulary is the largest tensor that its head makes. An answer of at most ``short_tokens``
    tokens, its end mark included, counts in the accuracy; for longer ones there is the loss.
    ``blind``: also without the pictures, another pass. That shows how far the model leans on them;
    a model that never had a prompt without a picture may say anything then, so it is not what a
    model learns from questions alone: for that, tune one without pictures.
    ``bf16``: null takes that of ``train``.
    """

    batch_size: Positive = 64
    chunk_tokens: Positive = 256
    short_tokens: Positive = 8
    blind: bool = False
    bf16: bool | None = None
