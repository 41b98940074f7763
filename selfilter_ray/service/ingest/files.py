"""Sending files to a service: in order, one chunk at a time, going on where a call was cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from selfilter_ray.errors import DataError
from selfilter_ray.service.client import Client
from selfilter_ray.service.client.lines import CHUNK_BYTES, CHUNK_LINES, chunks
from selfilter_ray.service.ingest.outbox import Counts, Outbox
from selfilter_ray.service.ingest.row import Source
from selfilter_ray.service.ingest.sources import Kind, open_sources
from selfilter_ray.terminal import Terminal

Item = TypeVar("Item")


def ingest_files(
    client: Client,
    inputs: Sequence[str],
    out: Path,
    kind: Kind = "auto",
    image_root: Path | None = None,
    terminal: Terminal | None = None,
) -> Counts:
    """Send every row of the inputs that has no answer yet.

    Args:
        client: of the service.
        inputs, kind, image_root: see ``open_sources``.
        out: folder for ``answers.ndjson``, ``errors.ndjson`` and ``progress.json``.
        terminal: for the progress bar.

    Returns:
        How many rows there are in ``out`` now, those of earlier calls among them.

    Raises:
        DataError: when an input cannot be read, or no row of them could be used.
        ServiceError: when the service refuses the stream as a whole, or is away for too long.
    """
    terminal = terminal or Terminal()
    sources = open_sources(inputs, kind, image_root)
    total = _total(sources) if terminal.console.is_terminal else None
    with Outbox(out, client.url) as outbox, terminal.stage("ingest", "rows", total) as advance:
        for source in sources:
            done = outbox.done(source)
            advance(done)
            _send(client, source, done, outbox, advance)
    if not outbox.counts.admitted + outbox.counts.rejected:
        raise DataError(_nothing_usable(outbox.counts, out))
    return outbox.counts


def _send(
    client: Client, source: Source, done: int, outbox: Outbox, advance: Callable[[int], None]
) -> None:
    # While the service decides on a chunk, the next one is read and encoded.
    chunked = chunks(source.rows(done), lambda row: len(row.line), CHUNK_LINES, CHUNK_BYTES)
    for rows in _ahead(chunked):
        lines = [row.line for row in rows if row.fault is None]
        outbox.put(source, rows, client.select_lines(lines) if lines else [])
        advance(len(rows))


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made by a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _total(sources: Sequence[Source]) -> int | None:
    counts = [source.count() for source in sources]
    return None if None in counts else sum(count or 0 for count in counts)


def _nothing_usable(counts: Counts, out: Path) -> str:
    if not counts.rows:
        return "the inputs hold no rows: there is nothing to send."
    return f"none of the {counts.rows} rows could be used: see {out / 'errors.ndjson'}."
