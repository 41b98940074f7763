"""The main flow: read, featurize, (rate,) train, score, select, report.

Each stage reads what the ones before it left in the run's folder, and is skipped when it is
finished with the same inputs and settings. Everything that imports Ray or torch is imported by the
stage that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfilter_ray import atomic, provenance
from selfilter_ray.config import Config, load_config
from selfilter_ray.errors import DataError
from selfilter_ray.run_folder import STAGES, RunFolder
from selfilter_ray.select.settings import MethodSettings, SelfilterSettings
from selfilter_ray.stages import StageKeys
from selfilter_ray.telemetry.run import new_run_id, running
from selfilter_ray.telemetry.stage import pool_counts, watched_stage
from selfilter_ray.terminal import Terminal
from selfilter_ray.wanted import costs_of, methods_of, wanted_by

if TYPE_CHECKING:
    from selfilter_ray.compare.entries import Entry
    from selfilter_ray.compare.trained.result import TrainedComparison
    from selfilter_ray.select.contract import Pool, Selection
    from selfilter_ray.tuning import Ids, On


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
    """One run in its folder.

    Args:
        redo: allow that finished features or training of other settings are thrown away.
        comparing: make what the methods of ``compare`` need, too.
        training: models will be tuned on what they chose, under the budgets of ``compare.train``.
    """

    def __init__(
        self,
        config: Config,
        terminal: Terminal,
        redo: bool = False,
        comparing: bool = False,
        training: bool = False,
    ) -> None:
        self.config = config
        self.training = training
        self.comparing = comparing
        self.methods = methods_of(config, comparing)
        self.folder = RunFolder(config.run_dir)
        self.terminal = terminal
        self.redo = redo
        self._resources = ExitStack()
        self._connected = False

    def run(self, stages: Sequence[str] = STAGES) -> dict[str, Any]:
        """The stages that are not finished yet."""
        if self.training:
            from selfilter_ray.compare.trained.loop import check_inputs

            check_inputs(self.config)
        with self.folder.locked(), self._resources:
            self.keys = self._begin(stages)
            todo = [stage for stage in self.keys.asked(stages) if not self.keys.is_finished(stage)]
            if not todo and not self.comparing:
                self.terminal.say(f"{self.folder}: nothing left to do, every stage is finished.")
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
                pool = read_pool(
                    self.config.data, self.folder.image_store, self.config.seed, advance
                )
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

    def rate(self) -> None:
        """Ratings by ImageReward and LLM judges to ``ratings.parquet``."""
        import pyarrow as pa

        from selfilter_ray.features.shards import usable_ids
        from selfilter_ray.rating import rate_pool

        rows = self._records("featurize")
        total = rows * len(self.config.ratings.columns)
        with self._stage("rate", "ratings", total) as (advance, record):
            ids = pa.array(usable_ids(self.folder.features), pa.string())
            table, counts = rate_pool(
                self.config,
                self.folder,
                ids,
                self.keys["featurize"],
                self._connect,
                self.terminal,
                advance,
            )
            atomic.write_table(self.folder.ratings, table)
            record |= {"rows": rows, **counts}

    def train(self) -> None:
        """Stage 1: ``samples/`` and ``features/`` to ``stage1/``, on Ray Train and DeepSpeed."""
        from selfilter_ray.stage1.batches import batches_of
        from selfilter_ray.stage1_run import run_stage1, trained_part
        from selfilter_ray.training import drop_checkpoints

        usable = self._records("featurize")
        self.config.select.count(usable)  # a budget that cannot be met is better known before
        self.seed_budget(usable)
        part = trained_part(self.config, self.folder)
        rows = usable if part is None else len(part)
        batches = batches_of(self.config.train, rows, self.config.seed)
        with self._stage("train", "steps", batches.steps) as (advance, record):
            record |= {"rows": batches.samples_after(batches.steps), "trained_on": rows}
            record |= run_stage1(self.config, self.folder, self.keys, part, self._connect, advance)
        drop_checkpoints(self.folder.stage1)

    def score(self) -> None:
        """All that the methods want to know of each sample, to ``scores.parquet``."""
        from selfilter_ray.known import KnownSamples

        rows = self._records("featurize")
        with self._stage("score", "rows", None) as (advance, record):
            known = KnownSamples(
                self.config, self.folder, self.keys, self._connect, self.terminal.say, advance
            )
            table = known.table(self.keys.wanted, self.seed_budget(rows))
            atomic.write_table(self.folder.scores, table)
            record |= {"rows": rows, "columns": known.whole(table), "parts": known.seconds}
            record["seed_set"] = self.keys.wanted.seed_set

    def select(self) -> None:
        """Stage 2, or another method: what is known of the pool to the chosen records."""
        from selfilter_ray.run_pool import load_pool
        from selfilter_ray.select.registry import select
        from selfilter_ray.selected import selection_table, write_selected

        settings = self.config.select
        budget = settings.count(self._records("featurize"))
        with self._stage("select", "picks", budget) as (advance, record):
            if isinstance(settings, SelfilterSettings) and settings.shards > 1:
                pool = load_pool(self.folder, [])
                selection = self._select_sharded(pool, settings, budget, advance)
            else:
                pool = load_pool(self.folder, [settings])
                selection = select(pool, budget, self.config.seed, settings, advance)
            table = selection_table(pool.ids, selection)
            atomic.write_table(self.folder.selection, table)
            write_selected(self.folder, table["id"].to_pylist())
            record |= {"rows": table.num_rows, "method": settings.method}
            record["details"] = dict(selection.details)

    def _select_sharded(
        self,
        pool: Pool,
        settings: SelfilterSettings,
        budget: int | None,
        advance: Callable[[int], None],
    ) -> Selection:
        """Self-Filter's Stage 2 with the features in Ray actors."""
        self._connect()
        from selfilter_ray.distributed.neighbours import select_sharded
        from selfilter_ray.features.shards import shard_files

        files = shard_files(self.folder.features)
        return select_sharded(files, pool, int(budget or 0), settings, advance)

    def compare(self) -> Path:
        """Several methods and seeds on this pool, to ``comparison.json`` and ``compare.html``."""
        from selfilter_ray.compare.comparison import compare
        from selfilter_ray.compare.entries import entries_of, with_reference
        from selfilter_ray.compare.files import write_comparison
        from selfilter_ray.compare.terminal_table import print_comparison
        from selfilter_ray.compare.trained.files import TrainedFolder
        from selfilter_ray.compare.trained.terminal_table import print_trained
        from selfilter_ray.report.compare_page import write_compare_page
        from selfilter_ray.run_pool import load_pool

        settings = self.config.compare
        rows = self._records("featurize")
        with self.folder.locked():
            pool = load_pool(self.folder, (), features=True)
            entries, _ = with_reference(entries_of(settings.methods, pool))
            runs = len(settings.seeds) * len(entries)
            with self.terminal.stage("compare", "runs", runs) as advance:
                costs = costs_of(entries, self.folder)
                comparison = compare(
                    pool, entries, settings.seeds, self.budget(rows), costs, progress=advance
                )
                write_comparison(self.folder.path, comparison)
            before = TrainedFolder(self.folder.path).of_pool(self.keys["read"])
            page = write_compare_page(self.folder, comparison, self.config.report, before)
        print_comparison(self.terminal.output, comparison)
        if self.training:
            trained = self._train_compared(pool, entries, costs)
            with self.folder.locked():
                write_compare_page(self.folder, comparison, self.config.report, trained)
            print_trained(self.terminal.output, trained)
        return page

    def _train_compared(
        self, pool: Pool, entries: Sequence[Entry], costs: Mapping[str, Mapping[str, float]]
    ) -> TrainedComparison:
        """Models tuned on what each method chose, to ``compare_train/``."""
        from selfilter_ray.compare.trained.loop import TrainedLoop

        def run(*work: Any) -> dict[str, str]:
            self._connect()
            from selfilter_ray.distributed.tuners import tune_on_actors, tune_on_train

            if self.config.compare.train.runner == "actors":
                return tune_on_actors(self.config, *work)
            return tune_on_train(self.config, self.folder, self._connect, *work)

        with self.folder.locked(), self._resources:
            self.keys = self._begin(())
            told: list[Callable[[int], None]] = []
            loop = TrainedLoop(
                self.config,
                self.folder,
                pool,
                entries,
                self.keys["read"],
                run,
                lambda cells: told[0](cells),
            )
            total = loop.count()
            with (
                self.terminal.stage("compare", "models", total) as advance,
                watched_stage("compare", "models", total, advance) as progress,
            ):
                told.append(progress)
                return loop.compare(costs)

    def tune(self, on: On = "selection", ids: Ids | None = None) -> dict[str, Any]:
        """Plain tuning on records of this run, to ``tuned/``; see ``tuning.tune``."""
        from selfilter_ray.tuning import tune_in, tuning_set

        with self.folder.locked(), self._resources:
            self.keys = self._begin(())
            chosen = tuning_set(self, on, ids)
            return tune_in(
                self.folder,
                self.config,
                self.keys,
                chosen,
                self.redo,
                self._connect,
                self.terminal,
            )

    def report(self) -> None:
        """Everything above to ``report.html``."""
        from selfilter_ray.report import write_report

        with self._stage("report", "rows", None) as (_, record):
            write_report(self.folder, self.config.report)
            record["rows"] = self.folder.require("select")["rows"]

    def _begin(self, stages: Sequence[str]) -> StageKeys:
        """Describe the inputs, and refuse to throw work away unasked."""
        from selfilter_ray.samples.inputs import input_files

        manifest = self.folder.manifest()
        inputs = provenance.describe_inputs(
            input_files(self.config.data), manifest.get("inputs", ())
        )
        wanted = wanted_by(self.methods, self.config, self.comparing, self.training)
        keys = StageKeys(self.config, inputs, self.folder, wanted)
        keys.refuse_loss(keys.asked(stages), self.redo)
        run_id = manifest.get("run_id") or new_run_id()
        if "run_id" not in manifest:
            self.folder.save_manifest(manifest | {"run_id": run_id})
        self._resources.enter_context(running(run_id, self.folder.path.name))
        self.provenance = {
            "created": manifest.get("created", _now()),
            "name": self.folder.path.name,
            "run_id": run_id,
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
        with (
            self.terminal.stage(name, unit, total) as advance,
            watched_stage(name, unit, total, advance) as told,
        ):
            yield told, record
        record |= {"seconds": time.monotonic() - began, "finished": _now()}
        self.keys.finish(name, record, self.provenance)
        pool_counts(self.folder.manifest().get("counts", {}))

    def _records(self, stage: str) -> int:
        """How many records a finished stage passed on."""
        return int(self.folder.require(stage)["out"])

    def budget(self, rows: int) -> int:
        """How many records the methods of this run keep."""
        own = self.config.select.count(rows)
        otherwise = own if own is not None else MethodSettings().count(rows)
        if not self.comparing:
            return int(otherwise or 0)
        return self.config.compare.count(rows, int(otherwise or 0))

    def seed_budget(self, rows: int) -> int:
        """What MLLM-Selector's seed set may fill by half: of several budgets the smallest."""
        own = self.budget(rows)
        if not self.training:
            return own
        return min(own, *self.config.compare.train.counts(rows))

    def _connect(self) -> None:
        if not self._connected:
            from selfilter_ray.distributed.runtime import connected

            self._resources.enter_context(connected(self.config.ray))
            from selfilter_ray.distributed.metrics import exported_by_ray

            self._resources.enter_context(exported_by_ray())
            self._connected = True
            self._resources.callback(self._disconnected)

    def _disconnected(self) -> None:
        self._connected = False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
