"""An evaluation in a few numbers: over all samples, by source, and by question type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from selfilter_ray.evaluate.table import BLIND, SEEING
from selfilter_ray.features.shards import OK, TEXT_ONLY

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """Some of the samples. A mean is None where there is nothing to take it of.

    Attributes:
        samples: that were evaluated.
        token_loss: mean over samples of their mean loss a token, in nats.
        short: samples with whole answers of at most so many tokens as were called short.
        accuracy: share of these to which greedy decoding says exactly the reference.
        blind_token_loss, blind_accuracy: without pictures; None unless asked for.
    """

    samples: int
    token_loss: float | None
    short: int
    accuracy: float | None
    blind_token_loss: float | None
    blind_accuracy: float | None


@dataclass(frozen=True)
class Summary:
    """The numbers of an evaluation.

    Attributes:
        rows: samples that were given.
        statuses: how many of them ended with which status.
        short_tokens: the most tokens of an answer that counts in the accuracy.
        overall: of all samples.
        by_source, by_question_type: a group a value; a sample without a type is in none.
    """

    rows: int
    statuses: dict[str, int]
    short_tokens: int
    overall: Group
    by_source: dict[str, Group]
    by_question_type: dict[str, Group]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def summarize(table: pa.Table, short_tokens: int) -> Summary:
    """The numbers of a table of ``table.SCHEMA``."""
    rows = table.to_pylist()
    good = [row for row in rows if row["status"] in (OK, TEXT_ONLY)]
    return Summary(
        rows=len(rows),
        statuses=dict(sorted(Counter(row["status"] for row in rows).items())),
        short_tokens=short_tokens,
        overall=_group(good, short_tokens),
        by_source=_groups(good, "source", short_tokens),
        by_question_type=_groups(good, "question_type", short_tokens),
    )


def _groups(rows: Rows, column: str, short_tokens: int) -> dict[str, Group]:
    values = sorted({row[column] for row in rows if row[column]})
    return {
        value: _group([row for row in rows if row[column] == value], short_tokens)
        for value in values
    }


def _group(rows: Rows, short_tokens: int) -> Group:
    short = [row for row in rows if row["complete"] and row["answer_tokens"] <= short_tokens]
    return Group(
        samples=len(rows),
        token_loss=_mean(rows, f"{SEEING}token_loss"),
        short=len(short),
        accuracy=_mean(short, f"{SEEING}exact"),
        blind_token_loss=_mean(rows, f"{BLIND}token_loss"),
        blind_accuracy=_mean(short, f"{BLIND}exact"),
    )


def _mean(rows: Rows, column: str) -> float | None:
    values = [row[column] for row in rows]
    return None if not values or None in values else float(np.mean(values))
