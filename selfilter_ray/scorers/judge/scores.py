"""From answers to scores: one row a sample, none lost."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import pyarrow as pa

from selfilter_ray.errors import DataError
from selfilter_ray.scorers.judge.answers import Answer
from selfilter_ray.scorers.judge.parse import parse_score
from selfilter_ray.scorers.judge.questions import Question
from selfilter_ray.scorers.judge.settings import JudgeConfig

logger = logging.getLogger(__name__)


def score_table(
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
    failures: Mapping[str, str],
    settings: JudgeConfig,
) -> pa.Table:
    """The scores of all samples, by id.

    An answer without a score counts as the mean of those with one (Self-Filter, arXiv 2402.12501).
    A sample without an answer has a null.

    Returns:
        id, ``judge_<dimension>`` (float32), parsed (bool), detail (why it is not parsed).

    Raises:
        DataError: when no answer holds a score.
    """
    rows: list[tuple[str, float | None, bool, str]] = []
    for question in questions:
        answer = answers.get(question.key)
        score = parse_score(answer.text, settings.top_score) if answer else None
        detail = "" if score is not None else _why(answer, failures.get(question.key))
        rows += [(id, score, answer is not None, detail) for id in question.ids]
    rows.sort()
    valid = [score for _, score, _, _ in rows if score is not None]
    if not valid:
        first = f" First: {rows[0][3]}" if rows else ""
        raise DataError(
            f"the judge gave none of the {len(rows)} samples a score: look at answers.jsonl, and "
            f"use another judge.model or a larger judge.max_tokens.{first}"
        )
    mean = math.fsum(valid) / len(valid)
    _log(rows, mean)
    filled = [mean if score is None and asked else score for _, score, asked, _ in rows]
    return pa.table(
        {
            "id": pa.array([id for id, _, _, _ in rows], pa.string()),
            settings.column: pa.array(filled, pa.float32()),
            "parsed": pa.array([score is not None for _, score, _, _ in rows], pa.bool_()),
            "detail": pa.array([detail for _, _, _, detail in rows], pa.string()),
        }
    )


def _why(answer: Answer | None, failure: str | None) -> str:
    if answer is None:
        return failure or "not asked"
    if not answer.text.strip():
        return f"empty answer, finish reason {answer.finish_reason}: raise judge.max_tokens"
    return f"no score in the first line of {answer.text[:120]!r}"


def _log(rows: Sequence[tuple[str, float | None, bool, str]], mean: float) -> None:
    unread = sum(asked and score is None for _, score, asked, _ in rows)
    silent = sum(not asked for _, _, asked, _ in rows)
    if unread or silent:
        logger.warning(
            "judge: %d of %d samples: %d answers hold no score and count as the mean %.3f, %d got "
            "no answer and have no score; see the column detail",
            unread + silent,
            len(rows),
            unread,
            mean,
            silent,
        )
