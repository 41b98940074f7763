"""The scoring pass over a shard: what a sample is measured with, and what ends up in its row."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from largest_tensor import LargestTensor
from measured_pool import LIMITS, VOCABULARY, make_config, make_pool
from transformers import LlavaForConditionalGeneration

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.shards import Features, Shard, ShardRecord, finish_shard
from selfilter_ray.measure.measurer import COLUMNS, Measurer
from selfilter_ray.measure.prompts import supervised
from selfilter_ray.measure.settings import MeasureConfig
from selfilter_ray.measure.table import SCHEMA, STATISTICS, load_measured
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.stage1.data import Stage1Data
from selfilter_ray.stage1.loss import sample_losses
from selfilter_ray.stage1.model import Stage1Model
from selfilter_ray.stage1.score_net import ScoreNet

PICTURED, TEXT_ONLY = ("a", "c", "d", "e", "f", "h"), ("b", "g")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_pool(tmp_path_factory.mktemp("pool"))
    torch.set_num_threads(threads)


def measurer(pool, model=None, base=None, train=(), **settings):
    config = make_config(**dict(train))
    return Measurer(model or pool.model, config.train, LIMITS, MeasureConfig(**settings), base=base)


@pytest.fixture(scope="module")
def measured(pool):
    """The rows of all samples by id."""
    return by_id(measurer(pool, batch_size=3)(pool.table()))


def by_id(table):
    return {row["id"]: row for row in table.to_pylist()}


def close(row, other, names=STATISTICS):
    assert row["answer_tokens"] == other["answer_tokens"]
    for name in names:
        assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


@torch.no_grad()
def training_losses(pool, samples, **train):
    """S_i and n_i as Stage 1 has them."""
    config = make_config(**train)
    ids = np.array([sample.id for sample in samples], object)
    features = Features(ids, np.zeros((len(ids), 2), np.float32), np.zeros(len(ids)))
    data = Stage1Data(table_of(samples), features, pool.model, config.train, LIMITS)
    vlm = LlavaForConditionalGeneration.from_pretrained(pool.model)
    model = Stage1Model(vlm, ScoreNet(2, "zeros"), config.train)
    losses = model(data.collate([data[row] for row in range(len(data))]))
    return losses.loss_sum_B.tolist(), losses.tokens_B.tolist()


@pytest.mark.parametrize("prompt", ["plain", "vicuna_v1", "chatml"])
def test_what_is_measured_is_what_training_supervises(prompt, pool):
    rows = by_id(measurer(pool, train={"prompt": prompt})(pool.table()))
    sums, counts = training_losses(pool, pool.samples, prompt=prompt)
    for sample, loss_sum, tokens in zip(pool.samples, sums, counts, strict=True):
        row = rows[sample.id]
        assert row["answer_tokens"] == tokens
        assert row["loss_sum"] == pytest.approx(loss_sum, rel=1e-4)
        assert row["loss"] == pytest.approx(loss_sum / tokens, rel=1e-4)


def test_a_table_has_a_row_for_each_sample_in_their_order(pool, measured):
    table = measurer(pool)(pool.table("h", "b", "a"))
    assert table.schema == SCHEMA
    assert table["id"].to_pylist() == ["h", "b", "a"]
    assert table["status"].to_pylist() == ["ok", "text_only", "ok"]
    for row in measured.values():
        assert 0 < row["sum_p2"] < 1
        assert 0 < row["p_y"] < 1
        assert -1 < row["margin"] < 1
        assert 0 < row["el2n"] < 2**0.5
        assert row["grand"] > 0
        assert row["detail"] == ""


def test_the_rest_of_the_batch_and_the_chunks_change_no_value(pool, measured):
    for settings in ({"batch_size": 8, "chunk_tokens": 3}, {"batch_size": 1}):
        for id, row in by_id(measurer(pool, **settings)(pool.table())).items():
            close(row, measured[id])
    measure = measurer(pool)
    for id in measured:
        close(measure(pool.table(id)).to_pylist()[0], measured[id])


def test_the_order_of_a_shard_changes_not_a_bit(pool):
    measure = measurer(pool, batch_size=3)
    table = measure(pool.table())
    backwards = measure(pool.table(*reversed([sample.id for sample in pool.samples])))
    assert backwards.sort_by("id").equals(table)
    assert measure(pool.table()).equals(table)


def without_words(turns):
    """The turns, with nothing but pictures in the user's."""
    return tuple(
        replace(turn, text="<image>" * turn.text.count("<image>")) if turn.role == USER else turn
        for turn in turns
    )


