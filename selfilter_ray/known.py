"""``scores.parquet``: everything that is known of every usable sample, one row each.

Columns come from the score net, from Stage 1's own statistics, from raters, from passes of VLMs
over the pool, and from CoIDO's scorer. Only what the methods of a run want is made; each part is
kept under a key of its own, so another method adds to what is there.

Shapes: N usable samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfilter_ray.config import Config, TrainConfig, plain_training
from selfilter_ray.errors import ConfigError
from selfilter_ray.features.shards import Features, load_features, shard_files, shard_seconds
from selfilter_ray.measure.table import STATISTICS, load_measured
from selfilter_ray.measuring import (
    PRE,
    VlmPass,
    drop_initial_vlm,
    initial_vlm,
    make_pass,
    pass_before_tuning,
)
from selfilter_ray.run_folder import RunFolder, stage_key
from selfilter_ray.scoring import difficulty_columns, net_scores
from selfilter_ray.select.kmeans import spherical_kmeans
from selfilter_ray.select.mllm_selector import MEMBER, seed_set
from selfilter_ray.select.random_order import random_order
from selfilter_ray.stage1.outputs import VLM
from selfilter_ray.stages import StageKeys
from selfilter_ray.training import train_into, trained_once
from selfilter_ray.wanted import Wanted

ROWS_ALONE = 500_000  # fewer are scored sooner than workers are started


class KnownSamples:
    """Makes the columns, one part after the other.

    Args:
        keys: of this run; says what is finished.
        connect: makes sure that Ray is up.
        say: told of each part that was made.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        keys: StageKeys,
        connect: Callable[[], None],
        say: Callable[[str], None],
        advance: Callable[[int], None],
    ) -> None:
        self.config, self.folder, self.keys = config, folder, keys
        self.connect, self.say, self.advance = connect, say, advance
        self.seconds: dict[str, float] = {}

    def table(self, wanted: Wanted, budget: int) -> pa.Table:
        """The table, sorted by id.

        Args:
            wanted: what to make.
            budget: at most half of it goes into the seed set.
        """
        # Of an interrupted run, perhaps under other settings.
        drop_initial_vlm(self.folder)
        clip_N = self.features.clip_score_N
        columns: dict[str, Any] = {"id": pa.array(self.features.ids, pa.string())}
        if self.keys.is_finished("train"):
            columns |= self._stage1()
        columns["clip_score"] = pa.array(clip_N, mask=np.isnan(clip_N))
        if self.keys.is_finished("rate"):
            ratings = pq.read_table(self.folder.ratings)
            columns |= {name: ratings[name] for name in ratings.column_names if name != "id"}
        seed_N = self._seed_members(wanted, budget)
        if seed_N is not None:
            columns[MEMBER] = pa.array(seed_N.astype(np.float32))
        for model in wanted.models:
            columns |= self._measured(model, seed_N)
        if wanted.coido:
            columns["coido_score"] = pa.array(self._coido())
        return pa.table(columns)

    @staticmethod
    def whole(table: pa.Table) -> list[str]:
        """The columns that need not be made again: lengths of a part of the pool do."""
        lengths = "answer_tokens"
        return [c for c in table.column_names if c != lengths or not table[c].null_count]

    @cached_property
    def features(self) -> Features:
        return load_features(self.folder.features)

    def _stage1(self) -> dict[str, Any]:
        """Weight, difficulty, and what training saw of each sample."""
        began = time.monotonic()
        if self.config.train.inputs == "clip" and len(self.features.ids) > ROWS_ALONE:
            self.connect()
            from selfilter_ray.distributed.score import score_shards

            files = shard_files(self.folder.features)
            ids, z_N = score_shards(files, self.folder.score_net)
            z_N = z_N[np.argsort(ids, kind="stable")]
        else:
            z_N = net_scores(self.folder.score_net, self.features, self.folder.ratings)
        statistics = pq.read_table(self.folder.sample_statistics)
        place = pc.index_in(
            pa.array(self.features.ids, pa.string()), value_set=statistics["id"].combine_chunks()
        )
        known = statistics.take(place)
        self.seconds["score net"] = time.monotonic() - began
        return difficulty_columns(z_N) | {
            "answer_tokens": known["answer_tokens"],
            "train_loss": known["train_loss"],
        }

    def _measured(self, model: str, seed_N: np.ndarray | None) -> dict[str, Any]:
        """Statistics of one VLM, their names beginning with the model's."""
        made = self._pass(model, seed_N)
        make_pass(made, self.config, self.folder, self.connect, self.advance)
        self.seconds[f"{model} model's pass"] = shard_seconds(made.place)
        table = load_measured(made.place, self.features.ids)
        columns = {f"{model}_{name}": table[name] for name in STATISTICS}
        return columns | {"answer_tokens": table["answer_tokens"]}

    def _pass(self, model: str, seed_N: np.ndarray | None) -> VlmPass:
        """The pass of a VLM, by the model's name."""
        if model == PRE:
            return pass_before_tuning(self.config, self.folder, self.keys["featurize"])
        lora = self.config.train.trainable.language_model == "lora"
        base = (lambda: initial_vlm(self.config, self.folder)) if lora else None
        if model == "tuned":
            key, vlm = self.keys["train"], self.folder.stage1 / VLM
        else:
            assert seed_N is not None
            key, vlm = self._seed_model(self.features.ids[seed_N]), self.folder.seed_model / VLM
        place = self.folder.measured / model
        return VlmPass(place, key, lambda: str(vlm), base, self.config.measure)

    def _seed_members(self, wanted: Wanted, budget: int) -> np.ndarray | None:
        """(N,) bool, MLLM-Selector's seed set; None where nothing asks for it."""
        if wanted.seed_set is None:
            return None
        return seed_members(self.features.ids, budget, wanted.seed_set[0], self.config.seed)

    def _seed_model(self, ids: np.ndarray) -> str:
        """Tune the seed model, unless that is done; returns its key."""
        train = plain_training(self.config.train, self.config.seed_model)
        return self._trained("seed model", self.folder.seed_model, train, ids, None)

    def _coido(self) -> np.ndarray:
        """(N,) float32: hard samples lose weight, so the score is -z."""
        settings, ids = self.config.coido_model, self.features.ids
        order = random_order(ids, self.config.seed, "coido")
        rows = np.sort(order[: max(1, round(settings.pool_fraction * len(ids)))])
        clusters = spherical_kmeans(
            self.features.features_ND[rows],
            settings.clusters,
            random_order(ids[rows], self.config.seed, "coido clusters"),
        )
        changes: dict[str, Any] = {
            "objective": "coido",
            "inputs": settings.inputs,
            "score_net_hidden": settings.hidden,
            "save_vlm": False,
            "pool_fraction": 1.0,
            "losses": "live",
        }
        changes |= {} if settings.epochs is None else {"epochs": settings.epochs, "steps": None}
        train = self.config.train.model_copy(update=changes)
        folder = self.folder.coido_model
        self._trained("CoIDO's scorer", folder, train, ids[rows], clusters.labels_N)
        z_N = net_scores(folder / self.folder.score_net.name, self.features, self.folder.ratings)
        return -z_N

    def _trained(
        self,
        name: str,
        output: Path,
        train: TrainConfig,
        ids: np.ndarray,
        cluster_M: np.ndarray | None,
    ) -> str:
        config = self.config.model_copy(update={"train": train})
        before = self.keys["rate" if train.inputs != "clip" else "featurize"]
        clusters = None if cluster_M is None else cluster_M.tolist()
        key = stage_key(before, train.result_fields(), self.config.seed, ids.tolist(), clusters)

        def train_it() -> dict[str, Any]:
            self.say(f"score: {name}: training on {len(ids):,} samples")
            return train_into(
                output, key, config, self.folder, self.connect, lambda steps: None, ids, cluster_M
            )

        self.seconds[name] = float(trained_once(output, key, train_it)["seconds"])
        return key


def seed_members(ids: np.ndarray, budget: int, ratio: float, seed: int) -> np.ndarray:
    """(N,) bool, which of the sorted ids are MLLM-Selector's seed set.

    Raises:
        ConfigError: when the budget leaves none.
    """
    members_N = np.zeros(len(ids), bool)
    members_N[seed_set(ids, budget, ratio, seed)] = True
    if not members_N.any():
        raise ConfigError(
            f"MLLM-Selector's seed set is empty with a budget of {budget}: give it at least 2."
        )
    return members_N
