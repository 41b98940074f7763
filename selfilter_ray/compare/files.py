"""The files of a comparison in a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

from selfilter_ray import atomic
from selfilter_ray.compare.result import Comparison
from selfilter_ray.errors import ArtifactError

RESULT = "comparison.json"
PICKS = "comparison_picks.parquet"


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """``comparison.json`` and, first, ``comparison_picks.parquet``: label, method, seed, rank, id.

    A comparison that was read from its JSON has no picks: their file stays as it is.
    """
    if comparison.picks is not None:
        atomic.write_table(folder / PICKS, comparison.picks)
    atomic.write_json(folder / RESULT, comparison.to_json())


def read_comparison(folder: Path) -> Comparison:
    """The comparison that a folder holds, without its picks.

    Raises:
        ArtifactError: when there is none, or it is damaged or of another version.
    """
    try:
        value = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{folder / RESULT} cannot be read ({error}): compare first.") from None
    return Comparison.from_json(value)