def test_without_the_image_nothing_is_left_of_it(pool, measured):
    """The prompt writes a line's end behind a picture, which stays."""
    measure = measurer(pool, no_image=False, no_question=False)
    for id in PICTURED:
        sample = next(sample for sample in pool.samples if sample.id == id)
        whole = measure.vlm.whole(sample)
        image = measure.vlm.data.tokenizer.convert_tokens_to_ids("<image>")
        kept = [place for place, token in enumerate(whole.input_ids) if token != image]
        assert len(whole.input_ids) - len(kept) == 4 * len(sample.images)
        vlm = LlavaForConditionalGeneration.from_pretrained(pool.model)
        ids_1T = torch.tensor([[whole.input_ids[place] for place in kept]])
        labels_1T = torch.tensor([[whole.labels[place] for place in kept]])
        with torch.no_grad():
            (loss_sum,), (tokens,) = sample_losses(vlm(input_ids=ids_1T).logits, labels_1T)
        assert tokens == measured[id]["answer_tokens"]
        assert measured[id]["loss_no_image"] == pytest.approx((loss_sum / tokens).item(), rel=1e-4)
        assert measured[id]["loss_no_image"] != pytest.approx(measured[id]["loss"], rel=1e-5)


def test_a_text_only_sample_has_no_image_to_miss(measured):
    for id in TEXT_ONLY:
        assert measured[id]["loss_no_image"] == measured[id]["loss"]


def test_without_the_question_all_words_of_the_user_are_gone(pool, measured):
    """Image marks, earlier answers and the system sentence stay."""
    silent = [replace(sample, turns=without_words(sample.turns)) for sample in pool.samples]
    sums, counts = training_losses(pool, silent)
    for sample, loss_sum, tokens in zip(silent, sums, counts, strict=True):
        row = measured[sample.id]
        assert row["answer_tokens"] == tokens
        assert row["loss_no_question"] == pytest.approx(loss_sum / tokens, rel=1e-4)
        assert row["loss_no_question"] != pytest.approx(row["loss"], rel=1e-5)


@pytest.mark.parametrize("max_length", [24, 36, 48])
def test_all_losses_are_of_the_same_answer_tokens(max_length, pool):
    """A shorter prompt leaves room for more of the answer, which is not measured."""
    vlm, uncut = measurer(pool, train={"max_length": max_length}).vlm, measurer(pool).vlm
    cut = 0
    for sample in pool.samples:
        whole = vlm.whole(sample)
        pictures = vlm.pictures(sample)
        silent = vlm.without_question(whole, sample, pictures)
        prompts = [vlm.without_image(whole, sample), silent]
        assert {supervised(prompt) for prompt in prompts} == {supervised(whole)}
        image = vlm.data.tokenizer.convert_tokens_to_ids("<image>")
        counts = [prompt.input_ids.count(image) for prompt in (whole, *prompts)]
        assert counts == [4 * len(sample.images), 0, 4 * len(sample.images)]
        answers = [[label for label in p.labels if label >= 0] for p in (whole, *prompts)]
        assert answers[0] == answers[1] == answers[2]
        cut += supervised(whole) < supervised(uncut.whole(sample))
    assert cut


def test_a_picture_after_the_cut_stays(pool):
    turns = (
        Turn(USER, "<image>\nOne?"),
        Turn(ASSISTANT, "A long answer. " * 9),
        Turn(USER, "<image>\nTwo?"),
        Turn(ASSISTANT, "Another."),
    )
    images = pool.samples[2].images
    sample = Sample("z", "", turns, images, "", "")
    (row,) = measurer(pool, train={"max_length": 20})(table_of([sample])).to_pylist()
    assert row["status"] == "ok"
    assert row["answer_tokens"] > 20
    assert row["loss_no_question"] > 0


