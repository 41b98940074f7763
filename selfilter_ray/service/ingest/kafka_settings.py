"""The settings of an ingestion from Kafka. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from selfilter_ray.errors import ConfigError
from selfilter_ray.strict import Positive, Strict

Seconds = Annotated[float, Field(gt=0.0)]
Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]

# What makes every message count; another value would lose some.
OURS = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "metadata.broker.list",
        "request.required.acks",
    }
)
SECRET_WORDS = ("password", "secret", "token", ".pem", "oauthbearer.config")


class KafkaSettings(Strict):
    """From which topics to which.

    Attributes:
        brokers: ``host:port``, several divided by commas.
        topics: whose messages are samples, as JSON objects of the HTTP interface.
        output: topic of the decisions, with the key and headers of their message.
        dead_letter: topic of the messages that the service refused.
        group: consumers of one group share the partitions.
        start: where a group begins that has not committed anything.
        batch: messages of a request.
        linger_seconds: for a batch to fill.
        message_bytes: of a message; longer ones are dead letters, their value left out.
        request_seconds: for each step of a request to the service.
        stop_seconds: for what is under way to finish when the process is told to stop, or when
            partitions are taken away; what is not finished then is read again by the next one.
        lag_seconds: between two lines of the log that name the lag.
        metrics_port: of Prometheus metrics on the loopback interface; None for none.
        options: of librdkafka, for consumer and producer: ``security.protocol``, ...
        secrets: options whose value is secret: ``env:NAME`` or ``file:PATH`` names where it is.
    """

    brokers: Annotated[str, Field(min_length=1)]
    topics: Annotated[tuple[Topic, ...], Field(min_length=1)]
    output: Topic
    dead_letter: Topic
    group: Annotated[str, Field(min_length=1)] = "selfilter"
    start: Literal["earliest", "latest"] = "earliest"
    batch: Positive = 256
    linger_seconds: Seconds = 0.2
    message_bytes: Positive = 8 * 2**20 + 2**18
    request_seconds: Seconds = 30.0
    stop_seconds: Seconds = 20.0
    lag_seconds: Seconds = 30.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    options: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)

    @field_validator("options", "secrets")
    @classmethod
    def _not_ours(cls, options: dict[str, str]) -> dict[str, str]:
        for name in OURS & options.keys():
            raise ValueError(f"{name} is set by selfilter-ray: remove it")
        return options

    @model_validator(mode="after")
    def _secrets_apart(self) -> KafkaSettings:
        for name in self.options:
            if any(word in name for word in SECRET_WORDS):
                raise ValueError(f"options.{name} is a secret: name its place under secrets")
        for name, place in self.secrets.items():
            if not place.startswith(("env:", "file:")):
                # Not repeated: it may be the secret itself.
                raise ValueError(f"secrets.{name} must be env:NAME or file:PATH")
        if len({*self.topics, self.output, self.dead_letter}) != len(self.topics) + 2:
            raise ValueError("topics, output and dead_letter must be different topics")
        return self

    def client_options(self) -> dict[str, str]:
        """The options for librdkafka, secrets among them.

        Raises:
            ConfigError: when a secret is not where the settings say.
        """
        secrets = {name: _secret(name, place) for name, place in self.secrets.items()}
        return {"bootstrap.servers": self.brokers} | self.options | secrets


def _secret(name: str, place: str) -> str:
    kind, _, where = place.partition(":")
    if kind == "env":
        value = os.environ.get(where, "")
    else:
        try:
            value = Path(where).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"secrets.{name}: {where} cannot be read: {error}.") from None
    if not value:
        raise ConfigError(f"secrets.{name}: {place} holds nothing.")
    return value
