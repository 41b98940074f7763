"""From z to weights and scores, the score net's file, and the chosen records as files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from selfilter_ray.config import DataConfig
from selfilter_ray.errors import ArtifactError
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import write_samples
from selfilter_ray.samples.pool import read_pool
from selfilter_ray.scoring import difficulty_columns, pool_weights, score_features
from selfilter_ray.select import select_diverse
from selfilter_ray.select.contract import Selection
from selfilter_ray.selected import selection_table, write_selected
from selfilter_ray.stage1 import ScoreNet
from selfilter_ray.stage1.score_net import load_score_net, save_score_net

Z = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)


@given(z=Z)
@settings(deadline=None)
def test_weights_have_mean_one_and_the_order_of_z(z):
    z_N = np.array(z, dtype=np.float32)
    weights_N = pool_weights(z_N)
    assert weights_N.dtype == np.float32
    assert np.isfinite(weights_N).all()
    assert weights_N.mean() == pytest.approx(1.0, rel=1e-5)
    assert (np.diff(weights_N[np.argsort(z_N)]) >= 0).all()


def test_weights_are_the_softmax_of_the_whole_pool():
    weights_N = pool_weights(np.array([0.0, np.log(3.0), 0.0]))
    np.testing.assert_allclose(weights_N, [0.6, 1.8, 0.6], rtol=1e-6)
    assert pool_weights(np.array([1e38, -1e38], dtype=np.float32)).tolist() == [2.0, 0.0]
    assert pool_weights(np.zeros(0, np.float32)).shape == (0,)


def net_of(*weights):
    net = ScoreNet(len(weights))
    net.linear.weight.data = torch.tensor([weights])
    return net


def test_z_is_the_dot_product_with_the_weights():
    features_ND = np.array([[1.0, 2.0], [0.0, -1.0]], dtype=np.float32)
    z_N = score_features(net_of(0.5, 4.0), features_ND)
    assert z_N.tolist() == [8.5, -4.0]
    assert z_N.dtype == np.float32


def test_z_of_a_row_does_not_depend_on_the_other_rows():
    random = np.random.default_rng(0)
    features_ND = random.normal(size=(100, 333)).astype(np.float32)
    net = net_of(*random.normal(size=333).astype(np.float32).tolist())
    alone = [score_features(net, features_ND[row : row + 1])[0] for row in range(100)]
    np.testing.assert_array_equal(score_features(net, features_ND), alone)


@pytest.mark.parametrize("shape", [(3, 1), (3, 3), (2,), (0, 5)])
def test_features_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="takes 2 features"):
        score_features(net_of(1.0, 1.0), np.zeros(shape))


def test_hard_samples_have_a_low_weight():
    columns = {
        name: column.to_pylist()
        for name, column in difficulty_columns(np.array([1, 2, -3], "f4")).items()
    }
    assert columns["difficulty"] == [-1.0, -2.0, 3.0]
    assert columns["weight"][1] > columns["weight"][0] > columns["weight"][2]


def test_a_score_net_comes_back_as_it_was_saved(tmp_path):
    weight_1D = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    save_score_net(
        tmp_path / "net.safetensors", {"linear.weight": weight_1D}, {"loss_reduction": "mean"}
    )
    net, metadata = load_score_net(tmp_path / "net.safetensors")
    assert torch.equal(net.linear.weight, weight_1D)
    assert metadata == {"loss_reduction": "mean"}
    assert net.features == 5
    assert not net.linear.weight.requires_grad
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


GOOD_HEADER = {"format": "1", "metadata": "{}"}
ROW = torch.ones(1, 4)


def net_file(tensors=None, header=GOOD_HEADER):
    """The bytes of a safetensors file."""
    return save({"weight": ROW} if tensors is None else tensors, metadata=header)


BROKEN = {
    "pickle": pickle.dumps({"weight": [1.0]}),
    "empty": b"",
    "cut off": net_file()[:-3],
    "cut in its header": net_file()[:20],
    "huge header": b"\xff" * 64,
    "other version": net_file(header=GOOD_HEADER | {"format": "2"}),
    "no header": net_file(header=None),
    "no metadata": net_file(header={"format": "1"}),
    "torn metadata": net_file(header=GOOD_HEADER | {"metadata": "{"}),
    "metadata of another kind": net_file(header=GOOD_HEADER | {"metadata": "[]"}),
    "other tensor": net_file({"bias": ROW}),
    "vector": net_file({"weight": ROW[0]}),
    "two rows": net_file({"weight": torch.ones(2, 4)}),
    "NaN": net_file({"weight": ROW * torch.nan}),
    "infinity": net_file({"weight": ROW * torch.inf}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_score_net_is_refused_by_name(content, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(net_file())
    load_score_net(path)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"net\.safetensors"):
        load_score_net(path)


def test_a_missing_score_net_and_a_folder_in_its_place_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="run the train stage"):
        load_score_net(tmp_path / "net.safetensors")
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        load_score_net(tmp_path)


def test_a_pickle_is_never_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    (tmp_path / "net.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ArtifactError):
        load_score_net(tmp_path / "net.safetensors")
    assert not (tmp_path / "sprung").exists()


def selection_of(picks):
    """What Self-Filter's method makes of the picks of its greedy selection."""
    return Selection(picks.indices, picks.difficulty_at_pick.astype(np.float64), {}, picks)


