"""From checked samples to answers: read, score, admit; refused ones keep their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.http.context import Context
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.messages import Arrival, Incoming, Refused, Scored

Done = TypeVar("Done")


async def score(
    context: Context, samples: Sequence[SampleIn], previews: bool
) -> list[Scored | Refused]:
    """The difficulty of each, or why it has none, in their order.

    Args:
        previews: for the live page.
    """
    read: Sequence[Incoming | Refused] = await context.reader.read_all(samples)
    incoming = [sample for sample in read if not isinstance(sample, Refused)]
    scored = await context.backend.score(incoming, previews) if incoming else []
    return _in_places(read, scored)


async def admit(context: Context, scored: Sequence[Scored | Refused]) -> list[Decision | Refused]:
    """The decision on each; durable when this returns."""
    arrivals = [
        Arrival(one.id, one.digest, one.difficulty, one.features_D, one.preview)
        for one in scored
        if not isinstance(one, Refused)
    ]
    decided = await context.backend.admit(arrivals) if arrivals else []
    return _in_places(scored, decided)


def _in_places(before: Sequence[object], done: Sequence[Done | Refused]) -> list[Done | Refused]:
    """``done`` in the places of what was not refused before."""
    rest = iter(done)
    return [one if isinstance(one, Refused) else next(rest) for one in before]
