"""The settings of every selection method: one class a method. Imports nothing heavy.

In a config, ``select`` is a mapping with ``method`` and that method's own parameters, or just the
method's name. A mapping without ``method`` is Self-Filter.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from selfilter_ray.errors import ConfigError
from selfilter_ray.strict import Fraction, Positive, Strict

AtLeastZero = Annotated[float, Field(ge=0.0)]
Column = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]

DEFAULT_RATIO = 0.15


class MethodSettings(Strict):
    """What all methods share. ``budget``: how many to keep; or ``ratio``: their share."""

    budget: Annotated[int, Field(ge=0)] | None = None
    ratio: Fraction | None = None

    @model_validator(mode="after")
    def _one_size(self) -> MethodSettings:
        if self.budget is not None and self.ratio is not None:
            raise ValueError("give budget or ratio, not both")
        return self

    def count(self, usable_rows: int) -> int | None:
        """Number of records to keep of ``usable_rows`` (15 % when nothing is set).

        None where the method decides by its values how many to keep.

        Raises:
            ConfigError: when the budget is larger than that.
        """
        if self.budget is None:
            ratio = DEFAULT_RATIO if self.ratio is None else self.ratio
            return min(usable_rows, round(ratio * usable_rows))
        if self.budget > usable_rows:
            raise ConfigError(
                f"select.budget is {self.budget}, but only {usable_rows} records are usable: "
                "lower the budget, or give select.ratio instead."
            )
        return self.budget


class SelfilterSettings(MethodSettings):
    """Self-Filter: the hardest sample, then a penalty on its nearest neighbours.

    ``backend``: what proposes neighbours; only ``faiss-ivf`` can change a pick. ``shards``: into
    how many Ray actors the features are spread, for pools that one machine cannot hold.
    ``drop_unlearned`` (ours): the share that is passed over, the samples whose loss under the VLM
    after Stage 1 is highest among those of like difficulty.
    """

    speed_only = frozenset({"shards"})

    method: Literal["selfilter"] = "selfilter"
    gamma: AtLeastZero = 1.0
    k_nearest: Annotated[int, Field(ge=0)] = 10
    difficulty: Literal["shifted", "raw"] = "shifted"
    backend: Literal["exact", "faiss-flat", "faiss-ivf", "faiss-gpu", "torch"] = "exact"
    shards: Positive = 1
    drop_unlearned: Fraction = 0.0

    @model_validator(mode="after")
    def _whole_pool_in_shards(self) -> SelfilterSettings:
        if self.shards > 1 and self.drop_unlearned:
            raise ValueError("drop_unlearned works on one machine: leave shards at 1")
        return self

    @model_validator(mode="after")
    def _exact_shards(self) -> SelfilterSettings:
        if self.shards > 1 and self.backend == "faiss-ivf":
            raise ValueError("backend faiss-ivf works on one machine: leave shards at 1")
        return self


class SelfilterGroupedSettings(MethodSettings):
    """Self-Filter's difficulty in a grouped draw: harder groups get larger quotas (ours).

    ``alpha``: null for min(M/B - 1, 4). ``drop_unlearned``: before the draw, the pool is split
    into ``groups`` of like difficulty, and this share of each is passed over, the samples whose
    loss under the VLM after Stage 1 is highest.
    """

    method: Literal["selfilter_grouped"] = "selfilter_grouped"
    groups: Positive = 10
    alpha: AtLeastZero | None = None
    drop_unlearned: Fraction = 0.25


class RandomSettings(MethodSettings):
    """A random draw: plain, by source, or by length of the answer."""

    method: Literal["random"] = "random"
    kind: Literal["uniform", "stratified", "length_matched"] = "uniform"


class StatisticSettings(MethodSettings):
    """A statistic of the scoring pass of ``model``, and which end of its ranking to keep."""

    keep: Literal["top", "middle", "bottom"] = "top"
    model: Column = "pre"


class El2nSettings(StatisticSettings):
    """EL2N: how far the predicted distributions are from the answer."""

    method: Literal["el2n"] = "el2n"


class GrandSettings(StatisticSettings):
    """GraNd: the norm of the loss gradient."""

    method: Literal["grand"] = "grand"


class LossSettings(StatisticSettings):
    """The mean token loss."""

    method: Literal["loss"] = "loss"


class IfdSettings(StatisticSettings):
    """IFD: the loss over the loss without the question."""

    method: Literal["ifd"] = "ifd"


class VisualGainSettings(StatisticSettings):
    """Visual gain: by how much the image lowers the loss."""

    method: Literal["visual_gain"] = "visual_gain"


class ClipScoreSettings(MethodSettings):
    """The highest CLIP scores."""

    method: Literal["clip_score"] = "clip_score"


class ImageRewardSettings(MethodSettings):
    """The highest ImageReward."""

    method: Literal["image_reward"] = "image_reward"


class JudgeSettings(MethodSettings):
    """The highest quality by the LLM judge."""

    method: Literal["judge"] = "judge"


class AlpagasusSettings(MethodSettings):
    """Alpagasus: by an LLM judge's rating; without budget and ratio, all from ``threshold`` up."""

    method: Literal["alpagasus"] = "alpagasus"
    dimension: Literal["helpfulness", "accuracy"] = "helpfulness"
    threshold: float = 4.5

    def count(self, usable_rows: int) -> int | None:
        """None without budget and ratio: then the ratings decide."""
        if self.budget is None and self.ratio is None:
            return None
        return super().count(usable_rows)