def test_a_sample_whose_answer_was_cut_away_has_no_loss(pool):
    long = replace(
        pool.samples[0], turns=(Turn(USER, "<image>\n" + "why " * 50), *pool.samples[0].turns[1:])
    )
    table = measurer(pool, train={"max_length": 30})(table_of([long, pool.samples[1]]))
    row, other = table.to_pylist()
    assert (row["answer_tokens"], row["status"]) == (0, "ok")
    assert all(row[name] is None for name in STATISTICS)
    assert other["loss"] > 0


def test_a_picture_that_is_gone_fails_its_sample_only(pool, measured, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    samples = [
        replace(pool.samples[0], images=(str(tmp_path / "none.png"),)),
        *pool.samples[1:3],
        replace(pool.samples[3], images=(str(broken),)),
    ]
    for batch_size in (1, 8):
        rows = by_id(measurer(pool, batch_size=batch_size)(table_of(samples)))
        assert [rows[id]["status"] for id in "abcd"] == [
            "image_missing",
            "text_only",
            "ok",
            "image_format",
        ]
        for id in "ad":
            assert rows[id]["detail"]
            assert rows[id]["answer_tokens"] == measured[id]["answer_tokens"]
            assert all(rows[id][name] is None for name in STATISTICS)
        for id in "bc":
            close(rows[id], measured[id])


def test_an_output_that_is_no_number_is_no_value(pool):
    measure = measurer(pool)
    with torch.no_grad():
        measure.vlm.vlm.model.multi_modal_projector.linear_2.bias.fill_(torch.nan)
    rows = by_id(measure(pool.table("a", "b")))
    assert rows["a"]["status"] == "loss_not_finite"
    assert all(rows["a"][name] is None for name in STATISTICS)
    assert rows["b"]["status"] == "text_only"
    assert rows["b"]["loss"] > 0


def test_what_is_switched_off_is_null(pool, measured):
    off = {"no_image": False, "no_question": False, "grand": False}
    table = measurer(pool, **off)(pool.table())
    assert table.schema == SCHEMA
    left_out = ("loss_no_image", "loss_no_question", "grand")
    for id, row in by_id(table).items():
        assert all(row[name] is None for name in left_out)
        close(row, measured[id], [name for name in STATISTICS if name not in left_out])


def test_no_samples_give_an_empty_table(pool):
    table = measurer(pool)(pool.table()[:0])
    assert table.schema == SCHEMA
    assert table.num_rows == 0


def test_no_tensor_holds_the_logits_of_more_tokens_than_a_chunk(pool):
    measure = measurer(pool, chunk_tokens=5)
    with LogitsOnly(*measure.vlm.vlm.parameters()) as largest:
        measure(pool.table())
    assert 0 < largest.elements <= 5 * VOCABULARY


class LogitsOnly(LargestTensor):
    """Looks at tensors as wide as the vocabulary only; no other size of the model is that."""

    def _look_at(self, value):
        if VOCABULARY in value.shape:
            super()._look_at(value)


def test_bfloat16_is_that_of_training_unless_it_is_set(pool, measured):
    for train, measure, dtype in (
        (True, None, torch.bfloat16),
        (True, False, torch.float32),
        (False, True, torch.bfloat16),
    ):
        measure = measurer(pool, train={"bf16": train}, bf16=measure)
        assert {value.dtype for value in measure.vlm.vlm.parameters()} == {dtype}
        rows = by_id(measure(pool.table()))
        for id, row in rows.items():
            assert row["loss"] == pytest.approx(measured[id]["loss"], rel=0.02)


def test_another_model_has_another_hash(pool, tmp_path):
    other = make_pool(tmp_path, seed=1)
    hashes = {measurer(pool, model=model).weights_hash() for model in (pool.model, other.model)}
    assert len(hashes) == 2
    assert measurer(pool).weights_hash() in hashes


def trained_adapters(pool, folder):
    """What ``save_vlm`` leaves of a model with adapters, and the model."""
    from types import SimpleNamespace

    from selfilter_ray.stage1.outputs import save_vlm
    from selfilter_ray.stage1.trainer import Paths

    config = make_config(trainable={"language_model": "lora"})
    vlm = LlavaForConditionalGeneration.from_pretrained(pool.model)
    model = Stage1Model(vlm, ScoreNet(2, "zeros"), config.train)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.3)
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    data = SimpleNamespace(family=measurer(pool).vlm.data.family)
    trainer = SimpleNamespace(
        paths=Paths(folder, folder, folder, pool.model),
        engine=SimpleNamespace(module=model),
        config=config,
        data=data,
    )
    save_vlm(trainer, {name: value.detach() for name, value in weights.items()})
    return model.eval()


