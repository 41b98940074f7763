"""The writer on its thread: waiting requests are decided together, failures are survived."""

from __future__ import annotations

import asyncio
import functools

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.service.messages import Arrival, NotReadyError
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state.address import FILE
from selfilter_ray.service.state.writer import SelectionWriter
from selfilter_ray.service.writer_loop import WriterLoop

FEATURES = 6
PATIENCE_SECONDS = 20.0


def arrivals(count: int, start: int = 0) -> list[Arrival]:
    made = []
    for number in range(start, start + count):
        random = np.random.default_rng(number)
        row = random.normal(size=FEATURES).astype(np.float32)
        made.append(Arrival(f"s{number}", number.to_bytes(16, "big"), random.normal() + 5, row))
    return made


@pytest.fixture
def opening(tmp_path):
    config = ServiceConfig(run_dir="unused", state=str(tmp_path / "state"))
    return functools.partial(SelectionWriter.open, config, FEATURES, 0.0, "test")


@pytest.fixture
def loop(opening):
    loop = WriterLoop(opening)
    yield loop
    loop.close()


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def test_requests_that_wait_together_get_the_decisions_of_one_by_one(loop):
    async def send():
        await until(lambda: loop.ready)
        parts = [arrivals(3, start) for start in range(0, 90, 3)]
        return await asyncio.gather(*(loop.admit(part) for part in parts))

    answers = [answer for part in asyncio.run(send()) for answer in part]
    selector = OnlineSelector(ServiceConfig(run_dir="unused").online, FEATURES)
    alone = []
    for arrival in arrivals(90):
        alone += selector.decide([arrival.id], [arrival.difficulty], [arrival.features_D])
    assert answers == alone
    assert [answer.sequence for answer in answers] == list(range(90))


def test_it_waits_for_a_writer_that_holds_the_state_and_says_who_it_is(opening):
    first = opening()

    async def wait() -> list:
        loop = WriterLoop(opening)
        try:
            await until(lambda: "in use by test" in loop.detail)
            assert not loop.ready
            with pytest.raises(NotReadyError, match="in use"):
                await loop.admit(arrivals(1))
            first.close()
            await until(lambda: loop.ready)
            return await loop.admit(arrivals(1))
        finally:
            await asyncio.to_thread(loop.close)

    assert [answer.sequence for answer in asyncio.run(wait())] == [0]


def test_a_writer_that_was_overtaken_is_opened_anew_and_nothing_is_lost(loop, tmp_path):
    async def overtake() -> list:
        await until(lambda: loop.ready)
        first = await loop.admit(arrivals(5))
        engine = create_engine(f"sqlite:///{tmp_path / 'state' / FILE}")
        with engine.begin() as connection:
            connection.execute(text("UPDATE selfilter_head SET epoch = epoch + 1"))
        engine.dispose()
        with pytest.raises(NotReadyError, match="another writer"):
            await loop.admit(arrivals(5, 5))
        await until(lambda: loop.ready)
        return first + await loop.admit(arrivals(10))

    answers = asyncio.run(overtake())
    assert answers[:5] == answers[5:10]
    assert [answer.sequence for answer in answers[5:]] == list(range(10))


def test_a_caller_that_leaves_disturbs_nobody(loop):
    async def leave() -> list:
        await until(lambda: loop.ready)
        gone = asyncio.ensure_future(loop.admit(arrivals(200)))
        await asyncio.sleep(0)
        gone.cancel()
        return await loop.admit(arrivals(3, 1000))

    answers = asyncio.run(leave())
    assert [answer.id for answer in answers] == ["s1000", "s1001", "s1002"]


def test_closing_answers_what_waits_and_frees_the_state(opening):
    async def close() -> list:
        loop = WriterLoop(opening)
        await until(lambda: loop.ready)
        waiting = [asyncio.ensure_future(loop.admit(arrivals(2, n))) for n in range(0, 20, 2)]
        await asyncio.sleep(0)
        await asyncio.to_thread(loop.close)
        with pytest.raises(NotReadyError):
            await loop.admit(arrivals(1))
        return await asyncio.gather(*waiting)

    assert sum(len(part) for part in asyncio.run(close())) == 20
    opening().close()


def test_a_question_that_fails_leaves_the_writer_as_it_is(loop):
    def fail(writer: SelectionWriter) -> None:
        raise ZeroDivisionError

    async def ask() -> list:
        await until(lambda: loop.ready)
        with pytest.raises(NotReadyError, match="ZeroDivisionError"):
            await loop.ask(fail)
        return await loop.admit(arrivals(1))

    assert len(asyncio.run(ask())) == 1
