"""What a run will cost, before it is begun, and what a folder's answers have cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from selfilter_ray.config import LimitsConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import Sample
from selfilter_ray.scorers.judge.answers import read_answers
from selfilter_ray.scorers.judge.questions import Question, as_table, list_questions
from selfilter_ray.scorers.judge.settings import JudgeConfig, Prices


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked. Tokens are guesses: no tokenizer of the model is at hand.

    Attributes:
        samples: how many samples there are.
        answered: how many of them have an answer stored.
        requests: how many requests are to be made; equal ones are made once.
        input_tokens: a quarter of the bytes of the text, and one a patch of 28 x 28 pixels.
        output_tokens: ``max_tokens`` for each request, the most that there can be.
        cost: of both, None when a price is unknown. Retries are not in it.
    """

    samples: int
    answered: int
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None


def estimate(
    samples: pa.Table | Iterable[Sample], settings: JudgeConfig, limits: LimitsConfig, folder: Path
) -> Estimate:
    """What ``judge`` would ask now. Reads the stored answers, writes nothing, asks nobody.

    Raises:
        DataError, ArtifactError: as ``judge``.
    """
    questions = list_questions(as_table(samples), settings, limits)
    answers, _ = read_answers(folder)
    return estimate_questions(questions, answers.keys(), settings)


def estimate_questions(
    questions: Sequence[Question], answered: Iterable[str], settings: JudgeConfig
) -> Estimate:
    """The same, from the questions and the keys that have answers."""
    known = set(answered)
    todo = [question for question in questions if question.key not in known]
    samples = sum(len(question.ids) for question in questions)
    inputs = sum(question.tokens for question in todo)
    outputs = settings.max_tokens * len(todo)
    return Estimate(
        samples=samples,
        answered=samples - sum(len(question.ids) for question in todo),
        requests=len(todo),
        input_tokens=inputs,
        output_tokens=outputs,
        cost=price(inputs, outputs, settings.prices),
    )


def refuse_above(limit: float | None, estimate: Estimate) -> None:
    """Stop a run that would cost more than the user allows.

    Raises:
        ConfigError: when it would.
    """
    if limit is not None and estimate.cost is not None and estimate.cost > limit:
        raise ConfigError(
            f"{estimate.requests} requests would cost about {estimate.cost:.2f}, and "
            f"judge.max_cost is {limit:.2f}: raise it, judge fewer samples, or send smaller images "
            "(judge.image_pixels)."
        )


def price(input_tokens: int, output_tokens: int, prices: Prices) -> float | None:
    """Cost of so many tokens, None when a price is unknown."""
    if prices.input_per_million is None or prices.output_per_million is None:
        return None
    cost = input_tokens * prices.input_per_million + output_tokens * prices.output_per_million
    return cost / 1e6


def spent(folder: Path) -> tuple[int, int]:
    """Input and output tokens of all answers in a folder, as the server counted them."""
    answers, _ = read_answers(folder)
    return (
        sum(answer.input_tokens for answer in answers.values()),
        sum(answer.output_tokens for answer in answers.values()),
    )