def test_a_selection_of_another_method_has_its_values_and_no_penalties():
    ids = np.array(["a", "b", "c"], dtype=object)
    table = selection_table(ids, Selection(np.array([2, 0]), np.array([0.5, np.nan])))
    assert table.to_pydict() == {"id": ["c", "a"], "rank": [0, 1], "value": [0.5, None]}


def test_selection_names_what_pushed_each_pick_down():
    ids = np.array(["a", "b", "c"], dtype=object)
    features_ND = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    picks = select_diverse(features_ND, [3.0, 2.0, 1.0], 3, k_nearest=1, difficulty="raw")
    assert selection_table(ids, selection_of(picks)).to_pydict() == {
        "id": ["a", "c", "b"],
        "rank": [0, 1, 2],
        "value": [3.0, 1.0, -1.0],
        "difficulty_at_pick": [3.0, 1.0, -1.0],
        "penalty": [0.0, 0.0, 3.0],
        "nearest_earlier_id": [None, None, "a"],
        "nearest_earlier_similarity": [None, None, 1.0],
        "penalised_ids": [["b"], ["b"], []],
        "penalised_similarity": [[1.0], [0.0], []],
    }


@pytest.mark.parametrize("rows", [0, 3])
def test_a_selection_of_nothing_has_its_columns(rows):
    ids = np.array(["a", "b", "c"][:rows], dtype=object)
    table = selection_table(ids, selection_of(select_diverse(np.ones((rows, 2)), np.ones(rows), 0)))
    assert table.num_rows == 0
    assert table.schema.field("penalised_ids").type == pa.list_(pa.string())
    assert table.schema.field("nearest_earlier_id").type == pa.string()


# Text that another JSON writer would change: spaces, escapes, key order, numbers.
RECORDS = [
    f'{{"id":"r{number}" ,  "extra": [1.50, 1e3], "conversations": [{{"from": "human", '
    f'"value": "\\u00e4 {number}?"}}, {{"value": "Ja, \\/ {number} ✓", "from": "gpt"}}]}}'
    for number in range(6)
]
PICKS = ["r4", "r0", "r5"]
CHOSEN = [RECORDS[4], RECORDS[0], RECORDS[5]]


def run_on(tmp_path, *files):
    """A run folder that has read the files."""
    folder = RunFolder(tmp_path / "run")
    pool = read_pool(DataConfig(inputs=[str(file) for file in files]), folder.images)
    write_samples(folder.samples, pool.table)
    return folder


def outputs(folder):
    return sorted(path.name for path in folder.path.glob("selected.*"))


