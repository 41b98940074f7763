"""The configuration: one typed model a stage, unknown keys refused with a suggestion.

A config is a YAML file. ``${NAME}`` and ``${NAME:-default}`` take values from the environment,
``--set a.b=c`` overrides any key. Relative paths are relative to the working directory.
"""

from selfilter_ray.config.data import DataConfig, LimitsConfig
from selfilter_ray.config.featurize import (
    BundledConfig,
    EmbedderConfig,
    FeaturizeConfig,
    OpenClipConfig,
)
from selfilter_ray.config.load import load_config, parse_config
from selfilter_ray.config.root import (
    CoidoModelConfig,
    Config,
    RatingsConfig,
    RayConfig,
    ReportConfig,
    SeedModelConfig,
)
from selfilter_ray.config.train import (
    LoraConfig,
    TrainableConfig,
    TrainConfig,
    TuneConfig,
    plain_training,
)
from selfilter_ray.config.vlm import (
    AssembledVlm,
    PretrainedVlm,
    ScratchVlm,
    TextConfig,
    VisionConfig,
    VlmConfig,
)

__all__ = [
    "AssembledVlm",
    "BundledConfig",
    "CoidoModelConfig",
    "Config",
    "DataConfig",
    "EmbedderConfig",
    "FeaturizeConfig",
    "LimitsConfig",
    "LoraConfig",
    "OpenClipConfig",
    "PretrainedVlm",
    "RatingsConfig",
    "RayConfig",
    "ReportConfig",
    "ScratchVlm",
    "SeedModelConfig",
    "TextConfig",
    "TrainConfig",
    "TrainableConfig",
    "TuneConfig",
    "VisionConfig",
    "VlmConfig",
    "load_config",
    "parse_config",
    "plain_training",
]
