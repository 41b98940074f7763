"""What is to be asked: one question for all samples whose request would be the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from selfilter_ray.config import LimitsConfig
from selfilter_ray.errors import DataError
from selfilter_ray.samples.files import iterate_samples, table_of
from selfilter_ray.samples.record import Sample
from selfilter_ray.scorers.judge import pictures
from selfilter_ray.scorers.judge.prompts import Prompt, write_prompt
from selfilter_ray.scorers.judge.settings import JudgeConfig

COLUMNS = ("id", "turns", "images")
KEY_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Question:
    """One request.

    Attributes:
        key: hash of all that can change the answer.
        row: number of a row of the table that it asks about.
        tokens: a guess at the tokens of the request.
        ids: the samples that its answer is for.
    """

    key: str
    row: int
    tokens: int
    ids: list[str] = field(default_factory=list)


def as_table(samples: pa.Table | Iterable[Sample]) -> pa.Table:
    """Samples as one table with ``COLUMNS``.

    Raises:
        DataError: when two samples have one id, or a column is missing.
    """
    table = samples if isinstance(samples, pa.Table) else table_of(list(samples))
    missing = set(COLUMNS) - set(table.column_names)
    if missing:
        raise DataError(f"the judge needs the columns {sorted(missing)} of the samples.")
    table = table.select(list(COLUMNS)).combine_chunks()
    if len(table["id"].unique()) != table.num_rows:
        raise DataError("two samples have the same id: give each its own.")
    return table


def list_questions(table: pa.Table, settings: JudgeConfig, limits: LimitsConfig) -> list[Question]:
    """All distinct questions, by their keys.

    The order of keys is as good as random: the first few requests are a fair sample of the pool,
    and the time that is left can be told from the time so far.
    """
    questions: dict[str, Question] = {}
    digests: dict[str, str] = {}
    for row, sample in enumerate(iterate_samples(table)):
        shown = sample.images if settings.with_image else ()
        for path in shown:
            if path not in digests:
                digests[path] = pictures.digest(path, limits)
        prompt = write_prompt(sample, settings)
        key = _key(prompt, [digests[path] for path in shown], settings)
        if key not in questions:
            tokens = prompt.tokens + pictures.tokens(len(shown), settings)
            questions[key] = Question(key, row, tokens)
        questions[key].ids.append(sample.id)
    return [questions[key] for key in sorted(questions)]


def _key(prompt: Prompt, digests: list[str], settings: JudgeConfig) -> str:
    asked = [settings.model, settings.temperature, settings.seed, settings.max_tokens]
    sent_as = [settings.token_field, settings.extra_body]
    shown = [digests, settings.image_pixels, settings.jpeg_quality] if digests else []
    parts = [KEY_FORMAT, asked, sent_as, prompt.system, prompt.user, shown]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
