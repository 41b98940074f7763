"""The closed loop over one run: select, tune, evaluate, compare.

Whoever calls it says how cells are worked off (``Runner``); here is what they are, what is left of
them, and what their results amount to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfilter_ray import atomic, provenance
from selfilter_ray.compare.entries import Entry, with_reference
from selfilter_ray.compare.gathering import gather
from selfilter_ray.compare.trained.blind import without_pictures
from selfilter_ray.compare.trained.cells import YARDSTICKS, Cell, Choice, cells_of, outstanding
from selfilter_ray.compare.trained.files import TrainedFolder
from selfilter_ray.compare.trained.result import (
    Missing,
    TrainedComparison,
    measure_of,
    outcomes_of,
    picks_table,
    ranked,
)
from selfilter_ray.compare.trained.settings import counts_of
from selfilter_ray.compare.trained.tuner import Places, tuning_config
from selfilter_ray.config import Config, DataConfig
from selfilter_ray.errors import ConfigError, DataError, StorageError
from selfilter_ray.known_truth.truth import TRUTH, detection
from selfilter_ray.run_folder import RunFolder, stage_key
from selfilter_ray.samples.files import SCHEMA, iterate_samples, read_samples, write_samples
from selfilter_ray.samples.identity import content_hash
from selfilter_ray.samples.inputs import input_files
from selfilter_ray.samples.pool import read_pool
from selfilter_ray.samples.quarantine import write_quarantine
from selfilter_ray.select.contract import Pool
from selfilter_ray.stage1.batches import batches_of
from selfilter_ray.stage1.prepare import prepare_model
from selfilter_ray.storage.naming import IMAGES
from selfilter_ray.storage.objects import read_bytes
from selfilter_ray.storage.places import below, shown
from selfilter_ray.storage.shared import publish

VERSION = 1  # of how a cell's result comes about
MOST_TRUTH = 2**31  # bytes
PUSHED_EVERY = 60.0  # seconds


# Works cells off, in any order. Takes the cells; seed to fresh model; number of records to steps,
# None leaving them to ``tune``; the places; and what is called with each result. Returns the
# messages of cells that failed, by key.
Keep = Callable[[Cell, dict[str, Any]], None]
Runner = Callable[
    [Sequence[Cell], Mapping[int, str], Mapping[int, int | None], Places, Keep], dict[str, str]
]


@dataclass
class _Grid:
    """What is known so far."""

    choices: list[Choice] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class TrainedLoop:
    """One comparison by tuning.

    Args:
        config: of the run.
        folder: of the run; its pool is read and scored.
        pool: with features and all that the methods need.
        entries: the methods; random is added when it is not among them.
        read: key of the stage that read the pool.
        run: works cells off.
        progress: told the number of cells that were added, and of those that are done.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        pool: Pool,
        entries: Sequence[Entry],
        read: str,
        run: Runner,
        progress: Callable[[int], None] = lambda cells: None,
    ) -> None:
        self.config, self.pool, self.run, self.progress = config, pool, run, progress
        self.settings = config.compare.train
        self.folder, self.files = folder, TrainedFolder(folder.path)
        self.entries, self.reference = with_reference(entries)
        taken = sorted({entry.label for entry in self.entries} & set(YARDSTICKS.values()))
        if taken:
            raise ConfigError(
                f"compare.methods: {taken[0]!r} means something else here: rename it."
            )
        self.read = read
        self.budgets = counts_of(self.settings.budgets, len(pool.ids))
        leaders = self.settings.leaders
        further = [] if leaders is None else counts_of(leaders.budgets, len(pool.ids))
        self.further = [count for count in further if count not in self.budgets]

    def compare(self, costs: Mapping[str, Mapping[str, float]]) -> TrainedComparison:
        """All of it; what is there from before is not made again.

        Args:
            costs: label to what the method needs before it can select: pass to seconds.

        Raises:
            ConfigError: without held-out records, or when these are also in the pool.
            DataError: when no cell has a result.
        """
        self.truth = self._known_truth()
        self.files.make()
        context = self._read_held_out()
        self.places = self._places()
        self.models = {seed: self._fresh_model(seed) for seed in self.config.compare.seeds}
        hashes = {model: provenance.hash_model(model) for model in set(self.models.values())}
        self.contexts = {
            seed: stage_key(context, hashes[model]) for seed, model in self.models.items()
        }
        grid = _Grid()
        self._extend(grid, self.entries, self.budgets)
        comparison = self._result(grid, self.budgets, costs)
        if self.settings.leaders is not None:
            self._extend(grid, self._leaders(comparison), self.further)
            comparison = self._result(grid, sorted([*self.budgets, *self.further]), costs)
        atomic.write_table(self.files.picks, picks_table(grid.choices, self.pool.ids))
        self.files.write(comparison)
        return comparison

    def count(self) -> int:
        """How many results it takes at most, the leaders' among them."""
        settings, seeds = self.settings, len(self.config.compare.seeds)
        cells = len(self.entries) * len(self.budgets) + 2 + settings.blind
        if settings.leaders is not None:
            cells += len(self.further) * min(settings.leaders.methods + 1, len(self.entries))
        return cells * seeds

    def _extend(self, grid: _Grid, entries: Sequence[Entry], budgets: Sequence[int]) -> None:
        """Choose, and work off what has no result."""
        for budget in budgets:
            for entry in entries:
                grid.choices += self._choices(entry, budget)
        before, blind = len(grid.cells), self.settings.blind
        grid.cells = cells_of(grid.choices, self.pool.ids, self.contexts, blind)
        grid.results |= self.files.results(cell.key for cell in grid.cells)
        todo = [
            cell for cell in outstanding(grid.cells, grid.results) if cell.key not in grid.failed
        ]
        self.progress(len(grid.cells) - before - len(todo))
        if not todo:
            return

        pushed = time.monotonic()

        def keep(cell: Cell, result: dict[str, Any]) -> None:
            nonlocal pushed
            self.files.keep(cell.key, result)
            grid.results[cell.key] = result
            if time.monotonic() - pushed > PUSHED_EVERY:
                publish(self.files.cells)
                pushed = time.monotonic()
            self.progress(1)

        try:
            grid.failed |= self.run(todo, self.models, self._steps(grid.cells), self.places, keep)
        except KeyboardInterrupt:
            publish(self.files.cells)
            raise

    def _choices(self, entry: Entry, budget: int) -> list[Choice]:
        seeds = self.config.compare.seeds
        found = gather(entry, seeds, self.pool, budget)
        nothing = np.empty(0, np.int64)
        chosen = [
            Choice(entry.label, budget, seed, rows, found.seconds[seed])
            for seed, rows in found.chosen.items()
        ]
        failed = [
            Choice(entry.label, budget, seed, nothing, 0.0, message)
            for message, seeds in found.failures.items()
            for seed in seeds
        ]
        return [*chosen, *failed]

    def _leaders(self, comparison: TrainedComparison) -> list[Entry]:
        """The best at the largest budget so far, and random."""
        assert self.settings.leaders is not None
        uniform = self.reference.label
        standing = [outcome.label for outcome in ranked(comparison, self.budgets[-1])]
        best = [label for label in standing if label != uniform][: self.settings.leaders.methods]
        return [entry for entry in self.entries if entry.label in (uniform, *best)]

    def _steps(self, cells: Iterable[Cell]) -> dict[int, int | None]:
        """Steps of a tuning by the number of records; None leaves them to ``tune``."""
        asked = self.settings.steps
        if asked is None:
            asked = self._whole_steps()
        return {cell.budget: None if asked == "own" else asked for cell in cells}

    def _whole_steps(self) -> int:
        """Of ``tune`` over the whole pool."""
        return batches_of(self.config.tuning(), len(self.pool.ids), 0).steps

    def _read_held_out(self) -> str:
        """Held-out records to ``held_out/``; the key of all that results depend on."""
        settings = self.settings
        held_out = held_out_of(self.config)
        described = provenance.describe_inputs(input_files(held_out), ())
        train = self.config.tuning().result_fields()
        key = stage_key(
            VERSION,
            self.read,
            train,
            self._whole_steps() if settings.steps is None else settings.steps,
            self.config.data.limits.result_fields(),
            settings.evaluate.result_fields(),
            [item["sha256"] for item in described],
            settings.image_root,
        )
        read = read_pool(held_out, self._image_store())
        pool = read_samples(self.folder.samples, SCHEMA.names)
        _refuse_the_same(read.table, pool)
        write_samples(self.files.held_out, read.table)
        write_quarantine(self.files.quarantine, read.quarantined)
        if settings.blind:
            write_samples(self.files.blind_held_out, without_pictures(read.table))
            write_samples(self.files.blind_samples, without_pictures(pool))
        self.held_out, self.left_out = read.table.num_rows, len(read.quarantined)
        return key

    def _image_store(self) -> str:
        """Where pictures that come as bytes are kept: every host must reach it."""
        if self.folder.uri is not None:
            return below(self.folder.uri, f"{self.files.path.name}/{IMAGES}")
        return str(self.files.path / IMAGES)

    def _places(self) -> Places:
        files, blind = self.files, self.settings.blind
        return Places(
            samples=self.folder.samples,
            held_out=files.held_out,
            blind_samples=files.blind_samples if blind else self.folder.samples,
            blind_held_out=files.blind_held_out if blind else files.held_out,
        )

    def _fresh_model(self, seed: int) -> str:
        """What tuning starts from: one that has to be built is another for each seed."""
        plain = tuning_config(self.config, seed, None)
        named = stage_key(self.read, plain.train.vlm.model_dump(mode="json"), seed)
        return prepare_model(plain, self.folder.samples, self.files.fresh / named)

    def _result(
        self, grid: _Grid, budgets: Sequence[int], costs: Mapping[str, Mapping[str, float]]
    ) -> TrainedComparison:
        if not grid.results:
            first = next(iter(grid.failed.values()), "no cell was worked off")
            raise DataError(f"no model could be tuned and evaluated. First: {first}")
        measure = measure_of(list(grid.results.values()))
        found, planted = self._detected(grid.choices)
        steps = self._steps(grid.cells)
        tuning = self.config.tuning()
        return TrainedComparison(
            rows=len(self.pool.ids),
            held_out=self.held_out,
            seeds=list(self.config.compare.seeds),
            budgets=list(budgets),
            steps={
                budget: asked if asked is not None else batches_of(tuning, budget, 0).steps
                for budget, asked in steps.items()
                if budget
            },
            measure=measure,
            reference=self.reference.label,
            labels=[entry.label for entry in self.entries],
            outcomes=outcomes_of(
                grid.cells, grid.results, grid.choices, found, measure, self.reference.label
            ),
            missing=_missing(grid),
            planted_in_pool=planted,
            cost={label: dict(cost) for label, cost in costs.items()},
            facts={
                "versions": provenance.versions(),
                "pool": self.read,
                "held_out_left_out": self.left_out,
            },
        )

    def _detected(
        self, choices: Sequence[Choice]
    ) -> tuple[dict[tuple[str, int, int], dict[str, float | None]], float | None]:
        """What each choice has caught of what was planted, and the planted share of the pool."""
        truth = self.truth
        if truth is None:
            return {}, None
        found, share = {}, None
        for choice in choices:
            if choice.message is None:
                caught = detection(truth, self.pool.ids[choice.rows].tolist())
                place = (choice.label, choice.budget, choice.seed)
                found[place] = {"picked_share": caught.picked_share, "precision": caught.precision}
                share = caught.pool_share
        return found, share

    def _known_truth(self) -> pa.Table | None:
        """What is planted, of every record of the pool.

        Raises:
            ConfigError: when the file is no such table, or lacks some of them.
        """
        place = self.settings.truth
        if place is None:
            return None
        truth = read_truth(place)
        lacking = set(self.pool.ids.tolist()) - set(truth["id"].to_pylist())
        if lacking:
            raise ConfigError(
                f"compare.train.truth lacks {len(lacking)} records of the pool, "
                f"{min(lacking)!r} first: give that of this pool."
            )
        return truth


