"""What the service needs of a run, on this host."""

from __future__ import annotations

from pathlib import Path

from selfilter_ray.features.shards import Shard
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.storage import local_copy

# One shard says how many features the image's and the text's half have.
_SHARD = Shard(0, 0, 0).file(Path("features")).as_posix()
NEEDED = ("manifest.json", "scores.parquet", "stage1/score_net.safetensors", _SHARD)


def run_copy(run_dir: str | Path) -> RunFolder:
    """The folder of a run; of a URI, a copy of the few files that scoring reads.

    Raises:
        StorageError: when its store does not answer.
    """
    return RunFolder(local_copy(run_dir, NEEDED))
