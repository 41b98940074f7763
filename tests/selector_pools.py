"""Small pools with everything that any selection method reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from selfilter_ray.select.contract import Pool, pool_of

STATISTICS = ("el2n", "grand", "loss", "loss_no_image", "loss_no_question")


def raw_pool(samples: int, seed: int = 0, dimension: int = 6, decimals: int = 6) -> dict[str, Any]:
    """Arguments of ``pool_of``; few ``decimals`` make many ties."""
    rng = np.random.default_rng(seed)

    def drawn(low: float, high: float) -> np.ndarray:
        return np.round(rng.uniform(low, high, samples), decimals)

    columns = {f"pre_{name}": drawn(0.5, 3.0) for name in STATISTICS}
    columns |= {f"seed_{name}": drawn(0.5, 3.0) for name in STATISTICS}
    columns["answer_tokens"] = rng.integers(1, 9, samples).astype(float)
    columns["tuned_loss"] = drawn(0.1, 2.0)
    columns["seed_loss_sum"] = columns["seed_loss"] * columns["answer_tokens"]
    columns["seed_member"] = (np.arange(samples) == 0).astype(float)
    for name in ("difficulty", "clip_score", "image_reward", "coido_score"):
        columns[name] = drawn(-1.0, 1.0)
    columns["judge_quality"] = rng.integers(0, 11, samples).astype(float)
    columns["judge_helpfulness"] = rng.integers(0, 11, samples) / 2
    columns["judge_accuracy"] = rng.integers(0, 11, samples) / 2
    return {
        "ids": [f"s{number:05d}" for number in rng.permutation(samples)],
        "sources": [f"source {number}" for number in rng.integers(0, 3, samples)],
        "features_ND": np.round(rng.normal(size=(samples, dimension)), decimals),
        "columns": columns,
    }


def make_pool(samples: int, seed: int = 0, **changes: Any) -> Pool:
    """A pool with some of its columns, or its sources or features, replaced."""
    raw = raw_pool(samples, seed)
    columns = raw["columns"] | {
        name: value for name, value in changes.items() if name not in ("sources", "features_ND")
    }
    replaced = {name: changes[name] for name in ("sources", "features_ND") if name in changes}
    return pool_of(**(raw | {"ids": sorted(raw["ids"]), "columns": columns} | replaced))


def shuffled(raw: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same samples in another order."""
    order = np.random.default_rng(seed).permutation(len(raw["ids"]))
    return {
        "ids": [raw["ids"][row] for row in order],
        "sources": [raw["sources"][row] for row in order],
        "features_ND": raw["features_ND"][order],
        "columns": {name: value_N[order] for name, value_N in raw["columns"].items()},
    }
