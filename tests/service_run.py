"""The folder of a small finished run, and features that fit it, for tests of the service.

Shapes: N samples, I, T and D = I + T features.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from selfilter_ray import atomic
from selfilter_ray.features.extract import fixed_size_list
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard
from selfilter_ray.run_folder import FORMAT, RunFolder
from selfilter_ray.scoring import difficulty_columns, score_features
from selfilter_ray.stage1.score_net import load_score_net, save_score_net

SIZES = (1280, 384)  # of the packaged embedder
KEY = "0" * 16


def make_pool_features(n: int, seed: int = 0) -> np.ndarray:
    """(N, D) float32 of random samples; both halves of each have length 1."""
    random = np.random.default_rng(seed)
    halves = [random.normal(size=(n, size)) for size in SIZES]
    units = [half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves]
    return np.concatenate(units, axis=1).astype(np.float32)


def make_service_run(
    folder: Path | str,
    samples: int = 200,
    seed: int = 0,
    features_ND: np.ndarray | None = None,
    image_size: int = 32,
) -> Path:
    """A run whose train and score stages are finished: manifest, features, score net, scores.

    The manifest names the packaged embedder, which is not needed as long as nothing is embedded.

    Args:
        features_ND: of its samples, whose ids are ``pool-00000`` and so on; None for random ones.
        image_size: edge of the pictures that the embedder sees.
    """
    run = RunFolder(folder)
    if features_ND is None:
        features_ND = make_pool_features(samples, seed)
    ids = [f"pool-{number:05d}" for number in range(len(features_ND))]
    _write_net(run, seed)
    _write_features(run, ids, features_ND)
    z_N = score_features(load_score_net(run.score_net)[0], features_ND)
    atomic.write_table(run.scores, pa.table({"id": ids, **difficulty_columns(z_N)}))
    embedder = {"name": "bundled", "image_size": image_size}
    config = {
        "run_dir": str(run.path),
        "data": {"inputs": ["pool.json"]},
        "featurize": {"embedder": embedder},
    }
    stages = {stage: {"key": KEY} for stage in ("read", "featurize", "train", "score")}
    run.save_manifest({"format": FORMAT, "config": config, "stages": stages})
    return run.path


def features_json(features_D: np.ndarray) -> dict[str, list[float]]:
    """The ``features`` of a sample in a request, as lists of numbers."""
    return {
        "image_embedding": [float(value) for value in features_D[: SIZES[0]]],
        "text_embedding": [float(value) for value in features_D[SIZES[0] :]],
    }


def change_manifest(folder: Path, **changes: object) -> None:
    """Put other values into the manifest of a run."""
    run = RunFolder(folder)
    manifest = json.loads(run.manifest_file.read_text(encoding="utf-8"))
    run.save_manifest(manifest | changes)


def _write_net(run: RunFolder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight_1D = torch.randn(1, sum(SIZES), generator=generator)
    save_score_net(run.score_net, {"linear.weight": weight_1D}, {"inputs": "clip"})


def _write_features(run: RunFolder, ids: list[str], features_ND: np.ndarray) -> None:
    rows = len(ids)
    no_score = pa.StructArray.from_arrays([pa.nulls(rows, pa.float32())], ["clip_score"])
    table = pa.table(
        {
            "id": ids,
            "locator": [""] * rows,
            "image_embedding": fixed_size_list(features_ND[:, : SIZES[0]]),
            "text_embedding": fixed_size_list(features_ND[:, SIZES[0] :]),
            "scores": no_score,
            "status": ["ok"] * rows,
            "detail": [""] * rows,
        }
    )
    finish_shard(run.features, Shard(0, 0, rows), table, ShardRecord(KEY, rows, 0.0, "test"))
