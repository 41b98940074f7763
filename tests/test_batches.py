"""Which rows each step of Stage 1 sees, and who works them off."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.config import TrainConfig
from selfilter_ray.stage1.batches import Batches, batches_of, text_lengths

SIZES = {
    "rows": st.integers(1, 40),
    "batch_size": st.integers(1, 6),
    "workers": st.integers(1, 5),
    "seed": st.integers(0, 5),
    "grouped": st.booleans(),
}
RANKS = st.integers(1, 5)


def batches(rows, batch_size, workers, seed=0, grouped=False, epochs=1, accumulation=1):
    lengths_M = np.random.default_rng(rows).integers(0, 50, rows) if grouped else None
    return Batches(rows, batch_size, workers, accumulation, epochs, seed, lengths_M)


@given(**SIZES, epochs=st.integers(1, 3))
@settings(deadline=None)
def test_every_epoch_sees_every_row_once(rows, batch_size, workers, seed, grouped, epochs):
    plan = batches(rows, batch_size, workers, seed, grouped, epochs)
    for epoch in range(epochs):
        rounds = range(epoch * plan.rounds_per_epoch, (epoch + 1) * plan.rounds_per_epoch)
        seen = [row for number in rounds for chunk in plan.round(number) for row in chunk]
        assert sorted(seen) == list(range(rows))


@given(**SIZES)
@settings(deadline=None)
def test_no_chunk_is_empty_or_too_large_and_a_round_s_chunks_are_alike(
    rows, batch_size, workers, seed, grouped
):
    plan = batches(rows, batch_size, workers, seed, grouped)
    for number in range(plan.rounds_per_epoch):
        sizes = [len(chunk) for chunk in plan.round(number)]
        assert 1 <= len(sizes) <= workers
        assert 1 <= min(sizes) <= max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        assert number == plan.rounds_per_epoch - 1 or sizes == [batch_size] * workers


@given(**SIZES, ranks=RANKS)
@settings(deadline=None)
def test_ranks_of_any_number_work_off_the_same_chunks(
    rows, batch_size, workers, seed, grouped, ranks
):
    plan = batches(rows, batch_size, workers, seed, grouped)
    for number in range(plan.rounds_per_epoch):
        slots = [plan.slots(number, rank, ranks) for rank in range(ranks)]
        assert {len(of_rank) for of_rank in slots} == {-(-workers // ranks)}
        real = [slot for of_rank in slots for slot in of_rank if not slot.repeats]
        real.sort(key=lambda slot: slot.place)
        assert [slot.rows for slot in real] == plan.round(number)
        assert [slot.chunk for slot in real] == [number * workers + n for n in range(len(real))]
        for slot in (slot for of_rank in slots for slot in of_rank):
            assert slot.chunks == len(real)
            assert slot.rows == real[slot.place].rows
            assert slot.chunk == real[slot.place].chunk


def test_a_whole_round_gives_each_of_as_many_ranks_one_chunk():
    plan = batches(rows=12, batch_size=2, workers=3)
    order = [row for number in range(2) for row in rows_of(plan, number)]
    assert sorted(order) == list(range(12))
    for rank in range(3):
        (slot,) = plan.slots(1, rank, 3)
        assert slot == (3 + rank, plan.round(1)[rank], rank, 3, False)


def test_steps_are_rounded_up_and_filled_from_one_more_epoch():
    for accumulation, steps in [(1, 6), (4, 2), (7, 1)]:
        plan = Batches(10, 4, 1, accumulation, epochs=2, seed=0)
        assert (plan.rounds_per_epoch, plan.steps) == (3, steps)
        assert all(chunk for step in range(steps) for r in plan.step(step) for chunk in r)
    assert Batches(10, 4, 1, 3, epochs=2, seed=0).epochs_after(2) == 2.0


def test_order_depends_on_seed_and_epoch_and_nothing_else():
    def order(seed, workers=1, batch_size=6):
        plan = batches(30, batch_size, workers, seed, epochs=2)
        return [sorted(rows_of(plan, number)) for number in range(10)]

    assert order(0) == order(0) == order(0, workers=3, batch_size=2)
    assert order(0) != order(1)
    assert order(0)[:5] != order(0)[5:]


def test_rounds_of_a_grouped_epoch_hold_rows_of_similar_length_in_any_order():
    lengths_M = np.random.default_rng(1).permutation(96)
    plan = Batches(96, 4, 2, 1, epochs=1, seed=3, lengths_M=lengths_M)
    spans = [np.ptp(lengths_M[rows_of(plan, number)]) for number in range(12)]
    assert spans == [7] * 12
    longest = [max(lengths_M[rows_of(plan, number)]) for number in range(12)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_lengths_are_used_only_when_the_config_groups_by_length():
    lengths_M = np.arange(40)
    plain, same, grouped = (
        batches_of(TrainConfig(batch_size=4, group_by_length=group), 40, 0, lengths)
        for group, lengths in [(False, None), (False, lengths_M), (True, lengths_M)]
    )
    assert plain.step(3) == same.step(3) != grouped.step(3)


def test_a_sample_s_length_is_that_of_all_its_turns():
    turns = [[{"role": "user", "text": "ab"}, {"role": "assistant", "text": "cde"}], []]
    assert text_lengths(pa.table({"turns": turns})).tolist() == [5, 0]


def rows_of(plan, number):
    return [row for chunk in plan.round(number) for row in chunk]
