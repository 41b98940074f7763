"""``selfilter-ray ingest``: files or Kafka topics into a running service."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from selfilter_ray.config.explain import explain
from selfilter_ray.config.load import apply_override, read_yaml
from selfilter_ray.errors import ConfigError
from selfilter_ray.service.ingest.kafka_settings import KafkaSettings

if TYPE_CHECKING:
    from selfilter_ray.service.ingest.outbox import Counts
    from selfilter_ray.service.ingest.sources import Kind

KEY_VARIABLE = "SELFILTER_KEY"
PATIENCE_SECONDS = 300.0
VALUE_ERROR = "Value error, "  # what pydantic puts before the messages of validators


def ingest_from_files(
    url: str,
    inputs: Sequence[str],
    out: Path = Path("ingested"),
    kind: Kind = "auto",
    image_root: Path | None = None,
    key_file: Path | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Counts:
    """Send what was not sent yet, and say what became of it.

    Args:
        url: of the service.
        inputs, kind, image_root: see ``open_sources``.
        out: folder for answers, errors and progress.
        key_file: holds the key; None for the variable ``SELFILTER_KEY``, if there is one.
        patience: seconds for which a service that is away is asked again.

    Raises:
        ConfigError: wrong usage (exit code 2).
        DataError: the inputs cannot be read, or nothing of them could be used (3).
        ServiceError: the service refuses, or is away for longer (1); the same call continues.
    """
    from selfilter_ray.service.client import Client
    from selfilter_ray.service.ingest.files import ingest_files
    from selfilter_ray.terminal import Terminal

    terminal = Terminal()
    with Client(url, read_key(key_file), patience=patience) as client:
        counts = ingest_files(client, inputs, out, kind, image_root, terminal)
    terminal.output.print(
        f"{counts.rows:,} rows: {counts.admitted:,} admitted, {counts.rejected:,} rejected, "
        f"{counts.failed:,} failed. Answers: {out / 'answers.ndjson'}"
        + (f"; errors: {out / 'errors.ndjson'}" if counts.failed else ""),
        soft_wrap=True,
        markup=False,
    )
    return counts


def ingest_from_kafka(
    url: str,
    settings: Path | KafkaSettings,
    overrides: Sequence[str] = (),
    key_file: Path | None = None,
) -> None:
    """Read topics until SIGINT or SIGTERM.

    Args:
        settings: or the YAML file of them.
        overrides: ``"a=b"`` strings, as of ``--set``.
        key_file: see ``ingest_from_files``.

    Raises:
        ConfigError: wrong settings, or brokers and topics that are not there (exit code 2).
        SelfilterError: the service or the brokers refuse (1); the next process continues.
    """
    if isinstance(settings, Path):
        settings = load_kafka_settings(settings, overrides)
    try:
        from selfilter_ray.service.ingest.kafka import KafkaIngest
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: install selfilter-ray[kafka].") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    KafkaIngest(settings, url, read_key(key_file)).run()


def load_kafka_settings(path: Path, overrides: Sequence[str] = ()) -> KafkaSettings:
    """The settings in a YAML file.

    Raises:
        ConfigError: naming each wrong key.
    """
    tree = read_yaml(path)
    for override in overrides:
        apply_override(tree, override)
    try:
        return KafkaSettings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explained(error)) from None


def _explained(error: ValidationError) -> str:
    """What is wrong, without the values: they may be secrets in the wrong place."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    if all(item["type"] in {"extra_forbidden", "missing"} for item in items):
        return explain(error, KafkaSettings)
    lines = [
        f"{'.'.join(map(str, item['loc'])) or 'config'}: {item['msg'].removeprefix(VALUE_ERROR)}"
        for item in items
    ]
    return "config is not valid:\n  " + "\n  ".join(lines)


def read_key(file: Path | None) -> str | None:
    """The key of the service; never an argument of a command, which every user can see.

    Raises:
        ConfigError: when the file cannot be read, or holds none.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key file {file} cannot be read: {error}.") from None
    if not key:
        raise ConfigError(f"key file {file} is empty.")
    return key
