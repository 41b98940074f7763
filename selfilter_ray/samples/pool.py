"""Reading a pool: every row of every input becomes a sample or a line of the quarantine."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfilter_ray.config import DataConfig
from selfilter_ray.errors import DataError
from selfilter_ray.samples.files import SCHEMA
from selfilter_ray.samples.identity import content_hash, limited, made_id, unique_ids
from selfilter_ray.samples.images import check_image
from selfilter_ray.samples.inputs import InputFile, input_files
from selfilter_ray.samples.parse import ParsedRow, parse_row
from selfilter_ray.samples.paths import image_place
from selfilter_ray.samples.quarantine import BadRow, Quarantined, count_reasons
from selfilter_ray.samples.readers import RawRow, read_rows
from selfilter_ray.storage import below, exists, write_bytes
from selfilter_ray.storage.places import plain

CHUNK_ROWS = 512


@dataclass
class Pool:
    """A pool that has been read.

    Attributes:
        table: the usable records, by ``SCHEMA``, sorted by first image and id: nothing downstream
            depends on the order of the input, and the records of one image lie together.
        quarantined: the rows that cannot be used.
        rows_in: rows of all inputs; ``table`` + ``quarantined`` + ``left_out``.
        left_out: usable rows not taken because of ``data.limit``.
        ids_made_unique: records whose id was shared by other content and got a suffix.
        ids_made: records without an id, which got one from their content.
    """

    table: pa.Table
    quarantined: list[Quarantined]
    rows_in: int
    left_out: int = 0
    ids_made_unique: int = 0
    ids_made: int = 0

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of rows for the manifest and the terminal."""
        return {
            "in": self.rows_in,
            "out": self.table.num_rows,
            "left_out_by_limit": self.left_out,
            "quarantined": count_reasons(self.quarantined),
            "ids_made": self.ids_made,
            "ids_made_unique": self.ids_made_unique,
        }


class NothingUsableError(DataError):
    """No row can be used. ``quarantined`` says why, row by row."""

    def __init__(self, message: str, quarantined: list[Quarantined]) -> None:
        super().__init__(message)
        self.quarantined = quarantined


