"""The configuration: one typed model a stage, unknown keys refused with a suggestion.

A config is a YAML file. ``${NAME}`` and ``${NAME:-default}`` take values from the environment,
``--set a.b=c`` overrides any key. Relative paths are relative to the working directory.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from selfilter_ray.compare.settings import CompareConfig
from selfilter_ray.deepspeed_settings import DeepSpeedSettings
from selfilter_ray.errors import ConfigError
from selfilter_ray.measure.settings import MeasureConfig
from selfilter_ray.scorers.image_reward.settings import ImageRewardConfig
from selfilter_ray.scorers.judge.settings import JudgeConfig
from selfilter_ray.select.settings import SETTINGS, SelectConfig, SelfilterSettings
from selfilter_ray.strict import ActorsConfig, Fraction, Positive, Strict


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

    ``inputs`` are files or folders, or ``package:easy-vqa/train`` for the packaged data set.
    ``limit`` keeps that many records, chosen by a hash of the id and the seed, so that the choice
    does not depend on the order of the input.
    """

    speed_only = frozenset({"check_threads"})

    inputs: list[str] = Field(min_length=1)
    image_root: str | None = None
    source_field: str = "source"
    limit: Positive | None = None
    limits: LimitsConfig = LimitsConfig()
    check_threads: Positive = 8


class OpenClipConfig(Strict):
    """Any open_clip architecture; ``pretrained``: a tag, a checkpoint, or null for none."""

    name: Literal["open_clip"] = "open_clip"
    architecture: str = "ViT-L-14"
    pretrained: str | None = "openai"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class BundledConfig(Strict):
    """EfficientNet-Lite0 and MiniLM, real weights that come as packages. Not CLIP."""

    name: Literal["bundled"] = "bundled"
    image_size: Annotated[int, Field(ge=32, le=512)] = 224


EmbedderConfig = Annotated[OpenClipConfig | BundledConfig, Field(discriminator="name")]


class FeaturizeConfig(ActorsConfig):
    """The feature pass over Ray Data actors.

    ``shard_rows`` records make one shard: the grain of work, of files and of resuming.
    """

    speed_only = frozenset({"actors", "decode_threads", "prefetch_batches"})

    embedder: EmbedderConfig = OpenClipConfig()
    batch_size: Positive = 64
    shard_rows: Positive = 2048
    decode_threads: Positive = 2
    prefetch_batches: Positive = 4


class VisionConfig(Strict):
    """A CLIP vision tower built from these sizes, with random weights."""

    image_size: Positive = 64
    patch_size: Positive = 16
    hidden_size: Positive = 64
    layers: Annotated[int, Field(ge=2)] = 2
    heads: Positive = 2

    @model_validator(mode="after")
    def _whole_patches(self) -> VisionConfig:
        if self.image_size % self.patch_size:
            raise ValueError("image_size must be a multiple of patch_size")
        if self.hidden_size % self.heads:
            raise ValueError("hidden_size must be a multiple of heads")
        return self


class TextConfig(Strict):
    """A LLaMA language model built from these sizes, with random weights and its own tokenizer."""

    vocab_size: Annotated[int, Field(ge=300)] = 512
    hidden_size: Positive = 96
    intermediate_size: Positive = 256
    layers: Positive = 2
    heads: Positive = 4

    @model_validator(mode="after")
    def _whole_heads(self) -> TextConfig:
        if self.hidden_size % self.heads:
            raise ValueError("hidden_size must be a multiple of heads")
        return self


class PretrainedVlm(Strict):
    """A whole VLM of any family: a folder or hub name."""

    kind: Literal["pretrained"] = "pretrained"
    path: str


class AssembledVlm(Strict):
    """A language model behind a vision tower and a projector, as LLaVA is first put together.

    ``language_model``: a folder, a hub name, or ``package:smollm2``. ``vision``: a folder or hub
    name of a CLIP model, or sizes for a new one. ``projector_weights``: a pretrained projector
    (``mm_projector.bin`` of the LLaVA releases, or safetensors).
    """

    kind: Literal["assembled"] = "assembled"
    language_model: str
    vision: str | VisionConfig = VisionConfig()
    projector: Literal["mlp", "linear"] = "mlp"
    projector_weights: str | None = None


class ScratchVlm(Strict):
    """A small LLaVA with random weights, for the quickstart and for tests."""

    kind: Literal["scratch"] = "scratch"
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()


VlmConfig = Annotated[PretrainedVlm | AssembledVlm | ScratchVlm, Field(discriminator="kind")]


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
    return TrainConfig.model_validate({**dict(train), **PLAIN, **given})


class RatingsConfig(Strict):
    """Ratings of a sample by other models: of ImageReward, and of LLM judges."""

    image_reward: ImageRewardConfig | None = None
    judges: tuple[JudgeConfig, ...] = ()

    @model_validator(mode="after")
    def _one_judge_a_column(self) -> RatingsConfig:
        columns = [judge.column for judge in self.judges]
        if len(set(columns)) < len(columns):
            raise ValueError("judges: one for each dimension")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the ratings that will be made."""
        reward = ("image_reward",) if self.image_reward is not None else ()
        return (*reward, *(judge.column for judge in self.judges))

    def lacks(self, columns: Iterable[str]) -> str:
        """Which of the columns nothing makes, in words; empty where all are there."""
        return ", ".join(sorted(set(columns) - {"clip_score", *self.columns}))


class SeedModelConfig(Strict):
    """MLLM-Selector's seed model: the VLM tuned plainly on the seed set. Null: as in ``train``."""

    epochs: Positive | None = 1
    learning_rate: Annotated[float, Field(gt=0)] | None = None


