"""Streams of samples for the tests of the durable state, and what must come of them.

Shapes: N samples, D features.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np

from selfilter_ray.online.decision import Decision
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import OnlineSettings
from selfilter_ray.service.messages import Arrival, Preview
from selfilter_ray.service.settings import PreviewSettings, ServiceConfig, SnapshotSettings
from selfilter_ray.service.state.writer import SelectionWriter

FEATURES, BASE = 6, -3.0
RATE = OnlineSettings(rate=0.3, near_duplicate=0.999, window=64, slack=5.0)
BUDGET = OnlineSettings(budget=12, k_nearest=2)
# More than one test writes; none of them wants a snapshot that it did not ask for.
SELDOM = 10**6


def arrivals(count: int, seed: int = 0, start: int = 0, preview: Preview | None = None):
    """Samples of which each depends on the seed and its number alone."""
    return [sample(number, seed, preview) for number in range(start, start + count)]


def sample(number: int, seed: int = 0, preview: Preview | None = None) -> Arrival:
    numbers = np.random.default_rng([seed, number])
    row_D = np.eye(FEATURES)[number % FEATURES] + 0.4 * numbers.normal(size=FEATURES)
    if number % 17 == 16:
        row_D = np.ones(FEATURES)  # a near duplicate of the others like it
    return arrival(
        f"s{number}", float(numbers.normal()), row_D, preview or Preview(f"text {number}")
    )


def arrival(id: str, difficulty: float, row_D, preview: Preview = Preview()) -> Arrival:  # noqa: B008
    row_D = np.asarray(row_D, np.float32)
    digest = hashlib.blake2b(f"{difficulty}".encode() + row_D.tobytes(), digest_size=16).digest()
    return Arrival(id, digest, difficulty, row_D, preview)


def configured(state, online=RATE, decisions=SELDOM, keep=3, rejected=50, **more) -> ServiceConfig:
    return ServiceConfig(
        run_dir=str(more.pop("run_dir", state)),
        state=str(state),
        online=online,
        snapshots=SnapshotSettings(decisions=decisions, keep=keep),
        previews=PreviewSettings(rejected=rejected),
        **more,
    )


def opened(config: ServiceConfig, holder: str = "a test") -> SelectionWriter:
    return SelectionWriter.open(config, FEATURES, BASE, holder)


def reference(samples, online=RATE) -> tuple[list[Decision], str]:
    """Decisions on samples with ids of their own, and the digest behind them, without a store."""
    selector = OnlineSelector(online, FEATURES, BASE)
    decisions = selector.decide(
        [one.id for one in samples],
        [one.difficulty for one in samples],
        [one.features_D for one in samples],
    )
    return decisions, selector.digest()


def admit_for_ever(folder, online, seed, connection):
    """In a process of its own: tell each answer after it was given, until killed."""
    writer = opened(configured(folder, online, decisions=150))
    number = writer.sequence
    sizes = random.Random(seed)
    while True:
        size = sizes.randint(1, 24)
        answers = writer.admit(arrivals(size, start=number))
        connection.send([(one.sequence, one.id, one.reason) for one in answers])
        number += size
