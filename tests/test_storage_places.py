"""Places: what is a URI, which are refused, and that no image name leaves its root."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfilter_ray.cli import main
from selfilter_ray.config import parse_config
from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.paths import image_place, inside_uri
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.storage import below, is_uri, local_copy, name_of, shown
from selfilter_ray.storage.places import Uri, plain

SECRET = "s3://key:hush-hush@bucket/run"
ROOT = Uri.of("s3://bucket/images?endpoint_override=http://host:9000")
signs = st.text(st.sampled_from("./%25eE~\\ ?#&=:@a\u00e9\x00\n"), max_size=12)
names = st.text(max_size=30) | signs | st.builds("s3://bucket/images/{}".format, signs)


def config(**changes):
    data = {"inputs": ["pool.json"]} | changes.pop("data", {})
    return parse_config({"run_dir": "runs/a", "data": data, **changes})


@pytest.mark.parametrize("place", ["runs/demo", "/data/pool.json", "package:easy-vqa/train", "a:b"])
def test_local_paths_and_packages_are_no_uris(place):
    assert not is_uri(place)
    assert config(run_dir=place).run_dir == place
    assert (plain(place), shown(place)) == (place, place)


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs://bucket/run", "file:///shared/run"])
def test_known_uris_are_taken_everywhere(place):
    taken = config(run_dir=place, data={"inputs": [place], "image_root": place})
    assert (taken.run_dir, taken.data.inputs, taken.data.image_root) == (place, [place], place)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("ftp://host/run", r"ftp:// is not known.*s3://, gs://, file://"),
        ("s3:///run", "names no bucket"),
        ("file://host/run", "three slashes"),
        (
            "s3://bucket/run?endpont_override=x",
            "unknown option endpont_override.*endpoint_override",
        ),
        ("s3://bucket/run#3", "behind #"),
        (SECRET, "AWS_ACCESS_KEY_ID"),
    ],
)
@pytest.mark.parametrize("key", ["run_dir", "image_root", "inputs"])
def test_a_uri_that_cannot_be_used_is_refused_with_what_to_write(place, message, key):
    value = [place] if key == "inputs" else place
    changes = {"run_dir": value} if key == "run_dir" else {"data": {key: value}}
    with pytest.raises(ConfigError, match=message) as refused:
        config(**changes)
    assert key in str(refused.value)
    assert "hush" not in str(refused.value)


def test_what_is_shown_of_a_uri_holds_neither_password_nor_options():
    assert shown(SECRET + "?region=x") == "s3://bucket/run"
    assert Uri.of("s3://bucket/a%20b?region=x").plain == "s3://bucket/a b"


@given(st.lists(st.text(min_size=1).filter(lambda part: "/" not in part), min_size=1, max_size=4))
def test_every_key_survives_being_written_as_a_uri(parts):
    key = "/".join(parts)
    if any(part in (".", "..") for part in parts):
        return
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    uri = Uri("s3", "bucket", key, (("region", "a b&c"),))
    assert Uri.of(str(uri)) == uri
    assert name_of(str(uri)) == parts[-1]
    assert Uri.of(below(str(uri), "x y%20")).key == f"{key}/x y%20"


@given(names)
def test_no_image_name_leaves_the_root_of_a_uri(name):
    try:
        uri = inside_uri(ROOT, name)
    except BadRow as error:
        assert error.reason in {"image_outside_root", "image_missing"}
        return
    assert (uri.scheme, uri.bucket, uri.options) == (ROOT.scheme, ROOT.bucket, ROOT.options)
    assert uri.key.startswith("images/")
    assert not {"", ".", ".."} & set(uri.key.split("/"))
    assert Uri.of(str(uri)) == uri  # what is opened is what was checked


@pytest.mark.parametrize(
    "name",
    [
        "../other/a.png",
        "a/../../b.png",
        "/etc/passwd",
        "",
        ".",
        "s3://other/images/a.png",
        "s3://bucket/images/../a.png",
        "s3://bucket/images/%2e%2e/a.png",
        "s3://bucket/images/a.png?endpoint_override=http://elsewhere",
        "gs://bucket/images/a.png",
        "file:///etc/passwd",
        "s3://user:password@bucket/images/a.png",
    ],
)
def test_these_leave_the_root(name):
    with pytest.raises(BadRow, match="image_outside_root"):
        inside_uri(ROOT, name)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 2000, "\ud800.png", "a\nb"])
def test_what_no_object_can_be_called_is_missing_and_asks_nobody(name):
    with pytest.raises(BadRow, match="image_missing"):
        inside_uri(ROOT, name)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b.png", "images/a/b.png"),
        ("a/./x/../b.png", "images/a/b.png"),
        ("100%25.png", "images/100%25.png"),
        ("%2e%2e/a.png", "images/%2e%2e/a.png"),
        ("a?b=c.png", "images/a?b=c.png"),
        ("/images/a.png", "images/a.png"),
        ("s3://bucket/images/a%20b.png", "images/a b.png"),
    ],
)
def test_these_lie_below_the_root(name, key):
    assert inside_uri(ROOT, name).key == key
    assert image_place(str(ROOT), name) == str(inside_uri(ROOT, name))


def test_a_local_root_is_as_strict_as_ever(tmp_path):
    assert image_place(tmp_path, "a/b.png") == str(tmp_path / "a" / "b.png")
    with pytest.raises(BadRow, match="image_outside_root"):
        image_place(tmp_path, "../b.png")


def test_commands_and_readers_refuse_such_a_uri_as_a_config_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["selfilter-ray", "validate", "ftp://u:hush@host/pool.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "ftp:// is not known" in told
    assert "hush" not in told
    with pytest.raises(ConfigError, match="is not known"):
        local_copy("ftp://host/run")
