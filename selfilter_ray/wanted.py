"""What a run has to know of its samples, from what its methods read.

A method names columns; a column's name says what makes it: Stage 1, a pass of one of the VLMs, a
rating, CoIDO's scorer, or MLLM-Selector's draw of a seed set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfilter_ray.compare.entries import Entry
from selfilter_ray.compare.settings import CompareConfig, method_settings
from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError
from selfilter_ray.features.shards import shard_seconds
from selfilter_ray.measure.table import STATISTICS
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.select.contract import Needs
from selfilter_ray.select.mllm_selector import MEMBER
from selfilter_ray.select.registry import method_of, needs_of
from selfilter_ray.select.settings import MethodSettings, MllmSelectorSettings

# The VLM before tuning, tuned on a random seed set, and tuned together with the score net.
MODELS = ("pre", "seed", "tuned")
STAGE1_COLUMNS = frozenset({"difficulty", "weight", "train_loss"})
RATINGS = ("image_reward", "judge_quality", "judge_helpfulness", "judge_accuracy")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What has to be made.

    Attributes:
        stage1: whether Stage 1 has to be trained.
        models: the VLMs that have to pass over the pool, of ``MODELS``.
        coido: whether CoIDO's scorer has to be trained.
        ratings: whether raters have to be asked.
        columns: all columns that methods name, sorted.
        seed_set: what MLLM-Selector's seed set depends on (its share of the pool, and the budget or
            ratio that it may fill by half, of several the smallest); None where no method has one.
    """

    stage1: bool
    models: tuple[str, ...]
    coido: bool
    ratings: bool
    columns: tuple[str, ...]
    seed_set: tuple[Any, ...] | None = None


def wanted_by(
    methods: Sequence[MethodSettings],
    config: Config,
    comparing: bool = False,
    training: bool = False,
) -> Wanted:
    """What the methods need, all together.

    Args:
        comparing: the methods keep what ``compare`` says, not what ``select`` says.
        training: and each of the budgets of ``compare.train``.

    Raises:
        ConfigError: for a rating that nothing in ``ratings`` makes, a column that is none, or
            settings of ``train`` under which Stage 1 leaves no difficulty.
    """
    columns: set[str] = set()
    for settings in methods:
        needs = needs_of(settings)
        names = {*needs.columns, *needs.columns_with_gaps}
        for name in names:
            _check(name, method_of(settings).name, config)
        columns |= names
    passes = {name.split("_", 1)[0] for name in columns if _is_measured(name)}
    if "answer_tokens" in columns and not passes:
        passes = {"pre"}
    stage1 = bool(columns & STAGE1_COLUMNS) or "tuned" in passes
    models = tuple(name for name in MODELS if name in passes)
    coido = "coido_score" in columns
    if comparing and config.compare.methods is None:
        columns |= set(config.ratings.columns)  # so that the methods by ratings take part
    rated = _sees_ratings(stage1, config.train.inputs, coido, config.coido_model.inputs)
    ratings = bool(config.ratings.columns) and (rated or bool(columns & set(RATINGS)))
    seed_set: tuple[Any, ...] | None = None
    if MEMBER in columns or "seed" in models:
        size = config.compare if comparing and _has_size(config.compare) else config.select
        seed_set = (seed_ratio_of(methods), size.budget, size.ratio)
        if training:
            leaders = config.compare.train.leaders
            further = () if leaders is None else leaders.budgets
            seed_set = (*seed_set, *config.compare.train.budgets, *further)
    found = Wanted(stage1, models, coido, ratings, tuple(sorted(columns)), seed_set)
    _check_training(found, config)
    return found


def seed_ratio_of(methods: Iterable[MethodSettings]) -> float:
    """MLLM-Selector's seed set as a share of the pool; the largest that a method asks for."""
    own = [method.seed_ratio for method in methods if isinstance(method, MllmSelectorSettings)]
    return max(own, default=MllmSelectorSettings().seed_ratio)


def _sees_ratings(stage1: bool, stage1_inputs: str, coido: bool, coido_inputs: str) -> bool:
    """Whether a net that has to be trained takes ratings."""
    return (stage1 and stage1_inputs != "clip") or (coido and coido_inputs != "clip")


def _has_size(section: CompareConfig) -> bool:
    return section.budget is not None or section.ratio is not None


UNGUARDED = " (Self-Filter takes them for drop_unlearned: 0 does without)"


