"""Settings of the LLM judge. The key of the server is in the environment, never here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from selfilter_ray.errors import ConfigError
from selfilter_ray.strict import Positive, Strict

Dimension = Literal["quality", "helpfulness", "accuracy"]
# The best score: Self-Filter's judge rates 0 to 10, Alpagasus' 0 to 5.
TOP_SCORE: dict[str, float] = {"quality": 10.0, "helpfulness": 5.0, "accuracy": 5.0}

NotNegative = Annotated[float, Field(ge=0.0)]
Seconds = Annotated[float, Field(gt=0.0)]


class Prices(Strict):
    """Price of a million tokens, in any currency; null when unknown."""

    input_per_million: NotNegative | None = None
    output_per_million: NotNegative | None = None

    @property
    def known(self) -> bool:
        return self.input_per_million is not None and self.output_per_million is not None


class JudgeConfig(Strict):
    """Which model rates what, and how fast it may be asked.

    ``base_url`` is the server's address up to and with ``/v1``. ``api_key_env`` is the name of the
    environment variable that holds the key; null for a server without one. ``dimension`` is
    quality (0 to 10) or helpfulness or accuracy (0 to 5). ``temperature`` and ``seed`` are not sent
    when null, ``token_field`` is the name under which ``max_tokens`` is sent, and ``extra_body``
    holds what only this server knows. ``max_cost`` stops a run whose estimate is above it.

    ``base_url`` is not part of a stored answer's key: a server may move. ``model`` says who judges.
    """

    speed_only = frozenset(
        {
            "base_url",
            "api_key_env",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout_seconds",
            "max_retries",
            "backoff_seconds",
            "prices",
            "max_cost",
        }
    )

    base_url: str
    model: Annotated[str, Field(min_length=1)]
    api_key_env: str | None = None
    dimension: Dimension = "quality"
    with_image: bool = True
    image_pixels: Annotated[int, Field(ge=32 * 32)] = 512 * 512
    jpeg_quality: Annotated[int, Field(ge=10, le=95)] = 85
    temperature: NotNegative | None = 0.0
    seed: int | None = None
    max_tokens: Positive = 64
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    requests_per_minute: Annotated[float, Field(gt=0.0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0.0)] | None = None
    timeout_seconds: Seconds = 120.0
    max_retries: Annotated[int, Field(ge=0, le=100)] = 8
    backoff_seconds: Seconds = 1.0
    prices: Prices = Prices()
    max_cost: NotNegative | None = None

    @property
    def top_score(self) -> float:
        """The best score of the dimension; the worst is 0."""
        return TOP_SCORE[self.dimension]

    @property
    def column(self) -> str:
        """Name of the column that holds the scores."""
        return f"judge_{self.dimension}"

    # These raise ConfigError, not ValueError: pydantic's message would show the value.
    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(
                "judge.api_key_env is not the name of an environment variable (its value is not "
                "shown, it may be a key): export the key and give the variable's name here."
            )
        return name

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            plain = parts.scheme in {"http", "https"} and bool(parts.hostname)
            secret = "@" in parts.netloc or bool(parts.query or parts.fragment)
        except ValueError:
            plain = secret = False
        if secret:
            raise ConfigError(
                "judge.base_url must hold no user, password or query (not shown): put the key into "
                "an environment variable and name that in judge.api_key_env."
            )
        if not plain:
            raise ValueError("must look like http://host:8000/v1")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> JudgeConfig:
        if self.max_cost is not None and not self.prices.known:
            raise ConfigError("judge.max_cost needs judge.prices: give both prices, or no limit.")
        return self
