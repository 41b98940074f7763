"""All open questions, a bounded number of them at a time, each answer stored as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.files import sample_of
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample
from selfilter_ray.scorers.judge.answers import AnswerFile
from selfilter_ray.scorers.judge.client import JudgeClient
from selfilter_ray.scorers.judge.failures import Refused, Unreachable
from selfilter_ray.scorers.judge.pictures import data_url, picture_part
from selfilter_ray.scorers.judge.prompts import write_prompt
from selfilter_ray.scorers.judge.questions import Question
from selfilter_ray.scorers.judge.settings import JudgeConfig
from selfilter_ray.scorers.judge.watch import Watch


def messages_for(
    sample: Sample, settings: JudgeConfig, limits: LimitsConfig
) -> list[dict[str, Any]]:
    """The chat messages that ask about one sample, pictures before the text.

    Raises:
        BadRow: when a picture cannot be read.
    """
    prompt = write_prompt(sample, settings)
    content: str | list[dict[str, Any]] = prompt.user
    if settings.with_image and sample.images:
        shown = [picture_part(data_url(path, settings, limits)) for path in sample.images]
        content = [*shown, {"type": "text", "text": prompt.user}]
    return [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": content},
    ]


class Asking:
    """One pass over the open questions.

    Attributes:
        failures: key of a question to the reason why it has no answer.
    """

    def __init__(
        self,
        table: pa.Table,
        settings: JudgeConfig,
        limits: LimitsConfig,
        store: AnswerFile,
        watch: Watch,
        advance: Callable[[int], None],
    ) -> None:
        self.table = table
        self.settings = settings
        self.limits = limits
        self.store = store
        self.watch = watch
        self.advance = advance
        self.failures: dict[str, str] = {}

    async def ask_all(self, questions: Sequence[Question], key: str) -> None:
        """Ask them all; one at a time until the server has proved to answer.

        Raises:
            ConfigError: when the failures are not the samples' own.
            ArtifactError: when an answer cannot be stored.
        """
        queue = iter(questions)

        async def work(client: JudgeClient) -> None:
            for question in queue:
                await self._ask(client, question)

        async with JudgeClient(self.settings, key) as client:
            while not self.watch.proven and (question := next(queue, None)):
                await self._ask(client, question)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.settings.concurrency, len(questions))):
                        group.create_task(work(client))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        self.watch.finish()

    async def _ask(self, client: JudgeClient, question: Question) -> None:
        sample = sample_of(self.table.slice(question.row, 1).to_pylist()[0])
        try:
            messages = await asyncio.to_thread(messages_for, sample, self.settings, self.limits)
            answer = await client.ask(messages, question.tokens)
        except BadRow as error:
            self.failures[question.key] = str(error)
        except (Refused, Unreachable) as error:
            self.failures[question.key] = str(error)
            self.watch.failed(error)
        else:
            self.store.append(question.key, question.ids, answer)
            self.watch.answered()
        self.advance(len(question.ids))
