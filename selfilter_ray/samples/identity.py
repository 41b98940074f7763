"""Ids that are unique, and choices by id that do not depend on the order of the input."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from selfilter_ray.samples.record import Turn


def content_hash(turns: Sequence[Turn], images: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of what a record says: its turns and the names of its images."""
    content = json.dumps([[[turn.role, turn.text] for turn in turns], list(images)])
    return hashlib.sha256(content.encode()).hexdigest()


def made_id(content: str) -> str:
    """The id of a record that has none, from its content hash."""
    return f"sha256-{content[:32]}"


def unique_ids(ids: Sequence[str | None], contents: Sequence[str]) -> tuple[list[str], int]:
    """An id for each record, unique in the pool.

    A record without an id gets ``sha256-...`` from its content. Where records of different
    content share an id, as in LLaVA-665K, each of them gets ``~`` and a piece of its hash.

    Args:
        ids: the ids of the input, None where there is none.
        contents: content hashes; no (id, content) pair may repeat.

    Returns:
        The ids, and how many of them were given a suffix.
    """
    pairs = list(zip(ids, contents, strict=True))
    named = [id if id is not None else made_id(content) for id, content in pairs]
    shared = {id for id, count in Counter(named).items() if count > 1}
    unique = [
        f"{id}~{content[:16]}" if id in shared else id
        for id, content in zip(named, contents, strict=True)
    ]
    if len(set(unique)) != len(unique):  # an input id that looks like one of ours
        unique = [f"{id}~{content}" for id, content in zip(named, contents, strict=True)]
    return unique, sum(id in shared for id in named)


def limited(ids: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Rows of at most ``limit`` records: those with the smallest hashes of seed and id."""
    rows = range(len(ids))
    if limit is None or limit >= len(ids):
        return list(rows)

    def draw(row: int) -> bytes:
        return hashlib.sha256(f"{seed}:{ids[row]}".encode()).digest()

    return sorted(rows, key=draw)[:limit]