def _check_training(wanted: Wanted, config: Config) -> None:
    train = config.train
    if wanted.stage1 and train.objective != "selfilter":
        raise ConfigError(
            f"train.objective is {train.objective}, but the methods of this run need Stage 1: leave"
            " it at selfilter. The seed model and CoIDO's scorer take their own."
        )
    if "tuned" in wanted.models and not train.save_vlm:
        raise ConfigError(f"statistics of the tuned model need train.save_vlm: true{UNGUARDED}.")
    if "tuned" in wanted.models and train.losses == "stored":
        raise ConfigError(
            "statistics of the tuned model need train.losses: live: from stored losses the score "
            f"net alone is trained{UNGUARDED}."
        )
    if wanted.coido and config.coido_model.inputs != "clip":
        missing = config.ratings.lacks(train.score_columns)
        if missing:
            raise ConfigError(
                f"coido_model.inputs is {config.coido_model.inputs}: train.score_columns wants "
                f"{missing}, which no rater in ratings makes."
            )


def _is_measured(name: str) -> bool:
    return name.startswith(tuple(f"{model}_" for model in MODELS)) and name != MEMBER


def _check(name: str, method: str, config: Config) -> None:
    if name in RATINGS:
        if name not in config.ratings.columns:
            section = "ratings.image_reward" if name == "image_reward" else "ratings.judges"
            raise ConfigError(f"method {method} needs {name}: configure it in {section}.")
        return
    if _is_measured(name):
        _check_measured(name, method, config)
        return
    others = {"clip_score", "answer_tokens", "coido_score", MEMBER}
    if name not in STAGE1_COLUMNS and name not in others:
        raise ConfigError(
            f"method {method} reads the column {name!r}, which nothing makes. Columns of the "
            f"scoring pass begin with {', '.join(f'{model}_' for model in MODELS)}."
        )


def _check_measured(name: str, method: str, config: Config) -> None:
    model, _, statistic = name.partition("_")
    if statistic not in STATISTICS:
        raise ConfigError(
            f"method {method} reads the column {name!r}, but the pass of the {model} model makes "
            f"only {', '.join(f'{model}_{known}' for known in STATISTICS)}."
        )
    switch = {"loss_no_image": "no_image", "loss_no_question": "no_question", "grand": "grand"}
    if statistic in switch and not getattr(config.measure, switch[statistic]):
        raise ConfigError(f"method {method} needs measure.{switch[statistic]}: true.")


def methods_of(config: Config, comparing: bool) -> list[MethodSettings]:
    """The methods of a run: that of ``select``, and those of ``compare`` when they are compared.

    A comparison that names no methods takes those that the run can already serve.
    """
    methods: list[MethodSettings] = [config.select]
    if comparing and config.compare.methods is not None:
        methods += [method_settings(method) for method in config.compare.methods]
    return methods


def costs_of(entries: Iterable[Entry], folder: RunFolder) -> dict[str, dict[str, float]]:
    """For each entry what has to run before it can select: part to seconds.

    Of passes over the pool the seconds that their actors worked, of trainings those from their
    start to their end.
    """
    manifest = folder.manifest()
    passes = {"features": shard_seconds(folder.features)}
    if "rate" in manifest["stages"]:
        passes["ratings"] = float(manifest["stages"]["rate"]["seconds"])
    return {entry.label: _cost(needs_of(entry.settings), manifest, passes) for entry in entries}


def _cost(
    needs: Needs, manifest: Mapping[str, Any], passes: Mapping[str, float]
) -> dict[str, float]:
    stages, config = manifest["stages"], manifest["config"]
    parts = stages["score"]["parts"]
    names = {*needs.columns, *needs.columns_with_gaps}
    stage1 = bool(names & STAGE1_COLUMNS) or any(name.startswith("tuned_") for name in names)
    coido = "coido_score" in names
    inputs = config["train"]["inputs"], config["coido_model"]["inputs"]
    rated = _sees_ratings(stage1, inputs[0], coido, inputs[1])
    cost: dict[str, float] = {}
    if needs.features or stage1 or coido or "clip_score" in names:
        cost["features"] = passes["features"]
    if stage1:
        cost |= _stage1_cost(stages["train"], parts.get("score net", 0.0))
    if (rated or names & set(RATINGS)) and "ratings" in passes:
        cost["ratings"] = passes["ratings"]
    if any(name.startswith("seed_") for name in names):
        cost["seed model"] = parts["seed model"]
    if coido:
        cost["CoIDO's scorer"] = parts["CoIDO's scorer"]
    for model in MODELS:
        if any(_is_measured(name) and name.startswith(f"{model}_") for name in names):
            cost[f"{model} model's pass"] = parts[f"{model} model's pass"]
    return cost


def _stage1_cost(record: Mapping[str, Any], scoring: float) -> dict[str, float]:
    """From stored losses the pass that made them is a part of its own: others may share it."""
    if "parts" not in record:
        return {"Stage 1": record["seconds"] + scoring}
    own: Mapping[str, float] = record["parts"]
    return {"stored losses": own["stored losses"], "Stage 1": own["net"] + scoring}
