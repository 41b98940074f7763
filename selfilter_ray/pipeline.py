"""The main flow: read, featurize, train, score, select, report.

Each stage reads what the ones before it left in the run's folder, and is skipped when it is
finished with the same inputs and settings. Everything that imports Ray or torch is imported by the
stage that needs it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfilter_ray import atomic, provenance
from selfilter_ray.config import Config, load_config
from selfilter_ray.errors import DataError
from selfilter_ray.run_folder import STAGES, RunFolder
from selfilter_ray.stages import StageKeys
from selfilter_ray.terminal import Terminal


def run(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    stages: Sequence[str] = STAGES,
    redo: bool = False,
    terminal: Terminal | None = None,
) -> dict[str, Any]:
    """Run the pipeline, or some of its stages, and return the manifest.

    Args:
        config: path of a YAML file, a mapping, or a config.
        overrides: ``"a.b=c"`` strings.
        stages: which stages, in their order; a stage needs those before it to be finished.
        redo: allow that finished features or training of other settings are thrown away.
        terminal: where to show progress; quiet when None.

    Raises:
        SelfilterError: with what to do; its ``exit_code`` is the command's.
    """
    return Pipeline(load_config(config, overrides), terminal or Terminal(quiet=True), redo).run(
        stages
    )


class Pipeline:
    """One run in its folder."""

    def __init__(self, config: Config, terminal: Terminal, redo: bool = False) -> None:
        self.config = config
        self.folder = RunFolder(config.run_dir)
        self.terminal = terminal
        self.redo = redo
        self._resources = ExitStack()
        self._connected = False

    def run(self, stages: Sequence[str] = STAGES) -> dict[str, Any]:
        """The stages that are not finished yet."""
        with self.folder.locked(), self._resources:
            self.keys = self._begin(stages)
            todo = [stage for stage in stages if not self.keys.is_finished(stage)]
            if not todo:
                self.terminal.say(
                    f"{self.folder.path}: nothing left to do, every stage is finished."
                )
            for stage in todo:
                self.keys.require_before(stage)
                getattr(self, stage)()
        return self.folder.manifest()

    def read(self) -> None:
        """Inputs to ``samples/`` and the quarantine."""
        from selfilter_ray.samples.files import write_samples
        from selfilter_ray.samples.pool import NothingUsableError, read_pool
        from selfilter_ray.samples.quarantine import write_quarantine

        with self._stage("read", "rows", None) as (advance, record):
            try:
                pool = read_pool(self.config.data, self.folder.images, self.config.seed, advance)
            except NothingUsableError as error:
                write_quarantine(self.folder.quarantine, error.quarantined)
                raise
            write_samples(self.folder.samples, pool.table)
            write_quarantine(self.folder.read_quarantine, pool.quarantined)
            write_quarantine(self.folder.quarantine, pool.quarantined)
            record |= {"rows": pool.rows_in, "out": pool.table.num_rows, "counts": pool.counts}

    def featurize(self) -> None:
        """``samples/`` to ``features/``, shard by shard, on Ray Data."""
        from selfilter_ray.features import shards
        from selfilter_ray.samples.quarantine import read_quarantine, write_quarantine

        rows = self._records("read")
        key = self.keys["featurize"]
        folder = self.folder.features
        plan = shards.plan_shards(rows, self.config.featurize.shard_rows)
        shards.remove_other_shards(folder, key, plan)
        todo = [shard for shard in plan if shards.shard_record(folder, shard, key) is None]
        with self._stage("featurize", "rows", rows) as (advance, record):
            advance(rows - sum(shard.stop - shard.start for shard in todo))
            if todo:
                self._connect()
                from selfilter_ray.distributed.featurize import featurize_shards

                featurize_shards(self.config, todo, self.folder.samples, folder, key, advance)
            failed = shards.failed_rows(folder)
            write_quarantine(
                self.folder.quarantine, [*read_quarantine(self.folder.read_quarantine), *failed]
            )
            if len(failed) == rows:
                raise DataError(
                    f"none of the {rows} records could be featurized. First: {failed[0].detail}; "
                    f"remedy: {failed[0].remedy}."
                )
            record |= {
                "rows": rows,
                "out": rows - len(failed),
                "models": {"embedder": shards.model_hash(folder)},
            }

    def train(self) -> None:
        """Stage 1: ``samples/`` and ``features/`` to ``stage1/``, on Ray Train and DeepSpeed."""
        from selfilter_ray.stage1.prepare import INITIAL_VLM, count_steps, prepare_model

        train, stage1 = self.config.train, self.folder.stage1
        checkpoints = self.folder.checkpoints
        if not (checkpoints / self.keys["train"]).exists():
            shutil.rmtree(stage1, ignore_errors=True)
        rows = self._records("featurize")
        self.config.select.count(rows)  # a budget that cannot be met is better known before
        with self._stage("train", "steps", count_steps(self.config, rows)) as (advance, record):
            model = prepare_model(self.config, self.folder)
            self._connect()
            from selfilter_ray.distributed.train import train_on_ray
            from selfilter_ray.stage1.summary import correlations
            from selfilter_ray.stage1.trainer import Paths

            paths = Paths(self.folder.samples, self.folder.features, stage1, model)
            with _following(self.folder.metrics, advance):
                summary = train_on_ray(self.config, paths, checkpoints, self.keys["train"])
            record |= {"rows": rows * train.epochs, **summary}
            record["correlations"] = correlations(self.folder)
            record["models"] = {"vlm": provenance.hash_model(model)}
        for needless in (checkpoints, stage1 / INITIAL_VLM):
            shutil.rmtree(needless, ignore_errors=True)

    def score(self) -> None:
        """The score net over all features, on Ray Data, to ``scores.parquet``."""
        rows = self._records("featurize")
        with self._stage("score", "rows", rows) as (advance, record):
            self._connect()
            import pyarrow.parquet as pq

            from selfilter_ray.distributed.score import score_shards
            from selfilter_ray.features.shards import load_features, shard_files
            from selfilter_ray.scoring import score_table

            ids, z_N = score_shards(shard_files(self.folder.features), self.folder.score_net)
            features = load_features(self.folder.features)
            statistics = pq.read_table(self.folder.sample_statistics)
            atomic.write_table(self.folder.scores, score_table(ids, z_N, features, statistics))
            advance(rows)
            record["rows"] = rows

    def select(self) -> None:
        """Stage 2: difficulties and features to the picks and the chosen records."""
        import pyarrow.parquet as pq

        from selfilter_ray.features.shards import load_features
        from selfilter_ray.select import select_diverse
        from selfilter_ray.selected import selection_table, write_selected

        settings = self.config.select
        budget = settings.count(self._records("featurize"))
        with self._stage("select", "picks", budget) as (advance, record):
            features = load_features(self.folder.features)
            difficulty_N = pq.read_table(self.folder.scores)["difficulty"].to_numpy()
            picks = select_diverse(
                features.features_ND,
                difficulty_N,
                budget,
                settings.gamma,
                settings.k_nearest,
                settings.difficulty,
                advance,
            )
            table = selection_table(features.ids, picks)
            atomic.write_table(self.folder.selection, table)
            write_selected(self.folder, table["id"].to_pylist())
            record["rows"] = budget

    def report(self) -> None:
        """Everything above to ``report.html``."""
        from selfilter_ray.report import write_report

        with self._stage("report", "rows", None) as (_, record):
            write_report(self.folder, self.config.report)
            record["rows"] = self.folder.require("select")["rows"]

    def _begin(self, stages: Sequence[str]) -> StageKeys:
        """Describe the inputs, and refuse to throw work away unasked."""
        from selfilter_ray.samples.pool import input_files

        manifest = self.folder.manifest()
        inputs = provenance.describe_inputs(
            input_files(self.config.data), manifest.get("inputs", ())
        )
        keys = StageKeys(self.config, inputs, self.folder)
        keys.refuse_loss(stages, self.redo)
        self.provenance = {
            "created": manifest.get("created", _now()),
            "name": self.folder.path.name,
            "seed": self.config.seed,
            "inputs": inputs,
            "versions": provenance.versions(),
        }
        return keys

    @contextmanager
    def _stage(
        self, name: str, unit: str, total: int | None
    ) -> Iterator[tuple[Callable[[int], None], dict[str, Any]]]:
        """Time a stage, and put its record into the manifest when it ends well."""
        began = time.monotonic()
        record: dict[str, Any] = {"models": {}}
        self.keys.begin(name)
        with self.terminal.stage(name, unit, total) as advance:
            yield advance, record
        record |= {"seconds": time.monotonic() - began, "finished": _now()}
        self.keys.finish(name, record, self.provenance)

    def _records(self, stage: str) -> int:
        """How many records a finished stage passed on."""
        return int(self.folder.require(stage)["out"])

    def _connect(self) -> None:
        if not self._connected:
            from selfilter_ray.distributed.runtime import connected

            self._resources.enter_context(connected(self.config.ray))
            self._connected = True


@contextmanager
def _following(metrics: Path, advance: Callable[[int], None]) -> Iterator[None]:
    """Report the steps that training logs while the block runs."""
    stop = threading.Event()

    def follow() -> None:
        shown = 0
        while not stop.wait(0.5):
            lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            advance(lines - shown)
            shown = lines

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
