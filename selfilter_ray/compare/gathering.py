"""The picks of one method under several seeds; what fails is noted, and costs no other method."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selfilter_ray.compare.entries import Entry
from selfilter_ray.errors import DataError, SelfilterError
from selfilter_ray.select import registry
from selfilter_ray.select.contract import Pool, Selection

Select = Callable[[Pool, int, int, Any], Selection]


@dataclass
class Gathered:
    """The runs of one entry: seed to row numbers, best first, and to the seconds they took.

    ``failures``: message to the seeds that ended with it.
    """

    entry: Entry
    chosen: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)


def gather(
    entry: Entry,
    seeds: Sequence[int],
    pool: Pool,
    budget: int,
    select: Select = registry.select,
    progress: Callable[[int], None] = lambda runs: None,
) -> Gathered:
    """All seeds of one entry.

    Args:
        pool, budget: as ``select`` takes them.
        progress: told each finished run.
    """
    found = Gathered(entry)
    method = registry.METHODS[entry.method]
    for seed in seeds:
        # Picks that cannot differ are not made again; their seconds are those of the first.
        if found.chosen and not method.seeded(pool, entry.settings):
            first = next(iter(found.chosen))
            found.chosen[seed] = found.chosen[first]
            found.seconds[seed] = found.seconds[first]
            progress(1)
            continue
        began = time.perf_counter()
        try:
            rows = _checked(select(pool, budget, seed, entry.settings), pool, budget)
        except Exception as error:  # one method's fault must not cost the others' results
            found.failures.setdefault(message_of(error), []).append(seed)
        else:
            found.seconds[seed] = time.perf_counter() - began
            found.chosen[seed] = rows
        progress(1)
    return found


def message_of(error: Exception) -> str:
    """What a person can act on; of a bug, also what it is and where."""
    if isinstance(error, SelfilterError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _checked(selection: Selection, pool: Pool, budget: int) -> np.ndarray:
    rows = np.asarray(selection.indices, dtype=np.int64)
    if rows.shape != (budget,) or len(np.unique(rows)) != budget:
        raise DataError(f"it chose {len(np.unique(rows))} distinct samples instead of {budget}")
    if budget and not 0 <= rows.min() <= rows.max() < len(pool.ids):
        raise DataError("it chose rows that the pool does not have")
    return rows