class CoidoModelConfig(Strict):
    """CoIDO's scorer: an MLP trained on part of the pool, balanced between clusters.

    ``inputs``: ``both`` takes the ratings ``train.score_columns`` beside the CLIP features.
    """

    pool_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    clusters: Positive = 20
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (256, 64)
    inputs: Literal["clip", "scores", "both"] = "clip"
    epochs: Positive | None = None


class ReportConfig(Strict):
    """What ``report.html`` shows."""

    sheet_images: Annotated[int, Field(ge=1, le=200)] = 24
    thumbnail_pixels: Annotated[int, Field(ge=32, le=512)] = 160


class RayConfig(Strict):
    """Where Ray runs: null starts a local instance on the loopback interface, of ``num_cpus``."""

    address: str | None = None
    num_cpus: Positive | None = None


class Config(Strict):
    """A whole run."""

    run_dir: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig
    featurize: FeaturizeConfig = FeaturizeConfig()
    ratings: RatingsConfig = RatingsConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    measure: MeasureConfig = MeasureConfig()
    seed_model: SeedModelConfig = SeedModelConfig()
    coido_model: CoidoModelConfig = CoidoModelConfig()
    select: SelectConfig = SelfilterSettings()
    compare: CompareConfig = CompareConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _ratings_for_the_score_net(self) -> Config:
        if self.train.inputs == "clip":
            return self
        missing = self.ratings.lacks(self.train.score_columns)
        if missing:
            raise ValueError(
                f"train.score_columns wants {missing}, which no rater in ratings makes: configure "
                "one, or shorten the list"
            )
        return self

    def tuning(self) -> TrainConfig:
        """How ``train --objective plain`` trains: ``train``, and over it what ``tune`` says."""
        return plain_training(self.train, self.tune)


def load_config(
    source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()
) -> Config:
    """Read and check a config.

    Args:
        source: path of a YAML file, a mapping, or a config.
        overrides: ``"a.b=c"`` strings; each value is read as YAML.

    Raises:
        ConfigError: naming each wrong key, with the nearest right one.
    """
    if isinstance(source, Config):
        tree: Any = source.model_dump()
    elif isinstance(source, Mapping):
        tree = _copy(source)
    else:
        tree = _read_yaml(Path(source))
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Check an already loaded tree of settings."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _copy(value) for key, value in tree.items()}
    return tree


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path} is not UTF-8 text (byte {error.start})") from None
    try:
        tree = yaml.safe_load(text)
    except Exception as error:  # a date or tag with a wrong value raises types of its own
        raise ConfigError(f"config {path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must be a mapping with run_dir and data")
    try:
        expanded = _expand(tree, str(path), itertools.count())
    except RecursionError:
        raise ConfigError(f"config {path} is nested too deeply, or in itself") from None
    assert isinstance(expanded, dict)
    return expanded


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


_MAX_VALUES = 100_000  # aliases of aliases multiply: a few lines can stand for billions


def _expand(node: Any, where: str, counter: Iterator[int]) -> Any:
    if next(counter) > _MAX_VALUES:
        raise ConfigError(f"{where}: more than {_MAX_VALUES} values; check its aliases.")
    if isinstance(node, dict):
        return {key: _expand(value, f"{where}: {key}", counter) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, where, counter) for value in node]
    if isinstance(node, str):
        return _VARIABLE.sub(lambda match: _variable(match, where), node)
    return node


def _variable(match: re.Match[str], where: str) -> str:
    name, default = match.group(1), match.group(2)
    value = os.environ.get(name) or default
    if value is None:
        raise ConfigError(f"{where} needs the environment variable {name}: set it and run again.")
    return value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: write it as key.subkey=value")
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a section")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except Exception:  # see _read_yaml
        raise ConfigError(f"--set {override[:200]!r}: the value is not YAML") from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        path = _field_path(item["loc"])
        where = ".".join(str(part) for part in path) or "config"
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key.{_suggest(path)}")
        elif item["type"] == "missing":
            lines.append(f"{where}: missing, it must be given.")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message} (got {item['input']!r})")
    return "config is not valid:\n  " + "\n  ".join(dict.fromkeys(lines))


def _field_path(location: Sequence[str | int]) -> list[str | int]:
    """The path as the user wrote it: without the names that pydantic adds for union members."""
    path: list[str | int] = []
    previous: str | int = ""
    for part in location:
        if previous not in _UNION_MEMBERS or part not in _UNION_MEMBERS[previous]:
            path.append(part)
        previous = part
    return path


_UNION_MEMBERS: dict[str | int, frozenset[str]] = {
    "embedder": frozenset({"open_clip", "bundled"}),
    "select": frozenset(SETTINGS),
    "vlm": frozenset({"pretrained", "assembled", "scratch"}),
    "vision": frozenset({"str", "function-after[_whole_patches(), VisionConfig]"}),
    "actors": frozenset({"constrained-int", "tuple[constrained-int, constrained-int]"}),
}


def _suggest(path: Sequence[str | int]) -> str:
    known = _known_keys(Config)
    parent = ".".join(str(part) for part in path[:-1])
    unknown = str(path[-1])
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent]
    elsewhere = [key for key in known if key.rpartition(".")[2] == unknown]
    close = difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.6)
    if elsewhere or close:  # the very name in another section says more than a similar one here
        return f" Did you mean {[*elsewhere, *close][0]}?"
    return f" Known here: {', '.join(sorted(set(siblings)))}." if siblings else ""


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key, in the order of the sections: what a user meets first comes first."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for section in _sections(field.annotation):
            keys += _known_keys(section, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]
