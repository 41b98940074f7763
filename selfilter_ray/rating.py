"""``ratings.parquet``: what ImageReward and LLM judges say of every usable sample.

ImageReward passes over the pool shard by shard; a judge's answers are stored as they come. Either
goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfilter_ray import atomic
from selfilter_ray.config import Config
from selfilter_ray.features.shards import read_shards, shard_files, shards_to_make
from selfilter_ray.run_folder import RunFolder, stage_key
from selfilter_ray.samples.files import read_samples, samples_of
from selfilter_ray.scorers.judge.settings import JudgeConfig
from selfilter_ray.storage.shared import publish
from selfilter_ray.terminal import Terminal

Advance = Callable[[int], None]


def rate_pool(
    config: Config,
    folder: RunFolder,
    ids: pa.Array,
    key: str,
    connect: Callable[[], None],
    terminal: Terminal,
    advance: Advance,
) -> tuple[pa.Table, dict[str, Any]]:
    """Every rating that the config asks for.

    Args:
        ids: of the usable samples, sorted.
        key: of the feature stage, whose samples are rated.
        connect: makes sure that Ray is up.
        advance: told each sample that one rater is done with.

    Returns:
        id and a float32 column for each rater, in the order of the ids, null where a sample has no
        rating; and for each rater how many that are (``not_rated``), and for each judge how many
        answers gave no score, so that the mean stands for it (``not_parsed``).
    """
    columns: dict[str, pa.Array] = {"id": ids}
    not_parsed: dict[str, int] = {}
    if config.ratings.image_reward is not None:
        columns["image_reward"] = _rewards(config, folder, ids, key, connect, advance)
    for judge in config.ratings.judges:
        judged = _judged(judge, config, folder, ids, terminal, advance)
        columns[judge.column] = _in_order(judged, ids, judge.column)
        known = judged.filter(pc.is_valid(judged[judge.column]))
        not_parsed[judge.column] = known.num_rows - (pc.sum(known["parsed"]).as_py() or 0)
    table = pa.table(columns)
    missing = {name: table[name].null_count for name in config.ratings.columns}
    return table, {"not_rated": missing, "not_parsed": not_parsed}


def _rewards(
    config: Config,
    folder: RunFolder,
    ids: pa.Array,
    key: str,
    connect: Callable[[], None],
    advance: Advance,
) -> pa.Array:
    settings = config.ratings.image_reward
    assert settings is not None
    place = folder.raters / "image_reward"
    key = stage_key(key, settings.result_fields())
    rows = int(folder.require("read")["out"])
    todo = shards_to_make(place, key, rows, config.featurize.shard_rows)
    advance(rows - sum(shard.stop - shard.start for shard in todo))
    if todo:
        connect()
        from selfilter_ray.distributed.image_reward import reward_shards

        reward_shards(config, todo, folder.samples, place, key, advance)
    table = read_shards(shard_files(place, "rate"), ["id", "image_reward"])
    return _in_order(table, ids, "image_reward")


def _judged(
    judge: JudgeConfig,
    config: Config,
    folder: RunFolder,
    ids: pa.Array,
    terminal: Terminal,
    advance: Advance,
) -> pa.Table:
    """The judge's own table, left beside its answers, too: it lists what failed and why."""
    from selfilter_ray.scorers.judge.run import judge as ask

    samples = read_samples(folder.samples, ["id", "turns", "images"])
    usable = samples_of(samples, ids.to_numpy(zero_copy_only=False))
    table = ask(
        usable,
        judge,
        config.data.limits,
        folder.raters / judge.column,
        advance,
        lambda estimate: terminal.say(f"{judge.column}: {estimate}"),
    )
    atomic.write_table(folder.raters / judge.column / "judged.parquet", table)
    publish(folder.path)  # its answers were paid for
    return table


def _in_order(table: pa.Table, ids: pa.Array, column: str) -> pa.Array:
    place = pc.index_in(ids, value_set=table["id"].combine_chunks())
    return table[column].combine_chunks().take(place).cast(pa.float32())