def test_adapters_are_measured_on_their_base(pool, measured, tmp_path):
    pytest.importorskip("peft")
    model = trained_adapters(pool, tmp_path)
    adapters = str(tmp_path / "vlm")
    named = by_id(measurer(pool, model=adapters)(pool.table()))
    moved = tmp_path / "moved"
    shutil.copytree(pool.model, moved)
    config = tmp_path / "vlm" / "adapter_config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"base_model_name_or_path": str(tmp_path / "gone")}))
    given = by_id(measurer(pool, model=adapters, base=str(moved))(pool.table()))
    assert given == named
    data = measurer(pool).vlm
    for sample in pool.samples:
        whole, pictures = data.whole(sample), data.pictures(sample)
        with torch.no_grad():
            logits_1TV = model.vlm(
                input_ids=torch.tensor([whole.input_ids]),
                pixel_values=torch.cat([one.tensors["pixel_values"] for one in pictures])
                if pictures
                else None,
            ).logits
        (loss_sum,), _ = sample_losses(logits_1TV, torch.tensor([whole.labels]))
        assert named[sample.id]["loss_sum"] == pytest.approx(loss_sum.item(), rel=1e-4)
        assert named[sample.id]["loss_sum"] != pytest.approx(measured[sample.id]["loss_sum"])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        measurer(pool, model=adapters)
    config.write_text("{")
    with pytest.raises(ArtifactError, match="train again"):
        measurer(pool, model=adapters)


def test_a_model_that_is_not_there_or_damaged_is_refused(pool, tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        measurer(pool, model=str(tmp_path / "none"))
    damaged = tmp_path / "damaged"
    shutil.copytree(pool.model, damaged)
    (damaged / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        measurer(pool, model=str(damaged))


def test_a_model_that_lacks_weights_is_not_filled_up(pool, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(pool.model, folder := tmp_path / "vlm")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "linear_1" in name)
    rest = {key: value for key, value in weights.items() if key != name}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match="lacks 1 weights"):
        measurer(pool, model=str(folder))


def write_shard(folder, number, table):
    shard = Shard(number, 10 * number, 10 * number + table.num_rows)
    finish_shard(folder, shard, table, ShardRecord("key", table.num_rows, 0.0, "model"))


def rows_of(ids):
    rows = [{"id": id, "answer_tokens": 1, "loss": float(ord(id))} for id in ids]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_folder_is_loaded_by_id(tmp_path):
    write_shard(tmp_path, 0, rows_of("db"))
    write_shard(tmp_path, 1, rows_of("ca"))
    table = load_measured(tmp_path)
    assert table["id"].to_pylist() == list("abcd")
    assert table["loss"].to_pylist() == [97.0, 98.0, 99.0, 100.0]
    chosen = load_measured(tmp_path, np.array(["c", "a"], object))
    assert chosen["loss"].to_pylist() == [99.0, 97.0]
    with pytest.raises(ArtifactError, match="lacks 1 of 2"):
        load_measured(tmp_path, np.array(["a", "x"], object))


def test_a_folder_without_shards_or_with_damaged_ones_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="score stage"):
        load_measured(tmp_path)
    write_shard(tmp_path, 0, rows_of("a"))
    (tmp_path / "shard-00000.parquet").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="damaged"):
        load_measured(tmp_path)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="min <= max"):
        MeasureConfig(actors=(3, 2))
    assert "actors" not in MeasureConfig(actors=(1, 2)).result_fields()
    assert {"batch_size", "chunk_tokens", "shard_rows"} <= set(MeasureConfig().result_fields())


def test_the_columns_it_reads_are_enough(pool, measured):
    table = measurer(pool, batch_size=3)(pool.table().select(COLUMNS))
    assert by_id(table) == measured
