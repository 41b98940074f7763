"""Which rows every optimizer step sees. It depends on the config, never on the number of ranks.

A step is made of ``accumulation`` rounds, a round of ``workers`` chunks, a chunk of ``batch_size``
rows. Ranks work a round off in slots: in slot s, rank r of w takes chunk s * w + r. Where there are
more places than chunks, a rank repeats a chunk without effect, so that all ranks run alike.

Shapes: M rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from selfilter_ray.config import TrainConfig

# Rows are sorted by length within so many rounds of the epoch's permutation.
WINDOW_ROUNDS = 50


class Slot(NamedTuple):
    """What one rank does at once.

    Attributes:
        chunk: number of the chunk in the whole run; what is random in a forward pass hangs on it.
        rows: numbers of its samples.
        place: of the chunk in its round.
        chunks: in its round.
        repeats: whether another slot of the round stands for this chunk already.
    """

    chunk: int
    rows: list[int]
    place: int
    chunks: int
    repeats: bool


class Batches:
    """The rows of every chunk of a run.

    An epoch is a permutation of all rows, cut into rounds; chunk k of a round takes every
    ``workers``-th row from row k on. Each row comes once an epoch; only the epoch's last round may
    hold smaller chunks, or fewer. The last step is filled up from one epoch more.

    Args:
        rows: size of the pool.
        workers: chunks of one round.
        accumulation: rounds of one optimizer step.
        lengths_M: of the samples' texts. With them the rows of a round are of similar length.
        steps: optimizer steps of the run; None takes ``epochs``.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        workers: int,
        accumulation: int,
        epochs: int,
        seed: int,
        lengths_M: np.ndarray | None = None,
        steps: int | None = None,
    ) -> None:
        self.rows, self.workers, self.accumulation, self.seed = rows, workers, accumulation, seed
        self.round_rows = batch_size * workers
        self.rounds_per_epoch = -(-rows // self.round_rows)
        self.steps = steps or -(-self.rounds_per_epoch * epochs // accumulation)
        self.lengths_M = lengths_M
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def round(self, number: int) -> list[list[int]]:
        """The chunks of a round, each with one row or more."""
        epoch, place = divmod(number, self.rounds_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._epoch(epoch))
        rows = self._order[1][place * self.round_rows : (place + 1) * self.round_rows]
        chunks = min(self.workers, len(rows))
        return [[int(row) for row in rows[chunk :: self.workers]] for chunk in range(chunks)]

    def step(self, number: int) -> list[list[list[int]]]:
        """The rounds of an optimizer step, the first being 0."""
        first = number * self.accumulation
        return [self.round(first + place) for place in range(self.accumulation)]

    def slots(self, number: int, rank: int, ranks: int) -> list[Slot]:
        """What a rank does in a round: equally many slots on every rank and in every round."""
        chunks = self.round(number)
        slots = []
        for place in range(rank, slots_a_round(self.workers, ranks) * ranks, ranks):
            repeats = place >= len(chunks)
            source = place % len(chunks)
            chunk = number * self.workers + source
            slots.append(Slot(chunk, chunks[source], source, len(chunks), repeats))
        return slots

    def epochs_after(self, steps: int) -> float:
        """How many epochs are finished after so many optimizer steps."""
        return steps * self.accumulation / self.rounds_per_epoch

    def samples_after(self, steps: int) -> int:
        """How many samples were seen after so many optimizer steps, repetitions included."""
        epochs, rounds = divmod(steps * self.accumulation, self.rounds_per_epoch)
        return epochs * self.rows + rounds * self.round_rows

    def _epoch(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch])
        order_M = random.permutation(self.rows)
        if self.lengths_M is None:
            return order_M
        return _grouped(order_M, self.lengths_M, self.round_rows, random)


def batches_of(
    train: TrainConfig, rows: int, seed: int, lengths_M: np.ndarray | None = None
) -> Batches:
    """The batches that a config asks for; ``lengths_M`` is used with ``group_by_length`` only."""
    return Batches(
        rows,
        train.batch_size,
        train.workers,
        train.gradient_accumulation,
        train.epochs,
        seed,
        lengths_M if train.group_by_length else None,
        train.steps,
    )


def text_lengths(samples: pa.Table) -> np.ndarray:
    """(M,) characters of each sample's turns together."""
    turns = (sample for batch in samples["turns"].chunks for sample in batch.to_pylist())
    return np.array([sum(len(turn["text"]) for turn in sample) for sample in turns], dtype=np.int64)


def chunk_seed(seed: int, chunk: int) -> int:
    """For what is random in a chunk's forward pass, such as dropout."""
    return int(np.random.SeedSequence([seed, chunk]).generate_state(1, np.uint64)[0] >> 1)


def slots_a_round(workers: int, ranks: int) -> int:
    """How often each rank has to run for one round."""
    return -(-workers // ranks)


def _grouped(
    order_M: np.ndarray, lengths_M: np.ndarray, round_rows: int, random: np.random.Generator
) -> np.ndarray:
    """A permutation with rounds of similar lengths: sorted within windows, rounds then shuffled.

    The round that is not full stays the last one.
    """
    window = WINDOW_ROUNDS * round_rows
    windows = [order_M[start : start + window] for start in range(0, len(order_M), window)]
    sorted_M = np.concatenate([w[np.argsort(lengths_M[w], kind="stable")[::-1]] for w in windows])
    full = len(sorted_M) // round_rows
    rounds = sorted_M[: full * round_rows].reshape(full, round_rows)
    return np.concatenate([random.permutation(rounds).ravel(), sorted_M[full * round_rows :]])
