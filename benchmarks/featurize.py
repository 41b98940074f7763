"""Featurizing: the pipeline against a bare loop of the same model, in one run on one machine.

- bare: batches of the same size in one process, decoding and model in turn;
- one by one: a record at a time, as the paper's release does;
- pipeline: Ray Data actors, shards, files and records of completion.

Each record has a picture of its own. Starting Ray and loading a model is left out of all three:
the pipeline's rate is taken between its first and its last finished shard.

    python -m benchmarks.featurize [--records 512] [--image-size 224] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import pyarrow as pa
import torch

from benchmarks.store import store_result
from selfilter_ray.config import Config, load_config
from selfilter_ray.distributed.runtime import connected
from selfilter_ray.features.embedder import Embedder, build_embedder
from selfilter_ray.features.shards import plan_shards
from selfilter_ray.samples.files import iterate_samples, write_samples
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.pool import read_pool
from selfilter_ray.samples.record import scorer_text

THREADS = torch.get_num_threads()


def main() -> None:
    arguments = _arguments()
    config = _config(arguments)
    with connected(config.ray), tempfile.TemporaryDirectory() as folder:
        table = _distinct_pictures(config, Path(folder), arguments.records)
        embedder = build_embedder(config.featurize.embedder)
        _bare(embedder, config, table.slice(0, 64), config.featurize.batch_size)  # warm up
        rates: dict[str, list[float]] = {"bare": [], "one_by_one": [], "pipeline": []}
        for _ in range(arguments.rounds):
            batch = config.featurize.batch_size
            rates["bare"].append(_bare(embedder, config, table, batch))
            rates["one_by_one"].append(_bare(embedder, config, table.slice(0, 128), 1))
            rates["pipeline"].append(_pipeline(config, table, Path(folder)))
    middle = {name: median(values) for name, values in rates.items()}
    store_result(
        "featurize",
        {
            "records": table.num_rows,
            "image_size": arguments.image_size,
            "records_per_second": rates,
            "pipeline_to_bare": round(middle["pipeline"] / middle["bare"], 3),
            "pipeline_to_one_by_one": round(middle["pipeline"] / middle["one_by_one"], 3),
        },
    )


def _bare(embedder: Embedder, config: Config, table: pa.Table, batch: int) -> float:
    """Records a second of a plain loop over batches."""
    samples = list(iterate_samples(table))
    began = time.perf_counter()
    for start in range(0, len(samples), batch):
        rows = samples[start : start + batch]
        pictures = [load_image(Path(row.images[0]), config.data.limits) for row in rows]
        embedder.embed_images(torch.stack([embedder.preprocess(picture) for picture in pictures]))
        embedder.embed_texts([scorer_text(row.turns) for row in rows])
    return len(samples) / (time.perf_counter() - began)


def _pipeline(config: Config, table: pa.Table, folder: Path) -> float:
    """Records a second between the first and the last shard to finish."""
    finished: list[tuple[float, int]] = []
    shards = plan_shards(table.num_rows, config.featurize.shard_rows)
    from selfilter_ray.distributed.featurize import featurize_shards  # Ray is set up by now

    with tempfile.TemporaryDirectory(dir=folder) as features:
        featurize_shards(
            config,
            shards,
            folder / "samples",
            Path(features),
            "benchmark",
            lambda rows: finished.append((time.perf_counter(), rows)),
        )
    (first, _), (last, _) = finished[0], finished[-1]
    return sum(rows for _, rows in finished[1:]) / (last - first)


def _distinct_pictures(config: Config, folder: Path, records: int) -> pa.Table:
    """One record for each picture."""
    pool = read_pool(config.data, folder / "images").table
    seen: dict[str, int] = {}
    for row, images in enumerate(pool["images"].to_pylist()):
        seen.setdefault(images[0], row)
    table = pool.take(pa.array(list(seen.values())[:records])).combine_chunks()
    write_samples(folder / "samples", table)
    return table


def _config(arguments: argparse.Namespace) -> Config:
    return load_config(
        {
            "run_dir": "unused",
            "data": {"inputs": ["package:easy-vqa/train"]},
            "featurize": {
                "embedder": {"name": "bundled", "image_size": arguments.image_size},
                "batch_size": 32,
                "shard_rows": 64,
                "cpus_per_actor": THREADS,
                "decode_threads": THREADS,
            },
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
