"""What has to be tuned: one cell for each method, budget and seed, and the yardsticks beside them.

Two methods that chose the same records share a cell's result: its key is what it is made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfilter_ray.run_folder import stage_key

Kind = Literal["chosen", "whole", "blind", "fresh"]
WHOLE, BLIND, FRESH = "whole pool", "whole pool, blind", "fresh model"
YARDSTICKS: dict[Kind, str] = {"whole": WHOLE, "blind": BLIND, "fresh": FRESH}


@dataclass(frozen=True)
class Cell:
    """One model to tune and evaluate.

    Attributes:
        label: of the method, or of the yardstick.
        budget: records that it is tuned on.
        seed: of the selection, of the fresh model where it is made here, and of the tuning.
        kind: ``chosen`` by a method; the ``whole`` pool; the same ``blind``, without its pictures;
            or the ``fresh`` model, evaluated as it is.
        ids: sorted, what it is tuned on; empty of a fresh model.
        key: of everything that the result depends on.
    """

    label: str
    budget: int
    seed: int
    kind: Kind
    ids: np.ndarray
    key: str


@dataclass(frozen=True)
class Choice:
    """What a method chose under one budget and seed: row numbers, best first, and how long it took.

    ``message``: why it could not; then there are no rows.
    """

    label: str
    budget: int
    seed: int
    rows: np.ndarray
    seconds: float
    message: str | None = None


def cells_of(
    choices: Sequence[Choice], ids: np.ndarray, contexts: Mapping[int, str], blind: bool
) -> list[Cell]:
    """The cells of these choices, and the yardsticks of every seed.

    All cells of the first seed come first, so that half a grid tells something, too.

    Args:
        ids: of the pool, sorted.
        contexts: seed to a key of all else that its results depend on.
        blind: whether to tune without pictures, too.
    """
    cells = []
    for seed, context in contexts.items():
        whole: list[tuple[Kind, np.ndarray]] = [("fresh", ids[:0]), ("whole", ids)]
        if blind:
            whole.append(("blind", ids))
        cells += [_cell(YARDSTICKS[kind], seed, kind, own, context) for kind, own in whole]
        cells += [
            _cell(choice.label, seed, "chosen", ids[np.sort(choice.rows)], context)
            for choice in choices
            if choice.seed == seed and choice.message is None
        ]
    return cells


def _cell(label: str, seed: int, kind: Kind, ids: np.ndarray, context: str) -> Cell:
    tuned = "whole" if kind == "chosen" else kind  # the same records under any name
    key = stage_key(context, tuned, seed, ids.tolist())
    return Cell(label, len(ids), seed, kind, ids, key)


def outstanding(cells: Sequence[Cell], done: Mapping[str, Any]) -> list[Cell]:
    """One cell for each key that has no result yet, in their order."""
    first = {cell.key: cell for cell in reversed(cells)}
    return [cell for cell in cells if cell.key not in done and first[cell.key] is cell]
