"""One call for what several requests want at the same time.

While a call to the writer is under way, what arrives waits and goes with the next one, in the order
of arrival. A hop between processes costs the same for one sample and for many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gathered(Generic[Item, Answer]):
    """Joins calls of one event loop.

    Args:
        call: gives an answer for each item, in their order; what it raises, all its callers get.
        most: items of a call, unless one caller brings more.
    """

    def __init__(self, call: Callable[[list[Item]], Awaitable[list[Answer]]], most: int) -> None:
        self._call, self._most = call, most
        self._waiting: deque[tuple[list[Item], asyncio.Future[list[Answer]]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[Item]) -> list[Answer]:
        answer: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(items), answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            part = self._part()
            items = [item for some, _ in part for item in some]
            if items:
                await self._answer(items, part)

    def _part(self) -> list[tuple[list[Item], asyncio.Future[list[Answer]]]]:
        """Those who go together; callers that have left are left out."""
        part: list[tuple[list[Item], asyncio.Future[list[Answer]]]] = []
        count = 0
        while self._waiting and (not part or count + len(self._waiting[0][0]) <= self._most):
            items, answer = self._waiting.popleft()
            if answer.cancelled():
                continue
            if not items:
                answer.set_result([])
                continue
            part.append((items, answer))
            count += len(items)
        return part

    async def _answer(
        self, items: list[Item], part: list[tuple[list[Item], asyncio.Future[list[Answer]]]]
    ) -> None:
        try:
            answers = await self._call(items)
        except Exception as error:
            for _, answer in part:
                if not answer.cancelled():
                    answer.set_exception(error)
            return
        start = 0
        for some, answer in part:
            if not answer.cancelled():
                answer.set_result(answers[start : start + len(some)])
            start += len(some)