def read_pool(
    config: DataConfig,
    image_store: str | Path,
    seed: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> Pool:
    """Read, check and order all inputs.

    Args:
        config: inputs, image root and limits.
        image_store: folder or URI for images that come as bytes, named by their hash.
        seed: decides which records ``config.limit`` keeps.
        progress: told the number of rows of each chunk.

    Raises:
        DataError: when a file cannot be read.
        NothingUsableError: when no row is usable.
        StorageError: when the store of a URI does not answer.
    """
    reading = _Reading(config, str(image_store))
    with ThreadPoolExecutor(config.check_threads) as threads:
        for file in input_files(config):
            for chunk in _chunks(read_rows(file.path), CHUNK_ROWS):
                reading.take(chunk, file, threads)
                progress(len(chunk))
    return reading.finish(seed)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image of a row: its path or URI, a name that does not depend on that, its bytes."""

    place: str
    name: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class _Parsed:
    row: ParsedRow
    images: tuple[_Image, ...]


@dataclass
class _Reading:
    """The state of one pass over the inputs."""

    config: DataConfig
    image_store: str
    rows_in: int = 0
    batches: list[pa.RecordBatch] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    image_checks: dict[str, BadRow | int] = field(default_factory=dict)
    first_rows: dict[tuple[str, str], int] = field(default_factory=dict)
    repeats: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def take(self, chunk: list[RawRow], file: InputFile, threads: ThreadPoolExecutor) -> None:
        root = self.config.image_root or file.root
        chunk = [_placed(raw, file) for raw in chunk]
        parsed = [self._parse(raw, root) for raw in chunk]
        self._look_at_images(parsed, threads)
        rows = []
        for raw, result in zip(chunk, parsed, strict=True):
            self.rows_in += 1
            try:
                rows.append(self._accept(raw, result, file))
            except BadRow as error:
                self.quarantined.append(Quarantined.of(error, raw.locator, _id_of(raw.row), "read"))
        self.batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))

    def finish(self, seed: int) -> Pool:
        if not self.ids:
            message = _nothing_usable(self.rows_in, self.quarantined)
            raise NothingUsableError(message, self.quarantined)
        table = pa.Table.from_batches(self.batches, schema=SCHEMA)
        single = self._drop_repeats(table)
        input_ids = [self.ids[row] for row in single]
        ids, made_unique = unique_ids(input_ids, [self.contents[row] for row in single])
        kept = limited(ids, self.config.limit, seed)
        table = table.take(pa.array((single[place] for place in kept), pa.int64()))
        table = table.set_column(0, "id", pa.array((ids[place] for place in kept), pa.string()))
        return Pool(
            _ordered(table),
            self.quarantined,
            self.rows_in,
            left_out=len(ids) - len(kept),
            ids_made_unique=made_unique,
            ids_made=sum(id is None for id in input_ids),
        )

    def _drop_repeats(self, table: pa.Table) -> list[int]:
        """Quarantine all but one of equal records, and return the rows that stay.

        Which one stays is decided by what the rows say, not by the order of the input.
        """
        groups = [[first, *others] for first, others in self.repeats.items()]
        rows = [row for group in groups for row in group]
        columns = ["record", "source", "images", "locator"]
        values = table.select(columns).take(pa.array(rows, pa.int64())).to_pylist()
        said = {row: tuple(value.values()) for row, value in zip(rows, values, strict=True)}
        dropped: set[int] = set()
        for group in groups:
            kept, *others = sorted(group, key=lambda row: said[row])
            for row in others:
                error = BadRow("duplicate_record", f"same content as {said[kept][-1]}")
                self.quarantined.append(Quarantined.of(error, said[row][-1], self.ids[row], "read"))
            dropped.update(others)
        return [row for row in range(len(self.ids)) if row not in dropped]

    def _parse(self, raw: RawRow, root: str) -> _Parsed | BadRow:
        if raw.error is not None:
            return raw.error
        try:
            row = parse_row(raw.row, self.config.limits, self.config.source_field)
            images = tuple(self._image(image, root) for image in row.images)
        except BadRow as error:
            return error
        return _Parsed(row, images)

    def _image(self, image: str | bytes, root: str) -> _Image:
        if isinstance(image, str):
            return _Image(image_place(root, image), image, None)
        name = hashlib.sha256(image).hexdigest()
        return _Image(below(self.image_store, f"{name[:2]}/{name}"), name, image)

    def _look_at_images(self, parsed: list[_Parsed | BadRow], threads: ThreadPoolExecutor) -> None:
        """Check each image that is new, many at a time: it is all waiting for storage."""
        rows = [row for row in parsed if isinstance(row, _Parsed)]
        new = {image.place: image for row in rows for image in row.images}
        new = {place: image for place, image in new.items() if place not in self.image_checks}
        results = threads.map(self._problem_or_size, new.values())
        self.image_checks.update(zip(new, results, strict=True))

    def _problem_or_size(self, image: _Image) -> BadRow | int:
        content = image.content
        try:
            size = check_image(image.place if content is None else content, self.config.limits)
        except BadRow as error:
            return error
        if content is not None and not exists(image.place):
            write_bytes(image.place, content)
        return size

    def _accept(self, raw: RawRow, result: _Parsed | BadRow, file: InputFile) -> dict[str, Any]:
        if isinstance(result, BadRow):
            raise result
        row, images = result.row, result.images
        names = []
        for image in images:
            checked = self.image_checks[image.place]
            if isinstance(checked, BadRow):
                raise BadRow(checked.reason, f"{image.name[:200]}: {checked.detail}")
            # The same name below two roots may be two pictures: their sizes tell them apart.
            names.append(f"{image.name}:{checked}")
        content = content_hash(row.turns, names)
        number = len(self.ids)
        first = self.first_rows.setdefault((row.id or made_id(content), content), number)
        if first != number:
            self.repeats[first].append(number)
        self.ids.append(row.id)
        self.contents.append(content)
        return {
            "id": "",
            "source": row.source or _source_of(file.path, row.images),
            "turns": [{"role": turn.role, "text": turn.text} for turn in row.turns],
            "images": [image.place for image in images],
            "locator": raw.locator,
            "record": raw.record,
        }


def _placed(raw: RawRow, file: InputFile) -> RawRow:
    """The row, its locator naming the file where the user has it, not this host's copy."""
    path = str(file.path)
    if file.place == path:
        return raw
    return replace(raw, locator=file.place + raw.locator.removeprefix(path))


def _ordered(table: pa.Table) -> pa.Table:
    first_image = pa.array(
        (plain(images[0]) if images else None for images in table["images"].to_pylist()),
        pa.string(),
    )
    order = pc.sort_indices(
        pa.table({"image": first_image, "id": table["id"]}),
        sort_keys=[("image", "ascending"), ("id", "ascending")],
    )
    return table.take(order).combine_chunks()


def _source_of(file: Path, images: tuple[str | bytes, ...]) -> str:
    """Where a record says nothing of its source: its file, and the first folder of its image."""
    if not images:
        return f"{file.stem}/text"
    place = os.path.normpath(images[0]) if isinstance(images[0], str) else ""
    folder, separator, _ = place.lstrip(os.sep).partition(os.sep)
    return f"{file.stem}/{folder}" if separator else file.stem


def _id_of(row: Any) -> str | None:
    id = row.get("id") if isinstance(row, dict) else None
    return str(id)[:200] if isinstance(id, str | int) else None


def _nothing_usable(rows_in: int, quarantined: list[Quarantined]) -> str:
    if not quarantined:
        return "the inputs hold no rows: there is nothing to select from."
    listed = ", ".join(f"{reason} {count}" for reason, count in count_reasons(quarantined).items())
    first = quarantined[0]
    return (
        f"none of the {rows_in} rows is usable ({listed}). "
        f"First, {first.locator}: {first.detail}; remedy: {first.remedy}."
    )


def _chunks(rows: Iterable[RawRow], size: int) -> Iterator[list[RawRow]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
