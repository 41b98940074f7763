"""A whole run: all sections together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfilter_ray.compare.settings import CompareConfig
from selfilter_ray.config.data import DataConfig
from selfilter_ray.config.featurize import FeaturizeConfig
from selfilter_ray.config.presets import Preset, with_preset
from selfilter_ray.config.train import TrainConfig, TuneConfig, plain_training
from selfilter_ray.measure.settings import MeasureConfig
from selfilter_ray.scorers.image_reward.settings import ImageRewardConfig
from selfilter_ray.scorers.judge.settings import JudgeConfig
from selfilter_ray.select.settings import SelectConfig, SelfilterSettings
from selfilter_ray.strict import Place, Positive, Strict


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
    """A whole run. ``preset`` (``presets.py``) fills in what is not given."""

    run_dir: Place
    preset: Preset | None = None
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

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, tree: Any) -> Any:
        return with_preset(tree) if isinstance(tree, dict) else tree

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
