"""The data files of a pool: local ones where they lie, those of a URI copied to this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from selfilter_ray.config import DataConfig
from selfilter_ray.errors import DataError
from selfilter_ray.samples.readers import READERS, data_files
from selfilter_ray.storage import below, exists, is_uri, local_copy
from selfilter_ray.storage.objects import size_of
from selfilter_ray.storage.places import Uri


@dataclass(frozen=True, slots=True)
class InputFile:
    """A data file.

    Attributes:
        place: its path or URI, for locators and the manifest.
        path: of it on this host.
    """

    place: str
    path: Path

    @property
    def root(self) -> str:
        """What the image names of its records are relative to, where no root is configured."""
        return str(Uri.of(self.place).parent) if is_uri(self.place) else str(self.path.parent)


def input_files(config: DataConfig) -> list[InputFile]:
    """Every data file of the configured inputs; those of a URI are brought here if need be.

    Raises:
        DataError: for an input that does not exist.
        StorageError: when the store of a URI does not answer.
    """
    files = [file for name in config.inputs for file in _files(name)]
    missing = [file.place for file in files if not file.path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing: the dataset folder is incomplete.")
    return files


def files_here(places: Sequence[str]) -> dict[str, Path]:
    """Where data files lie on this host, by their places."""
    return {place: _one(place) if is_uri(place) else Path(place) for place in places}


def _files(name: str) -> list[InputFile]:
    if name.startswith("package:"):
        from selfilter_ray.bundled.easy_vqa import packaged_dataset

        name = str(packaged_dataset(name.removeprefix("package:")))
    if not is_uri(name):
        return [InputFile(str(file), file) for file in data_files(Path(name))]
    uri = Uri.of(name)
    if size_of(name) is not None:
        return [InputFile(str(uri), _one(name))]
    if not exists(name):
        raise DataError(f"input {uri.plain} does not exist: correct data.inputs.")
    copy = local_copy(str(uri), copied=_is_data)
    if not copy.is_dir():
        raise DataError(
            f"folder {uri.plain} holds no data: expected a Hugging Face dataset, parquet, JSONL or "
            "JSON."
        )
    relative = ((file, file.relative_to(copy).as_posix()) for file in data_files(copy))
    return [InputFile(below(str(uri), name), file) for file, name in relative]


def _one(place: str) -> Path:
    """A single data file of a URI, on this host."""
    uri = Uri.of(place)
    return local_copy(str(uri.parent), [uri.name], copied=_is_data) / uri.name


def _is_data(name: str) -> bool:
    """Images may lie beside the data: they are opened where they are."""
    return PurePosixPath(name).suffix.lower() in READERS
