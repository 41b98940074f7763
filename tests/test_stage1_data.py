"""Stage 1's padded batches, and what training remembers of each sample."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr
from two_ranks import merged_statistics, on_two_ranks

from selfilter_ray.config import LimitsConfig, ScratchVlm, TrainConfig
from selfilter_ray.features.shards import Features
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.stage1.data import Stage1Data
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.statistics import SampleStatistics, rank_correlation
from selfilter_ray.stage1.vlm import prepare_vlm


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Stage1Data:
    folder: Path = tmp_path_factory.mktemp("data")
    image = folder / "red.png"
    Image.new("RGB", (40, 30), "red").save(image)
    texts = {"a": "A.", "b": "A long answer to it.", "c": "Two pictures."}
    marks = {"a": 1, "b": 0, "c": 2}
    samples = [
        Sample(
            id,
            "",
            (Turn(USER, "<image>" * marks[id] + "What?"), Turn(ASSISTANT, text)),
            (str(image),) * marks[id],
            "",
            "",
        )
        for id, text in texts.items()
    ]
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "heads": 2}
    text = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "heads": 2}
    vlm = ScratchVlm.model_validate({"vision": sizes, "text": text})
    model = prepare_vlm(vlm, folder / "vlm", texts.values(), seed=0)
    features = Features(
        np.array(["a", "b", "c"], dtype=object),
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.full(3, np.nan, np.float32),
    )
    table = table_of(samples[::-1])  # not in the features' order
    config = TrainConfig(vlm=vlm, prompt="plain")
    return Stage1Data(table, features, model, config, LimitsConfig())


def test_rows_are_those_of_the_features_whatever_the_order_of_the_samples(data):
    assert len(data) == 3
    answers = [
        data.tokenizer.decode([label for label in data[row].labels if label != IGNORED])
        for row in range(3)
    ]
    assert answers == [" A.</s>", " A long answer to it.</s>", " Two pictures.</s>"]
    assert data[2].features_D.tolist() == [8, 9, 10, 11]
    assert [len(data[row].pictures) for row in range(3)] == [1, 0, 2]


def test_images_in_a_store_are_read_by_loader_workers_that_are_not_forked(data):
    """A process forked from one that talks to a store would hang: the data is sent instead."""
    assert not data.reads_from_a_store
    far = copy.copy(data)
    rows = data.samples.to_pylist()
    for row in rows:
        row["images"] = [Path(image).as_uri() for image in row["images"]]
    far.samples = pa.Table.from_pylist(rows, schema=data.samples.schema)
    assert far.reads_from_a_store
    sent = pickle.loads(pickle.dumps(far))
    for row in range(3):
        assert sent[row].input_ids == data[row].input_ids
        assert len(sent[row].pictures) == len(data[row].pictures)


def test_collate_pads_on_the_right_and_masks_the_padding(data):
    examples = [data[row] for row in (1, 0, 2)]
    batch = data.collate(examples)
    assert batch.rows.tolist() == [1, 0, 2]
    for place, example in enumerate(examples):
        length = len(example.input_ids)
        assert batch.input_ids_BT[place, :length].tolist() == example.input_ids
        assert batch.labels_BT[place, :length].tolist() == example.labels
        assert set(batch.input_ids_BT[place, length:].tolist()) <= {data.tokenizer.pad_token_id}
        assert set(batch.labels_BT[place, length:].tolist()) <= {IGNORED}
        assert batch.attention_mask_BT[place].sum() == length
        assert batch.attention_mask_BT[place, :length].all()
    assert batch.input_ids_BT.shape[1] == max(len(example.input_ids) for example in examples)
    assert batch.features_BD.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3], [8, 9, 10, 11]]
    pictures = [picture for example in examples for picture in example.pictures]
    expected = torch.cat([picture.tensors["pixel_values"] for picture in pictures])
    assert torch.equal(batch.pictures["pixel_values"], expected)


def test_a_batch_of_text_only_samples_has_a_blank_picture_that_nothing_sees(data):
    examples = [data[1], data[1]]
    plain, batch = data.padded(examples), data.collate(examples)
    length, image = plain.input_ids_BT.shape[1], data.family.image_id
    assert plain.pictures == {}
    assert len(batch.pictures["pixel_values"]) == 1
    assert batch.input_ids_BT[0, length:].tolist() == [image] * 4
    assert (batch.input_ids_BT == image).sum() == 4
    assert torch.equal(batch.input_ids_BT[:, :length], plain.input_ids_BT)
    assert torch.equal(batch.labels_BT[:, :length], plain.labels_BT)
    assert not batch.attention_mask_BT[:, length:].any()
    assert set(batch.labels_BT[:, length:].flatten().tolist()) == {IGNORED}


def test_statistics_of_two_ranks_keep_what_was_seen_last(tmp_path):
    for merged in on_two_ranks(merged_statistics, tmp_path):
        assert merged["seen_M"].tolist() == [7, 7, 0, -1]
        assert merged["loss_sum_M"].tolist() == [1.5, 2.5, 0.0, 0.0]
        assert merged["tokens_M"].tolist() == [3, 4, 0, 0]


def test_statistics_are_written_with_null_where_there_is_no_loss(tmp_path):
    statistics = SampleStatistics.empty(3)
    statistics.record(0, torch.tensor([2, 0]), torch.tensor([6.0, 0.0]), torch.tensor([4, 0]))
    statistics.record(1, torch.tensor([2]), torch.tensor([3.0]), torch.tensor([4]))
    statistics.write(tmp_path / "statistics.parquet", np.array(["a", "b", "c"], dtype=object))
    table = pq.read_table(tmp_path / "statistics.parquet")
    assert table.to_pydict() == {
        "id": ["a", "b", "c"],
        "answer_tokens": [0, 0, 4],
        "train_loss": [None, None, 0.75],
    }
    assert table.schema.field("train_loss").type == pa.float32()


NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.just(np.nan), st.floats(-1e6, 1e6))


@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_rank_correlation_is_scipy_s_with_ties_and_holes(pairs):
    first, second = np.array(pairs, dtype=float).reshape(-1, 2).T
    known = ~np.isnan(first) & ~np.isnan(second)
    rho = rank_correlation(first, second)
    constant = any(len(set(values[known])) < 2 for values in (first, second))
    if constant:
        assert rho is None
    else:
        assert rho == pytest.approx(spearmanr(first[known], second[known]).statistic, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ([1, 2, 3], [10, 100, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, 2], [np.nan, 1], None),
        ([], [], None),
    ],
)
def test_rank_correlation_of_plain_cases(first, second, rho):
    found = rank_correlation(np.array(first, dtype=float), np.array(second, dtype=float))
    assert found == (rho if rho is None else pytest.approx(rho))
