"""The whole state of a selector as arrays, for snapshots.

Shapes: K kept samples in the order of admission, D features, L places of a list, W the window.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfilter_ray.errors import ArtifactError
from selfilter_ray.online.kept import ROWS, Kept
from selfilter_ray.online.nearest import Near
from selfilter_ray.online.values import EMPTY, Values

FORMAT = 1


@dataclass(frozen=True, slots=True)
class State:
    """What ``OnlineSelector.export`` gives and ``OnlineSelector.restore`` takes.

    Attributes:
        header: JSON values: format, settings, base, features, sequence, and the counts of rate
            mode.
        ids: K strings.
        arrays: by name. ``features_KD`` float32; ``sequence_K`` int64; ``difficulty_K`` and
            ``weight_K`` float64; ``recent_W`` float64 in rate mode; ``neighbour_KL`` int32 (rows of
            these arrays, -1 for none), ``cosine_KL`` float64 and ``complete_K`` bool with a
            budget. ``square_K`` and ``digest_K2`` follow from the features and may be left out;
            where they are there, they must be theirs.
    """

    header: dict[str, Any]
    ids: list[str]
    arrays: dict[str, np.ndarray]


def kept_arrays(kept: Kept, slots_K: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the kept samples, without their features."""
    return {
        "sequence_K": kept.sequence_S[slots_K],
        "difficulty_K": kept.difficulty_S[slots_K],
        "weight_K": kept.weight_S[slots_K],
        "square_K": kept.square_S[slots_K],
        "digest_K2": kept.digest_S2[slots_K],
    }


def list_arrays(values: Values, slots_K: np.ndarray, top: int) -> dict[str, np.ndarray]:
    """The lists of the kept samples, by rows instead of slots."""
    row_S = np.full(top + 1, EMPTY, np.int32)  # the last one stands for "none"
    row_S[slots_K] = np.arange(len(slots_K))
    neighbour_KL = row_S[values.neighbour_SL[slots_K]]
    return {
        "neighbour_KL": neighbour_KL,
        "cosine_KL": np.where(neighbour_KL == EMPTY, 0.0, values.cosine_SL[slots_K]),
        "complete_K": values.complete_S[slots_K],
    }


def refill_kept(kept: Kept, state: State) -> None:
    """Put the samples of a state into an empty set: row i into slot i.

    Raises:
        ArtifactError: when the arrays do not fit together or hold what no sample may hold.
    """
    arrays = state.arrays
    features_KD = arrays["features_KD"]
    columns = [arrays[name] for name in ("sequence_K", "difficulty_K", "weight_K")]
    rows = len(state.ids)
    if features_KD.shape != (rows, kept.features) or any(c.shape != (rows,) for c in columns):
        raise ArtifactError(
            "the arrays of the snapshot differ in length: take an earlier snapshot."
        )
    parts = (features_KD[start : start + ROWS] for start in range(0, rows, ROWS))
    # No sum of usable rows is too large for float32, and one bad number makes it infinite or NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = all(np.isfinite(part.sum()) for part in parts)
    finite = finite and all(np.isfinite(column).all() for column in columns)
    if not finite or (np.diff(columns[0]) <= 0).any():
        raise ArtifactError("the snapshot holds impossible values: take an earlier snapshot.")
    sequence_K, difficulty_K, weight_K = columns
    square_K, digest_K2 = arrays.get("square_K"), arrays.get("digest_K2")
    kept.refill(state.ids, features_KD, sequence_K, difficulty_K, weight_K, square_K, digest_K2)


def refill_lists(values: Values, state: State) -> None:
    """Put the lists of a state back, and take the values from them."""
    arrays = state.arrays
    for slot, complete in enumerate(arrays["complete_K"].tolist()):
        neighbours = arrays["neighbour_KL"][slot]
        count = int((neighbours != EMPTY).sum())
        near = Near(neighbours[:count], arrays["cosine_KL"][slot, :count], complete)
        values.put(slot, near)


def digest(header: dict[str, Any], kept: Kept, recent_W: np.ndarray) -> str:
    """A digest of everything that decides what comes next.

    Lists of neighbours are left out: they follow from the kept samples.
    """
    slots_K = kept.slots()
    ids = json.dumps([kept.ids[slot] for slot in slots_K.tolist()])
    whole = hashlib.blake2b(digest_size=16)
    for part in (
        json.dumps(header, sort_keys=True).encode(),
        ids.encode(),
        kept.sequence_S[slots_K].astype("<i8").tobytes(),
        kept.difficulty_S[slots_K].astype("<f8").tobytes(),
        kept.weight_S[slots_K].astype("<f8").tobytes(),
        kept.digest_S2[slots_K].astype("<u8").tobytes(),
        recent_W.astype("<f8").tobytes(),
    ):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()
