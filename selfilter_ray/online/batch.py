"""A micro-batch: what arrived, checked sample by sample.

Shapes: Q samples, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfilter_ray.online.decision import Fault, Invalid
from selfilter_ray.select.cosine import squares
from selfilter_ray.select.neighbours.exact import SAFE_LENGTH, unit_rows


@dataclass(frozen=True, slots=True)
class Batch:
    """The usable samples of a micro-batch.

    Attributes:
        positions: of each in what was given.
        ids, raw: as given.
        difficulty: after the base is subtracted.
        rows_QD, unit_QD: float32, as given and of length 1.
        square_Q: float64, squared lengths.
        within_QQ: float32, rough cosines with each other.
    """

    positions: list[int]
    ids: list[str]
    raw: list[float]
    difficulty: list[float]
    rows_QD: np.ndarray
    unit_QD: np.ndarray
    square_Q: np.ndarray
    within_QQ: np.ndarray


def checked(
    ids: Sequence[str],
    difficulty: Sequence[float] | np.ndarray,
    rows: Sequence[np.ndarray] | np.ndarray,
    features: int,
    base: float,
) -> tuple[Batch, list[Invalid]]:
    """The usable samples, and what is wrong with each of the others.

    Raises:
        ValueError: when there are not as many ids, difficulties and rows.
    """
    if not len(ids) == len(difficulty) == len(rows):
        raise ValueError(
            f"one id, difficulty and row of features a sample, not {len(ids)}, {len(difficulty)} "
            f"and {len(rows)}"
        )
    invalid: list[Invalid] = []
    good = list(range(len(ids)))
    plain_QD = _plain(difficulty, rows, features)
    if plain_QD is not None:
        rows_QD = plain_QD
    else:
        good, rows_QD = _one_by_one(ids, difficulty, rows, features, invalid)
    square_Q = squares(rows_QD)
    fits_Q = (square_Q > SAFE_LENGTH[0] ** 2) & (square_Q < SAFE_LENGTH[1] ** 2)
    if not fits_Q.all():
        invalid += [_length(good[n], ids[good[n]], square_Q[n]) for n in np.flatnonzero(~fits_Q)]
        good = [position for position, fits in zip(good, fits_Q, strict=True) if fits]
        rows_QD, square_Q = rows_QD[fits_Q], square_Q[fits_Q]
    raw = [float(difficulty[position]) for position in good]
    unit_QD = unit_rows(rows_QD, np.sqrt(square_Q))
    batch = Batch(
        positions=good,
        ids=[ids[position] for position in good],
        raw=raw,
        difficulty=[value - base for value in raw],
        rows_QD=rows_QD,
        unit_QD=unit_QD,
        square_Q=square_Q,
        within_QQ=unit_QD @ unit_QD.T,
    )
    return batch, invalid


def _plain(
    difficulty: Sequence[float] | np.ndarray,
    rows: Sequence[np.ndarray] | np.ndarray,
    features: int,
) -> np.ndarray | None:
    """The rows as one array, where a look at all of them together finds nothing wrong."""
    for value, row in zip(difficulty, rows, strict=True):
        if not (isinstance(value, float) and math.isfinite(value)):
            return None
        if type(row) is not np.ndarray or row.dtype != np.float32 or row.shape != (features,):
            return None
    rows_QD = _stacked(rows, features)
    return rows_QD if np.isfinite(rows_QD).all() else None


def _one_by_one(
    ids: Sequence[str],
    difficulty: Sequence[float] | np.ndarray,
    rows: Sequence[np.ndarray] | np.ndarray,
    features: int,
    invalid: list[Invalid],
) -> tuple[list[int], np.ndarray]:
    """Positions and rows of the good ones; the others go into ``invalid``."""
    good: list[int] = []
    good_rows: list[np.ndarray] = []
    for position, (id, value, row) in enumerate(zip(ids, difficulty, rows, strict=True)):
        found = _row(row, features, value)
        if isinstance(found, np.ndarray):
            good.append(position)
            good_rows.append(found)
        else:
            invalid.append(Invalid(position, id, *found))
    return good, _stacked(good_rows, features)


def _stacked(rows: Sequence[np.ndarray] | np.ndarray, features: int) -> np.ndarray:
    return np.stack(list(rows)) if len(rows) else np.zeros((0, features), np.float32)


def _row(row: np.ndarray, features: int, difficulty: float) -> np.ndarray | tuple[Fault, str]:
    """The row as float32, or what is wrong with the sample."""
    try:
        # A number too large for float32 becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
            row_D = np.asarray(row, np.float32)
        finite = math.isfinite(difficulty)
    except (TypeError, ValueError):
        return "features", "features and difficulty must be numbers: send real numbers only"
    if row_D.shape != (features,):
        return "dimension", (
            f"features have the shape {row_D.shape}, not ({features},): use the embedder that the "
            "score net was trained with"
        )
    if not np.isfinite(row_D).all():
        return "not_finite", "features hold NaN or Infinity: embed the sample again"
    if not finite:
        return "difficulty", "difficulty is NaN or Infinity: score the sample again"
    return row_D


def _length(position: int, id: str, square: float) -> Invalid:
    return Invalid(
        position,
        id,
        "length",
        f"features have the length {math.sqrt(square):.3g}, which must be between "
        f"{SAFE_LENGTH[0]:g} and {SAFE_LENGTH[1]:g}: a zero row has no direction to compare",
    )
