"""From what the user names to files whose rows can be sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.service.ingest.feature_lines import count_features, feature_folder, feature_rows
from selfilter_ray.service.ingest.record_lines import count_records, record_files, record_rows
from selfilter_ray.service.ingest.row import Source
from selfilter_ray.service.ingest.sample_lines import count_lines, sample_rows

Kind = Literal["auto", "samples", "records", "features"]


def open_sources(inputs: Sequence[str], kind: Kind, image_root: Path | None) -> list[Source]:
    """The files behind the inputs, in order.

    Args:
        inputs: files, folders, or ``package:`` names.
        kind: what they hold; ``auto`` tells by the name: ``.ndjson`` and ``.gz`` hold samples as
            the HTTP interface takes them, a run's folder has features, all else are records.
        image_root: folder that the image paths of records are relative to; None for their file's.

    Raises:
        ConfigError: when nothing is named.
        DataError: when an input does not exist, or is not what ``kind`` says.
    """
    if not inputs:
        raise ConfigError("name at least one input: a file, a folder, or package:easy-vqa/train.")
    return [source for name in inputs for source in _sources(name, kind, image_root)]


def _sources(name: str, kind: Kind, image_root: Path | None) -> list[Source]:
    path = Path(name)
    kind = _kind(name) if kind == "auto" else kind
    if kind == "features":
        folder = feature_folder(path)
        if folder is None:
            raise DataError(f"{name} holds no features: name a run folder, or its features/.")
        return [
            Source(file, kind, partial(feature_rows, file), partial(count_features, file))
            for file in sorted(folder.glob("shard-*.parquet"))
        ]
    if kind == "samples":
        if not path.is_file():
            raise DataError(f"input {name} does not exist, or is no file.")
        return [Source(path, kind, partial(sample_rows, path), partial(count_lines, path))]
    return [
        Source(file, kind, partial(record_rows, file, image_root), partial(count_records, file))
        for file in record_files(name)
    ]


def _kind(name: str) -> Kind:
    path = Path(name)
    if path.suffix.lower() in {".ndjson", ".gz"}:
        return "samples"
    return "features" if feature_folder(path) is not None else "records"