def check_inputs(config: Config) -> None:
    """What can be known before anything runs for hours.

    Raises:
        ConfigError: without held-out records, or when the truth cannot be read.
        DataError: when the held-out files are not there.
    """
    input_files(held_out_of(config))
    if config.compare.train.truth is not None:
        read_truth(config.compare.train.truth)


def held_out_of(config: Config) -> DataConfig:
    """The held-out records as data: with the settings of the pool's.

    Raises:
        ConfigError: when none are configured.
    """
    settings = config.compare.train
    if not settings.held_out:
        raise ConfigError(
            "compare --train evaluates models on records that no method may choose: give their "
            "files as compare.train.held_out."
        )
    own = {"inputs": list(settings.held_out), "image_root": settings.image_root, "limit": None}
    return config.data.model_copy(update=own)


def read_truth(place: str) -> pa.Table:
    """A table of ``known_truth.truth.TRUTH``.

    Raises:
        ConfigError: when there is none.
    """
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(place, MOST_TRUTH)))
        return table.select(TRUTH.names).cast(TRUTH)
    except (StorageError, OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"compare.train.truth {shown(place)} cannot be used: {error}") from None


def _refuse_the_same(held_out: pa.Table, pool: pa.Table) -> None:
    """Raises ConfigError when a record is in both, under whatever id."""
    said = {content for _, content in _contents(pool)}
    both = [id for id, content in _contents(held_out) if content in said]
    if both:
        raise ConfigError(
            f"compare.train.held_out has {len(both)} records of the pool, {both[0]!r} first: a "
            "model must not be evaluated on what it may have been tuned on."
        )


def _contents(samples: pa.Table) -> Iterator[tuple[str, str]]:
    """Id, and a hash of conversation and pictures' names."""
    for sample in iterate_samples(samples.select(["id", "turns", "images"])):
        yield sample.id, content_hash(sample.turns, sample.images)


def _missing(grid: _Grid) -> list[Missing]:
    """Choices that failed, and cells that did."""
    unmade = [
        Missing(label=c.label, budget=c.budget, seed=c.seed, message=c.message)
        for c in grid.choices
        if c.message is not None
    ]
    untuned = [
        Missing(label=cell.label, budget=cell.budget, seed=cell.seed, message=message)
        for cell in grid.cells
        if (message := grid.failed.get(cell.key)) is not None
    ]
    return [*unmade, *untuned]
