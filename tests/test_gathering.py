"""Calls that wait at the same time go together, in order, and each gets its own answers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfilter_ray.service.gathering import Gathered


class Doubling:
    """Notes what it was called with; answers twice the number."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    async def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        await asyncio.sleep(0)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=20), st.integers(1, 12))
def test_everyone_gets_the_answers_to_their_own_items(parts, most):
    call = Doubling()

    async def ask():
        gathered = Gathered(call, most)
        return await asyncio.gather(*(gathered(part) for part in parts))

    assert asyncio.run(ask()) == [[2 * item for item in part] for part in parts]
    assert [item for items in call.calls for item in items] == [i for part in parts for i in part]
    assert all(len(items) <= max(most, 5) for items in call.calls)


def test_what_arrives_during_a_call_goes_together_with_the_next():
    call = Doubling()

    async def ask():
        gathered = Gathered(call, 100)
        first = asyncio.ensure_future(gathered([0]))
        await asyncio.sleep(0)
        return await asyncio.gather(first, *(gathered([n]) for n in range(1, 30)))

    asyncio.run(ask())
    assert len(call.calls) == 2


def test_an_error_reaches_those_of_its_call_only():
    async def ask():
        gathered = Gathered(Doubling(), 1)
        return await asyncio.gather(gathered([-1]), gathered([4]), return_exceptions=True)

    failed, fine = asyncio.run(ask())
    assert isinstance(failed, ValueError)
    assert fine == [8]


def test_a_caller_that_leaves_takes_nothing_from_the_others():
    async def ask():
        gathered = Gathered(Doubling(), 10)
        leaving, staying = (asyncio.ensure_future(gathered([n])) for n in (1, 2))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(ask()) == [4]
