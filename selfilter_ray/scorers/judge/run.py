"""The judge's scores of a pool: ask what has no stored answer yet, then read the scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from selfilter_ray.config import LimitsConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import Sample
from selfilter_ray.scorers.judge.answers import AnswerFile
from selfilter_ray.scorers.judge.costs import Estimate, estimate_questions, refuse_above
from selfilter_ray.scorers.judge.questions import Question, as_table, list_questions
from selfilter_ray.scorers.judge.scores import score_table
from selfilter_ray.scorers.judge.settings import JudgeConfig
from selfilter_ray.scorers.judge.watch import Watch


def judge(
    samples: pa.Table | Iterable[Sample],
    settings: JudgeConfig,
    limits: LimitsConfig,
    folder: Path,
    progress: Callable[[int], None] | None = None,
    announce: Callable[[Estimate], None] | None = None,
) -> pa.Table:
    """Rate every sample. Not to be called from a running event loop.

    Args:
        samples: a table with id, turns and images, or samples; ids are distinct.
        settings: of the judge.
        limits: what a picture may be.
        folder: holds ``answers.jsonl``; a second call asks only what is not answered there.
        progress: told the number of samples that are done, as they are.
        announce: told the estimate before the first request; may raise to stop the run.

    Returns:
        A table sorted by id: id, ``judge_<dimension>`` (float32), parsed (bool), detail. Where
        ``parsed`` is false the score is the mean of the valid ones if there was an answer, else
        null, and ``detail`` says why.

    Raises:
        ConfigError: wrong key, address or model; estimate above ``max_cost``; folder in use.
        DataError: no answer holds a score.
        ArtifactError: the stored answers are damaged or cannot be written.
        KeyboardInterrupt: as it came; stored answers are kept.
    """
    table = as_table(samples)
    questions = list_questions(table, settings, limits)
    advance = progress or (lambda _: None)
    with AnswerFile(folder) as store:
        estimate = estimate_questions(questions, store.answers, settings)
        if announce:
            announce(estimate)
        refuse_above(settings.max_cost, estimate)
        advance(estimate.answered)
        failures = _ask(table, questions, settings, limits, store, advance)
        return score_table(questions, store.answers, failures, settings)


def _ask(
    table: pa.Table,
    questions: Sequence[Question],
    settings: JudgeConfig,
    limits: LimitsConfig,
    store: AnswerFile,
    advance: Callable[[int], None],
) -> dict[str, str]:
    """Ask what is open; the reasons of those that stay without an answer."""
    todo = [question for question in questions if question.key not in store.answers]
    if not todo:
        return {}
    try:
        from selfilter_ray.scorers.judge.asking import Asking
        from selfilter_ray.scorers.judge.client import read_key
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the judge needs the package {error.name}: pip install 'selfilter-ray[judge]'."
        ) from None
    asking = Asking(
        table, settings, limits, store, Watch(settings, len(todo) < len(questions)), advance
    )
    asyncio.run(asking.ask_all(todo, read_key(settings)))
    return asking.failures
