"""The truth about a pool's records, and what a selection has caught of it.

Shapes: N records of the pool, B picks, G groups of near copies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from selfilter_ray.errors import DataError

TRUTH = pa.schema([("id", pa.string()), ("kind", pa.string()), ("original", pa.string())])
CLEAN, DUPLICATE = "clean", "duplicate"


@dataclass(frozen=True)
class Detection:
    """What is planted among the picks. Shares are None where they would be 0 / 0.

    Near copies and their original are one group, of which a single record is wanted, whichever it
    is: ``redundant`` counts the picks beyond the first of each group.

    Attributes:
        picks: B.
        planted: picks that are planted.
        pool_share: planted records of the pool / N.
        picked_share: planted / B, the precision at B of a selector that is asked to find them.
        recall: planted / planted records of the pool.
        lift: ``picked_share / pool_share``; 1 for a random draw, below 1 where they are avoided.
        redundant: picks of a group that a pick before has covered.
        redundant_by_chance: what a uniform draw of B has of these in the mean.
        precision: the picks that a good selector wants / B: not planted or, where copies are
            planted, the first of their group.
    """

    picks: int
    planted: int
    pool_share: float
    picked_share: float | None
    recall: float | None
    lift: float | None
    redundant: int
    redundant_by_chance: float
    precision: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def detection(truth: pa.Table, picks: Sequence[str]) -> Detection:
    """What a selection has caught of what was planted.

    Args:
        truth: of ``TRUTH``.
        picks: ids, each once. To see what a method puts last, give the end of its ranking.

    Raises:
        DataError: when a pick is given twice, or is not in the truth.
    """
    kind = dict(zip(truth["id"].to_pylist(), truth["kind"].to_pylist(), strict=True))
    unknown = next((id for id in picks if id not in kind), None)
    if unknown is not None or len(set(picks)) != len(picks):
        wrong = "an id twice" if unknown is None else f"{unknown!r}, which the truth does not hold"
        raise DataError(f"the picks hold {wrong}: give ids of this pool, each once.")
    group = dict(zip(truth["id"].to_pylist(), truth["original"].to_pylist(), strict=True))
    groups = [group[id] or id for id in picks]
    in_pool = sum(value != CLEAN for value in kind.values())
    planted = sum(kind[id] != CLEAN for id in picks)
    faulty = sum(kind[id] not in (CLEAN, DUPLICATE) for id in picks)
    redundant = len(groups) - len(set(groups))
    share, pool_share = _ratio(planted, len(picks)), in_pool / max(1, len(kind))
    return Detection(
        picks=len(picks),
        planted=planted,
        pool_share=pool_share,
        picked_share=share,
        recall=_ratio(planted, in_pool),
        lift=None if share is None else _ratio(share, pool_share),
        redundant=redundant,
        redundant_by_chance=_redundant_by_chance(
            [original or id for id, original in group.items()], len(picks)
        ),
        precision=_ratio(len(picks) - faulty - redundant, len(picks)),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _redundant_by_chance(groups_N: Sequence[str], picks: int) -> float:
    """B minus the groups that a uniform draw of B out of N touches in the mean.

    A group of s records is missed with probability C(N - s, B) / C(N, B).
    """
    rows = len(groups_N)
    sizes = Counter(Counter(groups_N).values())
    touched = sum(
        count * -math.expm1(_log_choose(rows - size, picks) - _log_choose(rows, picks))
        for size, count in sizes.items()
    )
    return max(0.0, picks - touched)


def _log_choose(among: int, picks: int) -> float:
    """Logarithm of the binomial coefficient; minus infinity where it is 0."""
    if picks > among:
        return -math.inf
    return math.lgamma(among + 1) - math.lgamma(picks + 1) - math.lgamma(among - picks + 1)
