"""Training a model into a folder of the run: Stage 1, MLLM-Selector's seed model, CoIDO's scorer.

All three are the same loop under other settings; each continues from its own checkpoints.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from selfilter_ray import atomic
from selfilter_ray.config import Config
from selfilter_ray.repeated import repeated
from selfilter_ray.run_folder import CHECKPOINTS, RunFolder
from selfilter_ray.stage1.loggers import METRICS
from selfilter_ray.storage import MissingError, StorageError, read_bytes
from selfilter_ray.storage.shared import Shared, begun, fetch, is_there, publish, remove

INITIAL_VLM = "initial_vlm"
DONE = "done.json"
ROWS = "rows.parquet"
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of checkpoints
LOOK_SECONDS, LOOK_FAR_SECONDS = 0.5, 3.0
MOST_METRICS = 2**30  # bytes


def train_into(
    output: Path,
    key: str,
    config: Config,
    folder: RunFolder,
    connect: Callable[[], None],
    advance: Callable[[int], None],
    ids: np.ndarray | None = None,
    cluster_M: np.ndarray | None = None,
    samples: Path | None = None,
) -> dict[str, Any]:
    """Train under ``config.train``, or go on with it.

    Args:
        output: folder for everything that the run leaves; emptied when it holds another run.
        key: what the result depends on.
        connect: makes sure that Ray is up.
        advance: told each optimizer step.
        ids, cluster_M: which samples, and their clusters; all usable ones when None.
        samples: folder of the samples; that of the run when None.

    Its checkpoints stay until ``drop_checkpoints``.

    Returns:
        The trainer's summary, and ``vlm``: a hash of the model that training started from.
    """
    from selfilter_ray import provenance
    from selfilter_ray.stage1.prepare import prepare_model

    checkpoints = output / CHECKPOINTS
    if not is_there(checkpoints / key):
        remove(output)
    samples = samples or folder.samples
    model = prepare_model(config, folder.samples, output)
    connect()
    from selfilter_ray.distributed.train import train_on_ray
    from selfilter_ray.stage1.rows import Paths, write_rows

    rows = None
    if ids is not None:
        rows = output / ROWS
        write_rows(rows, ids, cluster_M)
    paths = Paths(samples, folder.features, output, model, folder.ratings, rows)
    publish(output)
    with _following(output / METRICS, advance):
        summary = train_on_ray(config, paths, checkpoints, key)
    fetch(output, leave=(INITIAL_VLM,))
    summary["vlm"] = provenance.hash_model(model)
    return summary


def drop_checkpoints(output: Path) -> None:
    """Remove what only an unfinished training needs; to be called once its end is on record.

    Renamed first: a folder that is half removed must not be taken for a checkpoint. In a store, all
    else is pushed first, and then goes Ray Train's list of the checkpoints.
    """
    checkpoints, aside = output / CHECKPOINTS, output / ".checkpoints"
    publish(output)
    if Shared.of(output).place is not None and (keys := begun(checkpoints)):
        for key in keys:
            remove(checkpoints / key / SNAPSHOT)
        remove(checkpoints)
    if checkpoints.exists():
        shutil.rmtree(aside, ignore_errors=True)
        checkpoints.rename(aside)
    for needless in (aside, output / INITIAL_VLM):
        shutil.rmtree(needless, ignore_errors=True)
    publish(output)


def trained_once(output: Path, key: str, train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``train`` returned, now or when it was called under the same key before."""
    done = output / DONE
    try:
        record: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if record["key"] == key:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    done.unlink(missing_ok=True)
    began = time.monotonic()
    summary = train()
    record = {"key": key, **summary, "seconds": time.monotonic() - began}
    atomic.write_json(done, record)
    drop_checkpoints(output)
    return record


@contextmanager
def _following(metrics: Path, advance: Callable[[int], None]) -> Iterator[None]:
    """Report the steps that training logs while the block runs."""
    uri = Shared.of(metrics).uri
    shown = 0

    def follow() -> None:
        nonlocal shown
        lines = _lines(metrics if uri is None else uri, shown)
        advance(lines - shown)
        shown = lines

    with repeated(follow, LOOK_SECONDS if uri is None else LOOK_FAR_SECONDS, "steps"):
        yield


def _lines(metrics: Path | str, before: int) -> int:
    """Lines of the log; as many as before while its store does not answer."""
    try:
        return read_bytes(metrics, MOST_METRICS).count(b"\n")
    except MissingError:
        return 0
    except StorageError:
        return before
