"""Plain tuning on records of a run, by the trainer of Stage 1: from the pool to the tuned model.

The model is ``train.vlm``, or what ``tune`` gives instead, as it was before Stage 1. It ends in
``tuned/`` of the run's folder, and is finished for one set of ids under one set of settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.parquet as pq

from selfilter_ray.config import Config, load_config
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.features.shards import usable_ids
from selfilter_ray.known import seed_members
from selfilter_ray.run_folder import CHECKPOINTS, RunFolder, stage_key
from selfilter_ray.stage1.outputs import VLM
from selfilter_ray.stage1.prepare import count_steps
from selfilter_ray.stages import StageKeys
from selfilter_ray.storage.shared import begun, is_there
from selfilter_ray.telemetry.stage import watched_stage
from selfilter_ray.terminal import Terminal
from selfilter_ray.training import DONE, train_into, trained_once
from selfilter_ray.wanted import seed_ratio_of

if TYPE_CHECKING:
    from selfilter_ray.pipeline import Pipeline

On = Literal["selection", "pool", "seed"]
Ids = str | Path | Sequence[str]


def tune(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    on: On = "selection",
    ids: Ids | None = None,
    redo: bool = False,
    terminal: Terminal | None = None,
) -> dict[str, Any]:
    """Tune the VLM plainly, or go on with it; the same again does nothing.

    Args:
        config: path of a YAML file, a mapping, or a config.
        overrides: ``"a.b=c"`` strings.
        on: the chosen records, all usable ones, or MLLM-Selector's seed set.
        ids: of the records instead: a file with one id a line, or the ids.
        redo: allow that a model tuned otherwise is overwritten.
        terminal: where to show progress; quiet when None.

    Returns:
        The record of the manifest, and ``path``, the folder of the tuned model.

    Raises:
        SelfilterError: with what to do; its ``exit_code`` is the command's.
    """
    from selfilter_ray.pipeline import Pipeline

    pipeline = Pipeline(load_config(config, overrides), terminal or Terminal(quiet=True), redo)
    return pipeline.tune(on, ids)


@dataclass(frozen=True)
class TuningSet:
    """What is tuned on.

    Attributes:
        name: in words.
        ids: sorted.
        made_from: stage and key of what the ids come from.
    """

    name: str
    ids: np.ndarray
    made_from: dict[str, str]


def tuning_set(pipeline: Pipeline, on: On, ids: Ids | None) -> TuningSet:
    """The records to tune on, of finished stages.

    Raises:
        ConfigError: when the stage that they come from is not finished.
        DataError: when the given ids cannot be used.
    """
    folder, keys = pipeline.folder, pipeline.keys
    needed = "select" if on == "selection" and ids is None else "featurize"
    if not keys.is_finished(needed):
        raise ConfigError(
            f"{'tuning on the selection' if needed == 'select' else 'tuning'} needs {needed} to be "
            f"finished in {folder} with these settings: run it first."
        )
    made_from = {needed: keys[needed]}
    if needed == "select":
        chosen = pq.read_table(folder.selection)["id"].to_numpy(zero_copy_only=False)
        return TuningSet("selection", np.sort(chosen), made_from)
    usable = usable_ids(folder.features)
    if ids is not None:
        return TuningSet("ids", _given_ids(ids, usable, folder), made_from)
    if on == "pool":
        return TuningSet("pool", usable, made_from)
    ratio = seed_ratio_of(pipeline.methods)
    members_N = seed_members(usable, pipeline.seed_budget(len(usable)), ratio, pipeline.config.seed)
    return TuningSet("seed", usable[members_N], made_from)


def tune_in(
    folder: RunFolder,
    config: Config,
    keys: StageKeys,
    chosen: TuningSet,
    redo: bool,
    connect: Callable[[], None],
    terminal: Terminal,
) -> dict[str, Any]:
    """Tune into ``tuned/``, and put the record into the manifest.

    Raises:
        ConfigError: when the folder holds a model that was tuned otherwise, without ``redo``.
    """
    plain = config.model_copy(update={"train": config.tuning()})
    settings = plain.train.result_fields()
    key = stage_key(keys["featurize"], settings, config.seed, chosen.ids.tolist())
    done = _done(folder)
    if done is not None and done.get("key") == key:
        terminal.say(f"{folder.shown(folder.tuned)}: nothing left to do, the model is tuned.")
    elif not redo:
        _refuse_loss(folder, key, done)

    def train() -> dict[str, Any]:
        steps = count_steps(plain, len(chosen.ids))
        with (
            terminal.stage("tune", "steps", steps) as advance,
            watched_stage("tune", "steps", steps, advance) as told,
        ):
            return train_into(folder.tuned, key, plain, folder, connect, told, chosen.ids)

    made = trained_once(folder.tuned, key, train)
    record = {
        **made,
        "on": chosen.name,
        "rows": len(chosen.ids),
        "made_from": chosen.made_from,
        "settings": {"train": settings, "seed": config.seed},
    }
    manifest = folder.manifest()
    before = manifest.get("tuned", {})
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    record["finished"] = before["finished"] if before.get("key") == key else finished
    folder.save_manifest(manifest | {"tuned": record})
    return record | {"path": folder.shown(folder.tuned / VLM)}


def _done(folder: RunFolder) -> dict[str, Any] | None:
    """The completion record of a tuned model that is still there."""
    if not is_there(folder.tuned / VLM):
        (folder.tuned / DONE).unlink(missing_ok=True)
        return None
    try:
        record: dict[str, Any] = json.loads((folder.tuned / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def _refuse_loss(folder: RunFolder, key: str, done: dict[str, Any] | None) -> None:
    if done is not None:
        raise ConfigError(
            f"{folder.shown(folder.tuned)} holds a model that was tuned under other settings or on "
            "other records. Move that folder away to keep it, or --redo to overwrite it."
        )
    if begun(folder.tuned / CHECKPOINTS) - {key}:
        raise ConfigError(
            f"{folder.shown(folder.tuned)} holds an unfinished tuning under other settings or on "
            "other records. Take those again to go on, or --redo to start over."
        )


def _given_ids(ids: Ids, usable: np.ndarray, folder: RunFolder) -> np.ndarray:
    """The given ids, sorted, all of them usable records of the run."""
    given = _read_ids(Path(ids), folder) if isinstance(ids, str | Path) else list(ids)
    where = f"{ids}" if isinstance(ids, str | Path) else "ids"
    if not given:
        raise DataError(f"{where} holds no id: give one id a line.")
    wanted, times = np.unique(np.array(given, dtype=object), return_counts=True)
    if times.max() > 1:
        raise DataError(
            f"{where} holds {wanted[times > 1][0]!r} more than once: give each id a single time."
        )
    unknown = wanted[~np.isin(wanted, usable)]
    if len(unknown):
        raise DataError(
            f"{where}: {len(unknown)} of {len(wanted)} ids are no usable records of {folder}, "
            f"{unknown[0]!r} first: take ids as {folder.scores.name} has them, one a line."
        )
    return wanted


def _read_ids(file: Path, folder: RunFolder) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"{file} cannot be read ({reason}): give a file with one id a line, such as "
            f"{folder.shown(folder.selected_ids)}."
        ) from None
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [line for line in lines if line]
