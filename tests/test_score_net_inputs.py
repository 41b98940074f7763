"""What the score net sees: ratings scaled as in the paper, features, both; nets with layers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.shards import Features
from selfilter_ray.scoring import net_scores, score_features
from selfilter_ray.stage1.inputs import Scaling, net_inputs, read_ratings
from selfilter_ray.stage1.score_net import ScoreNet, load_score_net, save_score_net

NAN = np.nan
IDS = np.array(["a", "b", "c"], dtype=object)
FEATURES = Features(
    IDS, np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0.5, NAN, 0.25], np.float32)
)


# Scaling


def test_ratings_are_scaled_by_their_minimum_and_maximum_in_the_order_of_the_columns():
    ratings = {"b": np.array([10.0, 5.0, 0.0]), "a": np.array([-1.0, 3.0, 1.0])}
    scaling = Scaling.over(ratings)
    assert scaling.columns == ("b", "a")
    scaled_NR = scaling.apply(ratings)
    assert scaled_NR.dtype == np.float32
    assert scaled_NR.tolist() == [[1.0, -1.0], [0.0, 1.0], [-1.0, 0.0]]


def test_a_missing_rating_is_the_mean_of_the_others():
    ratings = {"a": np.array([0.0, NAN, 4.0, 8.0, np.inf])}
    assert Scaling.over(ratings).apply(ratings)[:, 0].tolist() == [-1.0, 0.0, 0.0, 1.0, 0.0]


def test_a_constant_rating_says_nothing():
    ratings = {"a": np.array([7.0, 7.0, NAN])}
    assert Scaling.over(ratings).apply(ratings)[:, 0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("clip_score", "open_clip"), ("image_reward", r"ratings\.image_reward"), ("x", "out of the")],
)
def test_a_rating_that_no_sample_has_is_refused(name, remedy):
    with pytest.raises(
        ConfigError, match=rf"train\.score_columns: no sample has a {name}.*{remedy}"
    ):
        Scaling.over({"other": np.ones(2), name: np.array([NAN, NAN])})


@given(st.lists(st.floats(-1e6, 1e6) | st.just(NAN), min_size=1, max_size=30))
@hypothesis_settings(deadline=None)
def test_scaled_ratings_are_between_minus_one_and_one_and_keep_their_order(values):
    values_N = np.array(values)
    if not np.isfinite(values_N).any():
        values_N[0] = 0.0
    scaled_N = Scaling.over({"a": values_N}).apply({"a": values_N})[:, 0]
    assert np.isfinite(scaled_N).all()
    assert (np.abs(scaled_N) <= 1 + 1e-6).all()
    known = np.isfinite(values_N)
    order = np.argsort(values_N[known], kind="stable")
    assert (np.diff(scaled_N[known][order]) >= 0).all()


def test_the_scaling_of_the_pool_is_kept_for_new_samples():
    scaling = Scaling.over({"a": np.array([0.0, 10.0])})
    kept = Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert kept == scaling
    assert kept.apply({"a": np.array([20.0, NAN])})[:, 0].tolist() == [3.0, 0.0]


# Ratings of a run


@pytest.fixture
def ratings_file(tmp_path):
    table = pa.table(
        {"id": ["a", "b", "c"], "judge_quality": pa.array([1.0, None, 9.0], pa.float32())}
    )
    pq.write_table(table, tmp_path / "ratings.parquet")
    return tmp_path / "ratings.parquet"


def test_ratings_come_in_the_order_asked_for(ratings_file):
    found = read_ratings(FEATURES, ratings_file, ["judge_quality", "clip_score"])
    assert list(found) == ["judge_quality", "clip_score"]
    np.testing.assert_array_equal(found["judge_quality"], [1.0, NAN, 9.0])
    np.testing.assert_array_equal(found["clip_score"], [0.5, NAN, 0.25])


def test_the_clip_score_needs_no_file(tmp_path):
    found = read_ratings(FEATURES, tmp_path / "none.parquet", ["clip_score"])
    assert list(found) == ["clip_score"]


def test_ratings_that_are_not_there_are_an_artifact_error(ratings_file, tmp_path):
    with pytest.raises(ArtifactError, match="run score"):
        read_ratings(FEATURES, tmp_path / "none.parquet", ["judge_quality"])
    with pytest.raises(ArtifactError, match="holds no image_reward"):
        read_ratings(FEATURES, ratings_file, ["judge_quality", "image_reward"])
    ratings_file.write_bytes(ratings_file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_ratings(FEATURES, ratings_file, ["judge_quality"])


@pytest.mark.parametrize("ids", [["a", "b"], ["a", "c", "b"], ["a", "b", "d"]])
def test_ratings_of_other_samples_are_refused(ids, tmp_path):
    pq.write_table(pa.table({"id": ids, "x": [1.0] * len(ids)}), tmp_path / "ratings.parquet")
    with pytest.raises(ArtifactError, match="such samples"):
        read_ratings(FEATURES, tmp_path / "ratings.parquet", ["x"])


# Inputs of the net


def test_the_net_sees_features_or_ratings_or_both():
    ratings = {"x": np.array([0.0, 1.0, 4.0])}
    clip_ND, no_scaling = net_inputs("clip", FEATURES, ratings, None)
    scores_ND, scaling = net_inputs("scores", FEATURES, ratings, None)
    both_ND, same = net_inputs("both", FEATURES, ratings, None)
    assert no_scaling is None
    assert same == scaling
    assert clip_ND.tolist() == FEATURES.features_ND.tolist()
    assert scores_ND.tolist() == [[-1.0], [-0.5], [1.0]]
    assert both_ND.tolist() == [[0, 1, -1], [2, 3, -0.5], [4, 5, 1]]
    assert both_ND.dtype == scores_ND.dtype == np.float32


def test_a_trained_net_is_shown_new_samples_by_its_own_scaling():
    scaling = Scaling.over({"x": np.array([0.0, 8.0])})
    inputs_ND, kept = net_inputs("scores", FEATURES, {"x": np.array([0.0, 4.0, NAN])}, scaling)
    assert kept is scaling
    assert inputs_ND.tolist() == [[-1.0], [0.0], [0.0]]


def test_the_scores_of_a_run_use_the_scaling_kept_with_the_net(ratings_file, tmp_path):
    net = ScoreNet(1)
    net.linear.weight.data[:] = 2.0
    scaling = Scaling(("judge_quality",), (1.0,), (5.0,), (4.0,))
    metadata = {"inputs": "scores", "scaling": scaling.to_dict()}
    file = tmp_path / "net.safetensors"
    save_score_net(file, net.state_dict(), metadata)
    assert net_scores(file, FEATURES, ratings_file).tolist() == [-2.0, 1.0, 6.0]


def test_a_net_saved_before_there_were_ratings_sees_features(tmp_path):
    net = ScoreNet(2)
    net.linear.weight.data[:] = torch.tensor([1.0, -1.0])
    file = tmp_path / "net.safetensors"
    save_score_net(file, net.state_dict(), {"loss_reduction": "sum"})
    assert net_scores(file, FEATURES, tmp_path / "none").tolist() == [-1.0, -1.0, -1.0]


# Nets with layers


def random_net(features=5, hidden=(4, 3)):
    torch.manual_seed(0)
    return ScoreNet(features, "uniform", hidden)


def reference(net, x_ND):
    for layer in net.hidden:
        weight_OI, bias_O = layer.weight.numpy().astype(np.float64), layer.bias.numpy()
        x_ND = np.maximum(x_ND @ weight_OI.T + bias_O, 0.0)
    return (x_ND @ net.linear.weight.numpy().astype(np.float64).T)[:, 0]


@pytest.mark.parametrize("hidden", [(), (4,), (7, 4, 3)])
def test_layers_are_linear_with_a_relu_between_them(hidden):
    net = random_net(hidden=hidden).requires_grad_(False)
    x_ND = np.random.default_rng(1).normal(size=(20, 5))
    z_N = net(torch.from_numpy(x_ND))
    assert z_N.dtype == torch.float64
    np.testing.assert_allclose(z_N.numpy(), reference(net, x_ND), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(score_features(net, x_ND), z_N.numpy(), rtol=1e-6)


def test_parameters_of_half_precision_are_summed_in_float32():
    net = random_net().bfloat16()
    z_N = net(torch.ones(2, 5, dtype=torch.bfloat16))
    assert z_N.dtype == torch.float32
    assert torch.equal(z_N, net.float()(torch.ones(2, 5)))


@pytest.mark.parametrize("hidden", [(), (4,), (7, 4, 3)])
def test_a_net_comes_back_as_it_was_saved(hidden, tmp_path):
    net = random_net(hidden=hidden)
    save_score_net(tmp_path / "net", net.state_dict(), {"inputs": "both"})
    again, metadata = load_score_net(tmp_path / "net")
    assert metadata == {"inputs": "both"}
    assert again.features == 5
    state = net.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(again.state_dict()[name], state[name]) for name in state)
    assert not any(value.requires_grad for value in again.parameters())


def test_the_file_of_a_linear_net_has_one_tensor_of_that_name(tmp_path):
    save_score_net(tmp_path / "net", ScoreNet(3).state_dict(), {})
    assert {name: tuple(t.shape) for name, t in load_file(tmp_path / "net").items()} == {
        "weight": (1, 3)
    }


def drop(name):
    return lambda tensors: tensors.pop(name)


def change(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    "damage",
    [
        drop("weight"),
        drop("hidden.0.weight"),
        drop("hidden.0.bias"),
        drop("hidden.1.weight"),
        drop("hidden.1.bias"),
        change("extra", torch.zeros(1)),
        change("hidden.2.weight", torch.zeros(1, 3)),
        change("weight", torch.zeros(2, 3)),
        change("weight", torch.zeros(1, 4)),
        change("weight", torch.zeros(())),
        change("hidden.0.bias", torch.zeros(5)),
        change("hidden.0.weight", torch.zeros(())),
        change("hidden.1.weight", torch.zeros(3, 5)),
        change("hidden.1.weight", torch.zeros(3)),
    ],
)
def test_tensors_that_are_no_net_are_refused(damage, tmp_path):
    save_score_net(tmp_path / "net", random_net().state_dict(), {})
    tensors = load_file(tmp_path / "net")
    damage(tensors)
    save_file(tensors, tmp_path / "net", metadata={"format": "1", "metadata": "{}"})
    with pytest.raises(ArtifactError, match="not a score net"):
        load_score_net(tmp_path / "net")


def test_a_net_with_a_number_that_is_none_is_refused(tmp_path):
    net = random_net()
    net.hidden[1].bias.data[0] = NAN
    save_score_net(tmp_path / "net", net.state_dict(), {})
    with pytest.raises(ArtifactError, match="NaN"):
        load_score_net(tmp_path / "net")