class ClusterSettings(MethodSettings):
    """Methods on spherical k-means. ``clusters``: null for a number that fits the pool."""

    clusters: Positive | None = None
    iterations: Positive = 10


class PrototypicalitySettings(ClusterSettings):
    """Prototypicality: far from the nearest centroid, or near it."""

    method: Literal["prototypicality"] = "prototypicality"
    keep: Literal["far", "near"] = "far"


class SemDeDupSettings(ClusterSettings):
    """SemDeDup: near duplicates inside a cluster go first. ``keep``: which of a pair stays."""

    method: Literal["semdedup"] = "semdedup"
    keep: Literal["far", "near"] = "far"


class CoincideSettings(ClusterSettings):
    """COINCIDE: clusters by transferability and density, inside a cluster greedy MMD."""

    method: Literal["coincide"] = "coincide"
    temperature: Annotated[float, Field(gt=0.0)] = 0.1
    kernel_width: Annotated[float, Field(gt=0.0)] = 1.0


class D2Settings(MethodSettings):
    """D2 pruning: importance passed along a graph of nearest neighbours."""

    method: Literal["d2"] = "d2"
    column: Column = "pre_el2n"
    k_nearest: Annotated[int, Field(ge=0)] = 10
    gamma_forward: AtLeastZero = 1.0
    gamma_reverse: AtLeastZero = 1.0


class CoidoSettings(MethodSettings):
    """CoIDO: the highest scores, in each source by its share of the pool, or over all."""

    method: Literal["coido"] = "coido"
    quota: Literal["source", "none"] = "source"


class MllmSelectorSettings(MethodSettings):
    """MLLM-Selector: a random seed set, then a grouped draw by how much the seed model needs it.

    ``alpha``: null for min(M/B - 1, 4). ``mode: kl`` takes the largest alpha whose sources stay
    within ``epsilon`` of the pool's. ``drop_top``: share of the most necessary samples to pass
    over. ``seed_ratio``: size of the seed set as a share of the pool, at most half the budget.
    """

    method: Literal["mllm_selector"] = "mllm_selector"
    necessity: Literal["mean", "sum", "gain", "ratio", "conditional", "task_z"] = "mean"
    groups: Positive = 10
    alpha: AtLeastZero | None = None
    mode: Literal["power", "kl"] = "power"
    epsilon: AtLeastZero = 0.05
    drop_top: Fraction = 0.0
    seed_ratio: Fraction = 0.05

    @model_validator(mode="after")
    def _one_alpha(self) -> MllmSelectorSettings:
        if self.mode == "kl" and self.alpha is not None:
            raise ValueError("mode kl finds alpha itself: leave alpha out")
        return self


SETTINGS: dict[str, type[MethodSettings]] = {
    settings.model_fields["method"].default: settings
    for settings in (
        SelfilterSettings,
        SelfilterGroupedSettings,
        MllmSelectorSettings,
        RandomSettings,
        El2nSettings,
        GrandSettings,
        LossSettings,
        IfdSettings,
        VisualGainSettings,
        ClipScoreSettings,
        ImageRewardSettings,
        JudgeSettings,
        AlpagasusSettings,
        PrototypicalitySettings,
        SemDeDupSettings,
        D2Settings,
        CoincideSettings,
        CoidoSettings,
    )
}


def _named(value: Any) -> Any:
    """A mapping with its method, from a name or a mapping.

    Checked here, since the union's own message does not say which name comes near.
    """
    if isinstance(value, str):
        value = {"method": value}
    if not isinstance(value, Mapping):
        return value
    value = {"method": "selfilter", **value}
    name = value["method"]
    if not isinstance(name, str) or name not in SETTINGS:
        raise ValueError(f"unknown method {name!r}.{_hint(str(name), SETTINGS)}")
    return value


def _hint(unknown: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(sorted(known))}."


SelectConfig = Annotated[
    SelfilterSettings
    | SelfilterGroupedSettings
    | MllmSelectorSettings
    | RandomSettings
    | El2nSettings
    | GrandSettings
    | LossSettings
    | IfdSettings
    | VisualGainSettings
    | ClipScoreSettings
    | ImageRewardSettings
    | JudgeSettings
    | AlpagasusSettings
    | PrototypicalitySettings
    | SemDeDupSettings
    | D2Settings
    | CoincideSettings
    | CoidoSettings,
    Field(discriminator="method"),
    BeforeValidator(_named),
]

_ADAPTER: TypeAdapter[MethodSettings] = TypeAdapter(SelectConfig)


def parse_method(method: str | Mapping[str, Any]) -> MethodSettings:
    """The settings of a method, from its name or a mapping.

    Raises:
        ConfigError: naming what is wrong, with the nearest right name.
    """
    try:
        return _ADAPTER.validate_python(method)
    except ValidationError as error:
        lines = [
            ".".join(["select", *(str(part) for part in item["loc"] if part not in SETTINGS)])
            + f": {_message(item)}"
            for item in error.errors()
        ]
        raise ConfigError("method is not valid:\n  " + "\n  ".join(lines)) from None


def _message(item: Any) -> str:
    if item["type"] != "extra_forbidden":
        return str(item["msg"]).removeprefix("Value error, ")
    known = SETTINGS[item["loc"][0]].model_fields
    return f"unknown setting.{_hint(str(item['loc'][-1]), known)}"
