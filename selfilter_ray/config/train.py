"""Stage 1 and plain tuning: config sections ``train`` and ``tune``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfilter_ray.config.deepspeed import DeepSpeedSettings
from selfilter_ray.config.vlm import ScratchVlm, VlmConfig
from selfilter_ray.strict import Fraction, Positive, Strict


class LoraConfig(Strict):
    """Low-rank adapters on the language model's linear layers (extra ``lora``).

    ``quantize: nf4`` keeps the language model below them in 4 bits (QLoRA; extra ``qlora``, GPU).
    """

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.0
    quantize: Literal["none", "nf4"] = "none"


class TrainableConfig(Strict):
    """Which parts of the VLM learn beside the score net.

    ``language_model: auto`` is ``full``, but ``frozen`` for MiniGPT-4.
    """

    language_model: Literal["auto", "full", "lora", "frozen"] = "auto"
    projector: bool = True
    vision_tower: bool = False


PromptFormat = Literal["auto", "vicuna_v1", "vicuna_v0", "chatml", "plain", "minigpt4", "template"]


class TrainConfig(Strict):
    """Stage 1: the VLM and the score net, trained together by one optimizer.

    ``batch_size`` is the number of samples a device sees at once: the softmax of the weights runs
    over it (``weight_scope: device``, the paper's release) or over all devices (``global``).
    The score net sees CLIP features, the ratings ``score_columns`` (the paper's Scores setting) or
    both; ``score_net_hidden`` are the sizes of its hidden layers, none for the paper's linear one.
    ``objective``: Self-Filter's, CoIDO's, or plain tuning without a score net.
    ``prompt``: the family's own (``auto``; LLaVA's is ``vicuna_v1``), the chat template that comes
    with the model (``template``), or a format by its name.
    ``steps``: optimizer steps instead of ``epochs``: the samples come again as often as it takes.
    ``pool_fraction``: the share of the usable samples that is trained on. ``losses``: of the VLM as
    it learns (``live``), or of the VLM as it was, from one pass over the pool (``stored``): then
    the score net alone is trained.
    """

    speed_only = frozenset(
        {"checkpoint_steps", "max_failures", "loader_workers", "min_workers", "loggers"}
    )

    vlm: VlmConfig = ScratchVlm()
    prompt: PromptFormat = "auto"
    max_length: Positive = 2048
    trainable: TrainableConfig = TrainableConfig()
    lora: LoraConfig = LoraConfig()

    objective: Literal["selfilter", "coido", "plain"] = "selfilter"
    inputs: Literal["clip", "scores", "both"] = "clip"
    score_columns: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "clip_score",
        "image_reward",
        "judge_quality",
    )
    score_net_hidden: tuple[Positive, ...] = ()
    loss_reduction: Literal["sum", "mean"] = "sum"
    weight_scope: Literal["device", "global"] = "device"
    score_net_init: Literal["zeros", "uniform"] = "zeros"
    score_net_learning_rate: Annotated[float, Field(gt=0)] | None = None

    epochs: Positive = 3
    steps: Positive | None = None
    batch_size: Positive = 16
    gradient_accumulation: Positive = 1
    group_by_length: bool = False
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_ratio: Fraction = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    bf16: bool = True
    gradient_checkpointing: bool = True
    loss_chunk_mib: Positive = 64  # float32 logits at a time

    workers: Positive = 1
    min_workers: Positive | None = None
    cpus_per_worker: Positive = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 2
    deepspeed: DeepSpeedSettings = Field(default_factory=dict)
    loader_workers: Annotated[int, Field(ge=0)] = 0
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    checkpoint_steps: Positive = 500
    max_failures: Annotated[int, Field(ge=0)] = 3
    save_vlm: bool = True

    pool_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    losses: Literal["live", "stored"] = "live"

    @model_validator(mode="after")
    def _four_bits_learn_through_adapters(self) -> TrainConfig:
        if self.lora.quantize != "none" and self.trainable.language_model != "lora":
            raise ValueError(
                f"lora.quantize: {self.lora.quantize} needs trainable.language_model: lora, since "
                "weights of 4 bits cannot learn"
            )
        return self

    @model_validator(mode="after")
    def _stored_losses_are_of_the_whole_pool(self) -> TrainConfig:
        if self.losses == "stored" and self.objective != "selfilter":
            raise ValueError(
                f"losses: stored trains the score net alone, by Self-Filter's objective: leave it "
                f"at live for the objective {self.objective}"
            )
        if self.losses == "stored" and self.pool_fraction < 1.0:
            raise ValueError(
                "losses: stored comes from a pass over the whole pool, so pool_fraction would save "
                "nothing: leave one of them out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _elastic_workers(cls, tree: Any) -> Any:
        """``workers: [min, max]``: the most, which decide what a step is, and the fewest."""
        workers = tree.get("workers") if isinstance(tree, dict) else None
        if not isinstance(workers, list | tuple) or len(workers) != 2:
            return tree
        return tree | {"workers": workers[1], "min_workers": workers[0]}

    @model_validator(mode="after")
    def _worker_range(self) -> TrainConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError("workers: [min, max] needs min <= max")
        return self


class TuneConfig(Strict):
    """Plain tuning at the end, on the chosen records. Null: as in ``train``.

    So Stage 1 can train a smaller VLM than the one that is wanted in the end: give that here.
    """

    vlm: VlmConfig | None = None
    prompt: PromptFormat | None = None
    max_length: Positive | None = None
    trainable: TrainableConfig | None = None
    lora: LoraConfig | None = None
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive | None = None
    gradient_accumulation: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    warmup_ratio: Fraction | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None
    deepspeed: DeepSpeedSettings | None = None


# What the score net would take does not matter where there is none.
PLAIN: dict[str, Any] = {
    "objective": "plain",
    "save_vlm": True,
    "pool_fraction": 1.0,
    "losses": "live",
    "inputs": "clip",
    "score_net_hidden": (),
    "loss_reduction": "sum",
    "weight_scope": "device",
    "score_net_init": "zeros",
    "score_net_learning_rate": None,
}


def plain_training(train: TrainConfig, section: Strict) -> TrainConfig:
    """``train`` with the plain objective and whatever a section gives instead of null.

    Raises:
        ValidationError: when the two do not go together.
    """
    given = {name: value for name, value in section if value is not None}
    if "epochs" in given:
        given.setdefault("steps", None)
    return TrainConfig.model_validate({**dict(train), **PLAIN, **given})