def test_records_of_a_json_file_are_written_verbatim_in_the_order_of_the_picks(tmp_path):
    (tmp_path / "pool.json").write_text("[" + ",\n\n".join(RECORDS) + "]")
    folder = run_on(tmp_path, tmp_path / "pool.json")
    write_selected(folder, PICKS)
    assert folder.selected_json.read_text() == "[\n" + ",\n".join(CHOSEN) + "\n]\n"
    assert folder.selected_ids.read_text() == "r4\nr0\nr5\n"
    assert outputs(folder) == ["selected.ids", "selected.json"]
    assert [row["id"] for row in json.loads(folder.selected_json.read_text())] == PICKS


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_records_of_json_lines_come_as_json_lines_too(suffix, tmp_path):
    (tmp_path / f"one.{suffix}").write_text("\n".join(RECORDS[:3]))
    (tmp_path / f"two.{suffix}").write_text("\n\n".join(RECORDS[3:]) + "\n")
    folder = run_on(tmp_path, tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}")
    write_selected(folder, PICKS)
    assert (folder.path / "selected.jsonl").read_text() == "".join(f"{row}\n" for row in CHOSEN)
    assert json.loads(folder.selected_json.read_text()) == [json.loads(row) for row in CHOSEN]


def columns_table(numbers):
    turns = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"Yes {n}"}]
        for n in numbers
    ]
    return pa.table(
        {
            "id": [f"r{number}" for number in numbers],
            "messages": turns,
            "blob": [bytes([number, 255]) for number in numbers],
        }
    )


def test_rows_of_parquet_files_come_as_parquet_with_every_column(tmp_path):
    pq.write_table(columns_table([0, 1, 2, 3]), tmp_path / "one.parquet", row_group_size=2)
    pq.write_table(columns_table([4, 5]), tmp_path / "two.parquet")
    folder = run_on(tmp_path, tmp_path / "two.parquet", tmp_path / "one.parquet")
    picks = ["r3", "r5", "r0", "r4", "r2"]
    write_selected(folder, picks)
    table = pq.read_table(folder.path / "selected.parquet")
    assert table.equals(columns_table([3, 5, 0, 4, 2]))
    assert [row["id"] for row in json.loads(folder.selected_json.read_text())] == picks
    assert not (folder.path / "selected.jsonl").exists()


def test_rows_of_arrow_streams_come_as_parquet(tmp_path):
    table = columns_table([0, 1, 2, 3])
    with pa.ipc.new_stream(tmp_path / "pool.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    folder = run_on(tmp_path, tmp_path / "pool.arrow")
    write_selected(folder, ["r3", "r1"])
    assert pq.read_table(folder.path / "selected.parquet").equals(columns_table([3, 1]))


def test_mixed_formats_come_as_json_only(tmp_path):
    pq.write_table(columns_table([0]), tmp_path / "one.parquet")
    (tmp_path / "two.jsonl").write_text(RECORDS[4])
    folder = run_on(tmp_path, tmp_path / "one.parquet", tmp_path / "two.jsonl")
    write_selected(folder, ["r4", "r0"])
    assert outputs(folder) == ["selected.ids", "selected.json"]
    assert json.loads(folder.selected_json.read_text())[0] == json.loads(RECORDS[4])


@pytest.mark.parametrize("name", ["pool.json", "pool.jsonl", "pool.parquet"])
def test_no_picks_are_an_empty_list(name, tmp_path):
    if name == "pool.parquet":
        pq.write_table(columns_table([0]), tmp_path / name)
    else:
        (tmp_path / name).write_text(RECORDS[0] if name == "pool.jsonl" else f"[{RECORDS[0]}]")
    folder = run_on(tmp_path, tmp_path / name)
    write_selected(folder, [])
    assert json.loads(folder.selected_json.read_text()) == []
    assert folder.selected_ids.read_text() == ""


def test_a_second_selection_leaves_nothing_of_the_first(tmp_path):
    (tmp_path / "pool.jsonl").write_text("\n".join(RECORDS))
    folder = run_on(tmp_path, tmp_path / "pool.jsonl")
    write_selected(folder, PICKS)
    assert outputs(folder) == ["selected.ids", "selected.json", "selected.jsonl"]
    write_selected(folder, [])
    assert outputs(folder) == ["selected.ids", "selected.json"]
