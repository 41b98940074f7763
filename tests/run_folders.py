"""What finished stages leave in a run's folder, for tests that run none."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa

from selfilter_ray import atomic
from selfilter_ray.features.extract import fixed_size_list
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard

INPUTS = [{"path": "/pool/a.json", "sha256": "0" * 64}]
OUTPUTS = {
    "read": ["samples/part-00000.parquet", "samples/quarantine.jsonl"],
    "featurize": [
        "features/shard-00000.parquet",
        "features/shard-00000.done.json",
        "quarantine.jsonl",
    ],
    "rate": ["ratings.parquet"],
    "train": ["stage1/score_net.safetensors", "stage1/sample_statistics.parquet"],
    "score": ["scores.parquet"],
    "select": ["selection.parquet", "selected.json", "selected.ids"],
    "report": ["report.html"],
}


def finish_stages(folder, keys, *stages, **records):
    """Finish stages as the pipeline does: their files first, then the manifest.

    Args:
        records: by stage, what its record holds beside what every record does.
    """
    for stage in stages:
        for name in OUTPUTS[stage]:
            shard = {"key": keys[stage], "rows": 3, "seconds": 1.0, "model": "m"}
            if not (folder.path / name).exists():
                text = json.dumps(shard) if name.endswith(".done.json") else ""
                atomic.write_text(folder.path / name, text)
        record = {"rows": 3, "out": 3, "models": {}, "columns": ["id"], "seconds": 1.0}
        record["counts"] = {"in": 3, "out": 3, "quarantined": {}}
        keys.finish(stage, record | records.get(stage, {}), {"seed": 0})


def write_features(folder, key, ids, features_ND, clip_score_N):
    """One complete shard of usable records."""
    rows = len(ids)
    half = features_ND.shape[1] // 2
    scores = pa.StructArray.from_arrays([pa.array(clip_score_N, pa.float32())], ["clip_score"])
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "locator": [""] * rows,
            "image_embedding": fixed_size_list(features_ND[:, :half]),
            "text_embedding": fixed_size_list(features_ND[:, half:]),
            "scores": scores,
            "status": ["ok"] * rows,
            "detail": [""] * rows,
        }
    )
    finish_shard(folder, Shard(0, 0, rows), table, ShardRecord(key, rows, 1.0, "embedder"))


def featurized_copy(folder, copy):
    """A folder in which read and featurize are finished, from one where they are."""
    for name in ("samples", "features"):
        shutil.copytree(folder / name, copy / name)
    shutil.copy(folder / "quarantine.jsonl", copy)
    manifest = json.loads((folder / "manifest.json").read_text())
    stages = {stage: manifest["stages"][stage] for stage in ("read", "featurize")}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"stages": stages}))
    return copy
