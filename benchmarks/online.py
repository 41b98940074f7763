"""Online selection against offline Stage 2 on the same pool, in several orders of arrival.

Pools: easy-vqa, with the features and difficulties of a finished run; and clusters that drift:
their shares, their places, and the level and spread of difficulty change while samples arrive.
Difficulty is the mean above the pool's least, coverage the mean cosine of 8,000 of the pool's
samples to the nearest chosen one. Each is divided by that of offline Stage 2.

    python -m benchmarks.online [--run runs/easy_vqa] [--samples 20000] [--rate 0.15]
        [--store online]
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.store import store_result
from selfilter_ray.compare import nearest
from selfilter_ray.online.decision import Decision
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import OnlineSettings
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.run_pool import load_pool
from selfilter_ray.select import select_diverse

TOPICS = 20
QUERIES = 8_000
# The five that count, and two that no rule with a steady rate can do well on.
ORDERS = ("as stored", "reversed", "shuffled 1", "shuffled 2", "by topic")
EXTREME = ("difficulty rising", "difficulty falling")


class Pool(NamedTuple):
    """(M, D) features and (M,) difficulties, at least 0."""

    features: np.ndarray
    difficulty: np.ndarray


def main() -> None:
    arguments = _arguments()
    pools: dict[str, Pool] = {}
    if arguments.run:
        pools["easy_vqa"] = _of_run(arguments.run)
    pools["drifting"] = drifting_pool(arguments.samples)
    measured = {name: _compare(name, pool, arguments.rate) for name, pool in pools.items()}
    store_result("online", {"rate": arguments.rate} | measured, arguments.store)


def drifting_pool(samples: int, features: int = 256, clusters: int = 150, seed: int = 0) -> Pool:
    """Clusters that come up and go down in time, move, and get harder and wider apart."""
    random = np.random.default_rng(seed)
    now = np.linspace(0.0, 1.0, samples)
    peak, width = random.uniform(-0.2, 1.2, clusters), random.uniform(0.15, 0.6, clusters)
    share = np.exp(-(((now[:, None] - peak) / width) ** 2)) * random.exponential(size=clusters)
    cumulated = np.cumsum(share, axis=1)
    label = (random.uniform(size=(samples, 1)) * cumulated[:, -1:] > cumulated).sum(axis=1)
    start, move = random.normal(size=(2, clusters, features)) / np.sqrt(features)
    cone = 0.8 * random.normal(size=features) / np.sqrt(features)
    noise = 0.4 * random.normal(size=(samples, features)) / np.sqrt(features)
    rows = cone + start[label] + 0.3 * now[:, None] * move[label] + noise
    hard = random.normal(size=clusters)[label] + random.normal(size=samples)
    difficulty = 0.3 * now + (1.0 + 0.2 * now) * hard
    return Pool(rows.astype(np.float32), difficulty - difficulty.min())


def _of_run(folder: str) -> Pool:
    pool = load_pool(RunFolder(folder), [], features=True)
    difficulty = pool.columns["difficulty"]
    assert pool.features_ND is not None
    return Pool(pool.features_ND, difficulty - difficulty.min())


def _compare(name: str, pool: Pool, rate: float) -> dict[str, Any]:
    wanted = round(rate * len(pool.difficulty))
    gauge = _Gauge(pool)
    began = time.perf_counter()
    offline = select_diverse(pool.features, pool.difficulty, wanted).indices
    seconds = time.perf_counter() - began
    base = gauge.measure(offline, offline, wanted)
    found: dict[str, Any] = {
        "samples": len(pool.difficulty),
        "features": pool.features.shape[1],
        "wanted": wanted,
        "offline": {**base, "seconds": round(seconds, 1)},
        "rows": [],
    }
    for order in (*ORDERS, *EXTREME):
        arrivals = _arrivals(pool, order)
        for method, settings in _methods(rate, wanted, order == "shuffled 1").items():
            chosen, seconds = _online(pool, arrivals, settings, order, wanted)
            row = {"order": order, "method": method, **gauge.measure(chosen, offline, wanted)}
            for figure in ("difficulty", "coverage"):
                row[f"{figure}_share"] = round(row[figure] / base[figure], 4)
            row["seconds"] = round(seconds, 1)
            found["rows"].append(row)
            print(name, row, flush=True)
    return found


def _methods(rate: float, budget: int, more: bool) -> dict[str, OnlineSettings | None]:
    methods: dict[str, OnlineSettings | None] = {
        "rate": OnlineSettings(rate=rate),
        "budget": OnlineSettings(budget=budget),
        "threshold only": OnlineSettings(rate=rate, gamma=0.0, k_nearest=0),
        "random": None,
    }
    if more:
        ten = OnlineSettings(rate=rate, k_nearest=10)
        methods["rate, k 10"] = ten
        methods["rate, k 10, admitted"] = ten.model_copy(
            update={"neighbour_difficulty": "admitted"}
        )
        methods["budget, k 2"] = OnlineSettings(budget=budget, k_nearest=2)
    return methods


def _online(
    pool: Pool, arrivals: np.ndarray, settings: OnlineSettings | None, order: str, wanted: int
) -> tuple[np.ndarray, float]:
    """Rows that are kept in the end, and seconds."""
    began = time.perf_counter()
    if settings is None:
        seed = [ord(letter) for letter in order]
        chosen = np.random.default_rng(seed).permutation(len(arrivals))
        return chosen[:wanted], time.perf_counter() - began
    selector = OnlineSelector(settings, pool.features.shape[1])
    ids = [str(row) for row in arrivals.tolist()]
    kept: dict[str, None] = {}
    for start in range(0, len(ids), 64):
        part = slice(start, start + 64)
        rows = arrivals[part]
        decisions = selector.decide(ids[part], pool.difficulty[rows], pool.features[rows])
        for decision in decisions:
            assert isinstance(decision, Decision)
            if decision.admitted:
                kept[decision.id] = None
            if decision.evicted is not None:
                del kept[decision.evicted]
    return np.array([int(id) for id in kept], np.int64), time.perf_counter() - began


def _arrivals(pool: Pool, order: str) -> np.ndarray:
    rows = np.arange(len(pool.difficulty))
    if order == "reversed":
        return rows[::-1]
    if order.startswith("shuffled"):
        return np.random.default_rng(int(order[-1])).permutation(len(rows))
    if order == "by topic":
        seeds = np.random.default_rng(0).choice(rows, TOPICS, replace=False)
        unit = nearest.unit_rows(pool.features, rows)
        return np.argsort((unit @ unit[seeds].T).argmax(axis=1), kind="stable")
    if order.startswith("difficulty"):
        rising = np.argsort(pool.difficulty, kind="stable")
        return rising if order.endswith("rising") else rising[::-1]
    return rows


class _Gauge:
    """Measures selections of one pool by the same sample of it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        rows = np.random.default_rng(1).permutation(len(pool.difficulty))[:QUERIES]
        self.query_QD = nearest.unit_rows(pool.features, np.sort(rows))

    def measure(self, chosen: np.ndarray, offline: np.ndarray, wanted: int) -> dict[str, Any]:
        chosen_BD = nearest.unit_rows(self.pool.features, np.sort(chosen))
        return {
            "count": len(chosen),
            "count_error": round(len(chosen) / wanted - 1.0, 4),
            "difficulty": float(self.pool.difficulty[chosen].mean()),
            "coverage": float(nearest.nearest_cosine(self.query_QD, chosen_BD).mean()),
            "overlap": round(len(np.intersect1d(chosen, offline)) / len(offline), 4),
        }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/easy_vqa")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=0.15)
    parser.add_argument("--store", default="online")
    return parser.parse_args()


if __name__ == "__main__":
    main()
