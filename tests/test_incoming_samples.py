"""Samples of requests: what is read, what is refused alone and with which code."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from service_run import features_json, make_pool_features
from test_images import PNG_MAGIC, encoded, png_header, text_bomb

from selfilter_ray.samples.record import Turn
from selfilter_ray.service.incoming.digest import digest_of_conversation
from selfilter_ray.service.incoming.reader import SampleReader
from selfilter_ray.service.incoming.refusals import REMEDIES
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.messages import Refused
from selfilter_ray.service.settings import ImageSources, ServiceConfig, ServiceLimits

SIZES = (3, 2)
TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
PICTURE = Image.effect_noise((64, 64), 80)
PNG = encoded(PICTURE)
JPEG = encoded(PICTURE, "JPEG")
SMALL = encoded(Image.new("RGB", (8, 8), "red"))
FORBIDDEN_PATHS = ["/etc/passwd", "../out.png", "a/../../out.png", "a/../in.png", ".", "", ".."]


def reader(root=None, sizes=SIZES, **limits):
    config = ServiceConfig(
        run_dir="run",
        limits=ServiceLimits(**limits),
        images=ImageSources(root=None if root is None else str(root)),
    )
    return SampleReader(config, sizes)


def sample(id="a", **fields):
    return SampleIn.model_validate({"id": id, "conversations": TURNS} | fields)


def in_base64(content):
    return {"base64": base64.b64encode(content).decode()}


def read(one, **settings):
    return asyncio.run(reader(**settings).read(one))


def refusal(one, **settings):
    answer = read(one, **settings)
    assert isinstance(answer, Refused)
    assert answer.id == one.id
    assert answer.remedy == REMEDIES[answer.code]
    assert answer.detail
    return answer.code, answer.status


# Conversations


def test_a_conversation_comes_with_its_images_in_their_order():
    one = sample(images=[in_base64(PNG), in_base64(JPEG)])
    incoming = read(one)
    assert incoming.images == (PNG, JPEG)
    assert incoming.turns == (
        Turn("user", "<image>\n<image>\nWhy?"),
        Turn("assistant", "Because."),
    )
    assert incoming.features_D is None
    assert len(incoming.digest) == 16


def test_both_styles_of_a_turn_and_its_parts_say_the_same():
    parts = [{"type": "image"}, {"type": "text", "text": "Why?"}]
    answer = {"role": "assistant", "content": "Because."}
    image = in_base64(PNG)
    texts = [
        sample(image=image),
        sample(images=[image]),
        sample(image=image, conversations=[{"role": "user", "content": parts}, answer]),
        sample(
            "b", image=image, conversations=[{"from": "human", "value": "<image>\nWhy?"}, answer]
        ),
    ]
    incoming = [read(one) for one in texts]
    assert len({(one.digest, one.turns, one.images) for one in incoming}) == 1


@pytest.mark.parametrize(
    "other",
    [
        sample(),
        sample(image=in_base64(JPEG)),
        sample(images=[in_base64(PNG)] * 2),
        sample(image=in_base64(PNG), conversations=[*TURNS, TURNS[0]]),
        sample(image=in_base64(PNG), conversations=[TURNS[0], TURNS[1] | {"value": "because."}]),
        sample(image=in_base64(PNG), conversations=[TURNS[0] | {"from": "system"}, TURNS[1]]),
    ],
)
def test_another_content_has_another_digest(other):
    assert read(other).digest != read(sample(image=in_base64(PNG))).digest


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4), st.lists(st.binary(), max_size=3))
@settings(deadline=None, max_examples=60)
def test_moving_a_character_between_the_pieces_of_a_sample_changes_its_digest(turns, images):
    pieces = tuple(Turn(*turn) for turn in turns)
    whole = digest_of_conversation(pieces, images)
    assert whole == digest_of_conversation(pieces, list(images))
    joined = tuple(Turn(turn.role + turn.text, "") for turn in pieces)
    if joined != pieces:
        assert digest_of_conversation(joined, images) != whole
    if images:
        assert digest_of_conversation(pieces, [b"".join(images), b""]) != whole or images[1:] == [
            b""
        ]
        assert digest_of_conversation(pieces, images[:-1]) != whole


@pytest.mark.parametrize(
    ("turns", "code"),
    [
        ([], "answer_missing"),
        (TURNS[:1], "answer_missing"),
        ([TURNS[0], {"from": "gpt", "value": " "}], "answer_missing"),
        ([*TURNS, {"from": "narrator", "value": "x"}], "role_unknown"),
        ([TURNS[0], {"from": "gpt", "value": "\0"}], "text_invalid"),
        ([{"from": "human", "value": "<image> and <image>"}, TURNS[1]], "image_marks"),
        (TURNS * 50_000, "too_many_turns"),
    ],
)
def test_odd_turns_have_the_code_that_they_have_in_a_dataset(turns, code):
    assert refusal(sample(conversations=turns)) == (code, 422)


def test_marks_that_do_not_match_the_images_are_refused():
    turns = [{"from": "human", "value": "<image><image>"}, TURNS[1]]
    assert refusal(sample(conversations=turns, image=in_base64(PNG))) == ("image_marks", 422)


@pytest.mark.parametrize(
    ("limits", "code", "status"),
    [
        ({"turns": 1}, "too_many_turns", 422),
        ({"text_bytes": 11}, "text_too_long", 413),
        ({"images": 1}, "too_many_images", 422),
        ({"image_bytes": len(PNG) - 1}, "image_too_large", 413),
        ({"image_pixels": 64 * 64 - 1}, "image_too_large", 413),
        ({"images_bytes": 2 * len(PNG) - 1}, "images_too_large", 413),
    ],
)
def test_past_a_limit_of_the_service_a_sample_is_refused_and_at_the_limit_not(limits, code, status):
    one = sample(images=[in_base64(PNG)] * 2)
    assert refusal(one, **limits) == (code, status)
    at_the_limit = {name: value + 1 for name, value in limits.items()}
    assert read(one, **at_the_limit).images == (PNG, PNG)


# Images


BAD_IMAGES = {
    "empty": (b"", "image_broken", 422),
    "garbage": (bytes(range(256)) * 16, "image_format", 422),
    "magic and zeros": (PNG_MAGIC + bytes(64), "image_format", 422),
    "40000 x 40000": (png_header(40_000, 40_000), "image_too_large", 413),
    "1 x 65535": (png_header(1, 65_535), "image_aspect_ratio", 422),
    "65535 x 1": (png_header(65_535, 1), "image_aspect_ratio", 422),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_format", 422),
    "html": (b"<!DOCTYPE html><title>404</title>", "image_format", 422),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "image_format", 422),
    "text bomb": (SMALL[:33] + text_bomb(70) + SMALL[33:], "image_broken", 422),
}


@pytest.mark.parametrize(("content", "code", "status"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_refused_by_its_header_wherever_it_comes_from(
    tmp_path, content, code, status
):
    (tmp_path / "a.jpg").write_bytes(content)
    assert refusal(sample(image=in_base64(content))) == (code, status)
    assert refusal(sample(image={"path": "a.jpg"}), root=tmp_path) == (code, status)


def many_pages():
    file = io.BytesIO()
    pages = [Image.new("1", (8, 8), page % 2) for page in range(200)]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        *(encoded(PICTURE.convert(mode)) for mode in ("RGBA", "LA", "P", "1", "I;16")),
        encoded(PICTURE.convert("CMYK"), "JPEG"),
        encoded(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]),
        encoded(Image.new("RGB", (1, 1))),
        many_pages(),
    ],
    ids=["RGBA", "LA", "P", "1", "I;16", "CMYK", "animated", "1 x 1", "many pages"],
)
def test_an_odd_image_is_taken(content):
    assert read(sample(image=in_base64(content))).images == (content,)


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAA",
        "AAAA====",
        "AA=A",
        "AA AA",
        "AAAA\n",
        "AA-_",
        "\u00e4\u00e4\u00e4\u00e4",
        "=",
        "%",
        "data:image/png;base64,AAAA",
        "data:text/html;base64,AAAA",
    ],
)
def test_base64_is_taken_literally_and_without_a_data_prefix(text):
    assert refusal(sample(image={"base64": text})) == ("image_base64", 422)


def test_base64_of_too_large_an_image_is_not_decoded():
    one = sample(image={"base64": "%" * 2**20})
    assert refusal(one, image_bytes=2**18) == ("image_too_large", 413)


def test_the_images_of_a_request_share_one_allowance():
    samples = [sample(f"{number}", image=in_base64(PNG)) for number in range(5)]
    few = reader(images_bytes=3 * len(PNG))
    answers = asyncio.run(few.read_all(samples))
    codes = [answer.code for answer in answers if isinstance(answer, Refused)]
    assert codes == ["images_too_large"] * 2
    again = asyncio.run(few.read_all(samples[:3]))
    assert not any(isinstance(answer, Refused) for answer in again)


def test_a_bad_sample_fails_alone_and_answers_keep_their_order():
    samples = [
        sample("a", image=in_base64(PNG)),
        sample("b", image=in_base64(b"")),
        sample("c"),
        sample("d", image={"path": "x"}),
        sample("e", image={"url": "https://example.com/a.png"}),
        SampleIn.model_validate(
            {"id": "f", "features": {"image_embedding": [1.0], "text_embedding": [1.0]}}
        ),
    ]
    answers = asyncio.run(reader().read_all(samples))
    assert [answer.id for answer in answers] == list("abcdef")
    assert [getattr(answer, "code", None) for answer in answers] == [
        None,
        "image_broken",
        None,
        "image_path_off",
        "image_url_refused",
        "features_dimension",
    ]
    assert [answers[3].status, answers[4].status] == [403, 403]


# Images by path


def test_an_image_below_the_root_is_read_by_its_relative_path(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").write_bytes(PNG)
    for name in ("deep/er/a.png", "./deep//er/./a.png"):
        assert read(sample(image={"path": name}), root=tmp_path).images == (PNG,)
    link = tmp_path.parent / "link_to_root"
    link.symlink_to(tmp_path)
    assert read(sample(image={"path": "deep/er/a.png"}), root=link).images == (PNG,)


@pytest.mark.parametrize("name", FORBIDDEN_PATHS)
def test_a_path_that_is_not_plainly_inside_is_forbidden(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    for place in (tmp_path / "out.png", root / "in.png"):
        place.write_bytes(PNG)
    assert refusal(sample(image={"path": name}), root=root) == ("image_outside_root", 403)


def test_an_absolute_path_is_forbidden_even_inside(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    name = str(tmp_path / "a.png")
    assert refusal(sample(image={"path": name}), root=tmp_path) == ("image_outside_root", 403)


def test_links_are_not_followed_wherever_they_stand_in_the_path(tmp_path):
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    for place in (tmp_path / "out.png", root / "real" / "in.png"):
        place.write_bytes(PNG)
    (root / "file.png").symlink_to(tmp_path / "out.png")
    (root / "inner.png").symlink_to("real/in.png")
    (root / "up").symlink_to("..")
    (root / "folder").symlink_to("real")
    for name in ("file.png", "inner.png", "up/out.png", "folder/in.png"):
        code = refusal(sample(image={"path": name}), root=root)
        assert code == ("image_outside_root", 403), name


def test_what_is_not_a_file_is_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer for ever
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(PNG)
    names = [
        "pipe.png",
        "folder.png",
        "none.png",
        "none/a.png",
        "file/a.png",
        "x" * 5000,
        "a\0.png",
    ]
    for name in names:
        assert refusal(sample(image={"path": name}), root=tmp_path) == ("image_missing", 422), name
    gone = tmp_path / "gone"
    assert refusal(sample(image={"path": "a.png"}), root=gone) == ("image_missing", 422)


def test_a_large_file_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**40)
    assert refusal(sample(image={"path": "a.png"}), root=tmp_path) == ("image_too_large", 413)


def test_reading_leaves_no_open_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(PNG)
    few = reader(root=tmp_path, image_bytes=len(PNG) - 1)
    names = ["deep/a.png", "deep/none.png", "none/a.png", "deep"]

    async def read_often():
        for name in names * 3:
            await few.read(sample(image={"path": name}))

    async def counted():
        before = set(Path("/proc/self/fd").iterdir())
        await read_often()
        return len(set(Path("/proc/self/fd").iterdir()) - before)

    assert asyncio.run(counted()) == 0


# Features


def given_features(image, text):
    fields = {"image_embedding": image, "text_embedding": text}
    return SampleIn.model_validate({"id": "a", "features": fields})


def packed(values, dtype="float32"):
    content = np.asarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    return {"base64": base64.b64encode(content).decode(), "dtype": dtype}


def test_features_are_the_same_however_they_are_written():
    image, text = [0.5, -0.25, 0.0], [1.0, 0.0]
    spelled = [
        given_features(image, text),
        given_features(packed(image), text),
        given_features(packed(image, "float16"), packed(text)),
        given_features([0.5, -0.25, -0.0], [1, 0]),
    ]
    incoming = [read(one) for one in spelled]
    assert all(one.features_D.tolist() == image + text for one in incoming)
    assert all(one.features_D.dtype == np.float32 for one in incoming)
    assert len({one.digest for one in incoming}) == 1
    assert read(given_features(text[:1] + image[1:], text)).digest != incoming[0].digest


@pytest.mark.parametrize(
    ("image", "text", "code"),
    [
        ([1.0, 2.0], [1.0, 2.0], "features_dimension"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "features_dimension"),
        (packed([1.0] * 3), packed([1.0] * 3), "features_dimension"),
        (packed([]), [1.0, 2.0], "features_dimension"),
        ([0.0] * 3, [0.0, -0.0], "features_length"),
        ([1e-30] * 3, [0.0] * 2, "features_length"),
        ([1e30] * 3, [0.0] * 2, "features_length"),
        ([1e39, 0.0, 0.0], [0.0] * 2, "not_finite"),
        (packed([np.nan, 1.0, 1.0]), [0.0] * 2, "not_finite"),
        (packed([np.inf, 1.0, 1.0], "float16"), [0.0] * 2, "not_finite"),
        (packed([1.0] * 3)["base64"][:-1], [0.0] * 2, "features_encoding"),
        ("AAAAA", [0.0] * 2, "features_encoding"),
        ("AAAA", [0.0] * 2, "features_encoding"),
        ("\u00e4", [0.0] * 2, "features_encoding"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(image, text, code):
    image = {"base64": image, "dtype": "float32"} if isinstance(image, str) else image
    assert refusal(given_features(image, text)) == (code, 422)


def test_a_wrong_dimension_is_answered_by_the_expected_ones():
    answer = read(given_features([1.0], [1.0]))
    assert "1 numbers, expected 3" in answer.detail


def test_features_of_a_text_only_sample_have_a_zero_image_half():
    assert read(given_features([0.0] * 3, [0.6, 0.8])).features_D.any()


def test_features_of_real_size_are_read_in_their_order():
    features_ND = make_pool_features(3)
    samples = [
        SampleIn.model_validate({"id": f"{row}", "features": features_json(features_D)})
        for row, features_D in enumerate(features_ND)
    ]
    answers = asyncio.run(reader(sizes=(1280, 384)).read_all(samples))
    np.testing.assert_array_equal([answer.features_D for answer in answers], features_ND)
