"""What is checked and put together before a job is sent. No Ray here."""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selfilter_ray.config import load_config, parse_config
from selfilter_ray.errors import ConfigError
from selfilter_ray.submission import options, request
from selfilter_ray.submission.environment import STOP_VARIABLE, runtime_env
from selfilter_ray.submission.listing import as_record
from selfilter_ray.submission.outcome import describe, exit_code, has_ended
from selfilter_ray.submission.places import check_places, remarks
from selfilter_ray.submission.request import CONFIG_FILE, CONFIG_VARIABLE, JobCommand, Sent
from selfilter_ray.submission.working_dir import LIMIT, config_hash, fill, sent_config


def make_config(**settings):
    return load_config({"run_dir": "/shared/run", "data": {"inputs": ["s3://b/a.json"]}} | settings)


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("run_dir", ["runs/a", "./a", "../a", "~/runs"])
def test_a_relative_run_dir_is_refused_with_what_to_write(run_dir):
    with pytest.raises(ConfigError, match=r"run_dir: .* is relative.*s3://bucket/path"):
        check_places(make_config(run_dir=run_dir), None)


@pytest.mark.parametrize("run_dir", ["/shared/a", "s3://bucket/a", "file:///shared/a"])
def test_a_shared_path_and_a_uri_are_taken(run_dir):
    check_places(make_config(run_dir=run_dir), None)


def test_every_wrong_place_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vlm").mkdir()
    config = make_config(
        run_dir="runs/a",
        data={"inputs": ["pool.json", "package:easy-vqa/test"], "image_root": "images"},
        train={"vlm": {"kind": "pretrained", "path": "vlm"}},
    )
    with pytest.raises(ConfigError) as refused:
        check_places(config, None)
    lines = str(refused.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        *("run_dir", "data.inputs", "data.image_root", "train.vlm.path", "tune.vlm.path")
    ]


def test_a_name_on_a_hub_is_no_path():
    check_places(make_config(train={"vlm": {"kind": "pretrained", "path": "org/model"}}), None)


def test_what_is_sent_may_be_named_relatively(tmp_path):
    (tmp_path / "pool.json").write_text("[]")
    config = make_config(data={"inputs": ["pool.json"]})
    check_places(config, tmp_path)
    with pytest.raises(ConfigError, match=r"data\.inputs: \.\./pool\.json is relative"):
        check_places(make_config(data={"inputs": ["../pool.json"]}), tmp_path)


def test_what_cannot_be_known_from_here_is_a_remark():
    said = remarks(make_config(ray={"address": "head:6379"}))
    assert len(said) == 2
    assert remarks(make_config(run_dir="s3://b/run")) == []


def test_the_config_that_arrives_is_the_config_that_was_checked(tmp_path):
    config = make_config(seed=7, select={"method": "el2n", "ratio": 0.2})
    fill(tmp_path, config, None, ())
    assert files_of(tmp_path) == {CONFIG_FILE}
    assert load_config(tmp_path / CONFIG_FILE) == config


def test_a_cluster_of_the_config_is_left_out_and_does_not_change_its_hash():
    config = make_config(ray={"address": "head:6379"})
    assert sent_config(config) == make_config()
    assert config_hash(sent_config(config)) == config_hash(make_config())
    assert config_hash(make_config(seed=1)) != config_hash(make_config())


def test_what_is_private_or_heavy_stays_here(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    sent = ("a.txt", "deep/er/b.py", "deep/keep.txt")
    stays = (
        *(".git/config", ".venv/bin/python", "deep/__pycache__/b.pyc", ".env", ".ssh/id"),
        *("runs/demo/manifest.json", "key.pem", "deep/skip/c.txt", "big.parquet"),
    )
    for name in (*sent, *stays):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (tmp_path / "outside.txt").write_text("outside")
    (source / "link.txt").symlink_to(tmp_path / "outside.txt")
    target.mkdir()
    fill(target, make_config(), source, ("*.parquet", "deep/skip"))
    assert files_of(target) == {*sent, CONFIG_FILE}


def test_too_much_is_refused_before_anything_is_copied(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "data").mkdir(parents=True)
    target.mkdir()
    with open(source / "data" / "pool.parquet", "wb") as file:
        file.truncate(LIMIT + 1)  # sparse
    with pytest.raises(ConfigError, match=r"data 200 MiB.*--exclude"):
        fill(target, make_config(), source, ())
    assert files_of(target) == set()
    fill(target, make_config(), source, ("data",))


def test_a_file_with_the_name_of_the_config_is_not_overwritten(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / CONFIG_FILE).write_text("mine")
    with pytest.raises(ConfigError, match="Rename it"):
        fill(target, make_config(), source, ())
    with pytest.raises(ConfigError, match="is not a folder"):
        fill(target, make_config(), tmp_path / "nowhere", ())


def test_a_file_is_merged_and_what_is_asked_for_wins(tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("pip: [einops]\nenv_vars: {A: 1, B: file}\npy_modules: [s3://b/m.zip]\n")
    sent = Sent(runtime_env=file, variables={"B": "asked"})
    made = runtime_env(sent, Path("/sent"), Path("/package"), make_config())
    assert made == {
        "pip": ["einops"],
        "env_vars": {STOP_VARIABLE: "120", "A": "1", "B": "asked"},
        "py_modules": ["s3://b/m.zip", "/package"],
        "working_dir": "/sent",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("working_dir: .", "Name the folder by --working-dir"),
        ("[1]", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("env_vars: [A]", "env_vars must be a mapping"),
        ("{image_uri: x, pip: [y]}", "with an image Ray sends nothing else: pip"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text, message):
    file = tmp_path / "env.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        runtime_env(Sent(runtime_env=file), tmp_path, None, make_config())


def test_with_an_image_the_config_travels_in_a_variable(tmp_path):
    made = runtime_env(Sent(image="me/selfilter:1"), tmp_path, None, make_config(seed=3))
    assert set(made) == {"image_uri", "env_vars"}
    text = base64.b64decode(made["env_vars"][CONFIG_VARIABLE]).decode()
    assert parse_config(yaml.safe_load(text)) == make_config(seed=3)
    with pytest.raises(ConfigError, match="Put into the image"):
        runtime_env(Sent(image="x", with_package=True), tmp_path, tmp_path, make_config())


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=20), max_size=4))
def test_words_reach_the_command_as_they_are(arguments):
    text = JobCommand("run", arguments).entrypoint(in_variable=False)
    words = ["exec", "python", "-m", "selfilter_ray.cli", "run", CONFIG_FILE, *arguments]
    assert shlex.split(text) == words


def test_a_config_in_a_variable_reaches_the_command_and_so_does_its_exit_code(tmp_path):
    """By a real shell and a real command; what a shell would take apart is in the config."""
    text = "run_dir: x\ndata: {inputs: [a], oops: $HOME `id` 'b'}\n"
    command = JobCommand("select", python=sys.executable)
    variables = {CONFIG_VARIABLE: base64.b64encode(text.encode()).decode()}
    done = subprocess.run(
        ["/bin/sh", "-c", command.entrypoint(in_variable=True)],
        env=variables | {"PATH": "/bin:/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "data.oops: unknown key" in done.stderr


def test_an_option_may_name_the_config_and_there_may_be_none():
    doctor = JobCommand("doctor", ["--json"], "/opt/python", option="--config")
    program = "exec /opt/python -m selfilter_ray.cli doctor"
    assert doctor.entrypoint(False) == f"{program} --config {CONFIG_FILE} --json"
    assert doctor.entrypoint(False, with_config=False) == f"{program} --json"


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", fullmatch=True))
def test_ids_that_may_stand_in_a_url_are_taken(id):
    assert request.job_id(id, "run") == id


@pytest.mark.parametrize("id", ["", "a/b", "../a", "a b", "-a", "a" * 101, "a\n", "a?b", "\u00e4"])
def test_other_ids_are_refused(id):
    with pytest.raises(ConfigError):
        request.job_id(id, "run")


def test_an_id_is_made_up_where_none_is_given():
    made = {request.job_id(None, "compare") for _ in range(20)}
    assert len(made) == 20
    assert all(re.fullmatch(r"selfilter-compare-[0-9a-f]{8}", id) for id in made)


@given(st.text(max_size=30))
def test_any_text_is_memory_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        assert options.memory(text) > 0


@pytest.mark.parametrize(
    ("text", "bytes"), [("8GiB", 8 * 2**30), ("1.5G", 3 * 2**29), ("7", 7), ("2 MB", 2**21)]
)
def test_memory_is_read_in_powers_of_two(text, bytes):
    assert options.memory(text) == bytes


def test_places_of_the_first_process():
    given = ["big=1", "disk=0.5", "ray.io/accelerator-type:H200", "zone:a"]
    assert options.place(given) == (
        {"big": 1.0, "disk": 0.5},
        {"ray.io/accelerator-type": "H200", "zone": "a"},
    )
    for wrong in ("big", "=1", "big=x", ":a", "zone:", "a:b=c"):
        with pytest.raises(ConfigError):
            options.place([wrong])


def test_variables_take_their_value_from_here_and_no_message_holds_one():
    here = {"HF_TOKEN": "secret"}
    assert options.variables(["HF_TOKEN", "A=b=c", "E="], here) == {
        "HF_TOKEN": "secret",
        "A": "b=c",
        "E": "",
    }
    with pytest.raises(ConfigError, match="AWS_KEY: it is not set here"):
        options.variables(["AWS_KEY"], here)
    with pytest.raises(ConfigError) as refused:
        options.variables(["se cret=password"], here)
    assert "password" not in str(refused.value)


@given(st.text(max_size=40))
def test_any_text_is_a_header_or_a_config_error_without_its_value(text):
    try:
        for name, value in options.headers([text]).items():
            assert not set("\r\n\0: ") & set(name)
            assert not set("\r\n\0") & set(value)
    except ConfigError as error:
        value = text.partition(":")[2].strip()
        assert len(value) < 12 or value not in str(error)


def test_secrets_are_not_part_of_what_is_printed():
    from selfilter_ray.distributed.job_client import Server

    assert "secret" not in repr(Server("http://h", {"X-Key": "secret"}))
    assert "secret" not in repr(Sent(variables={"K": "secret"}))


def job(status, code=None, message=None, error=None):
    return SimpleNamespace(
        submission_id="j", status=SimpleNamespace(value=status), driver_exit_code=code,
        error_type=error,
        message=message, start_time=1_000, end_time=3_500, entrypoint="exec x",
        metadata=None, runtime_env={"env_vars": {"K": "secret"}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (job("SUCCEEDED", 0), 0),
        (job("FAILED", 2), 2),
        (job("FAILED", 3), 3),
        (job("FAILED", 1), 1),
        (job("FAILED", 127), 1),
        (job("FAILED", -9), 1),
        (job("FAILED", None, "runtime_env setup failed"), 1),
        (job("STOPPED"), 1),
    ],
)
def test_the_exit_code_is_the_commands_own_or_1(ended, code):
    assert exit_code(ended) == code
    assert has_ended(ended)
    assert as_record(ended)["exit_code"] == code


def test_a_job_that_runs_has_no_exit_code():
    record = as_record(job("RUNNING"))
    assert record["exit_code"] is None and record["seconds"] == 2.5
    assert "secret" not in str(record)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (job("FAILED", 1, "...\nNo module named 'selfilter_ray'\n"), "--with-package"),
        (job("FAILED", 1, "No module named selfilter_ray.cli"), "--with-package"),
        (job("FAILED", 127, "python: not found"), "--python"),
        (job("FAILED", -9), "ended by signal 9; the same command continues"),
        (job("FAILED", None, "pip failed"), "did not start: pip failed"),
        (job("FAILED", None, "gone", "JOB_SUPERVISOR_ACTOR_DIED"), "lost (gone); the same command"),
        (job("STOPPED"), "job j: stopped"),
    ],
)
def test_what_is_said_names_a_remedy_where_one_is_known(ended, said):
    assert said in describe("j", ended)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head:8265", "http://head:8265"),
        ("https://ray.example/team/", "https://ray.example/team"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses(address, url, monkeypatch):
    from selfilter_ray.distributed.job_client import Server

    monkeypatch.setenv("RAY_ADDRESS", "http://other:1")
    assert Server(address).url == url
    assert Server(None).url == "http://other:1"


@pytest.mark.parametrize(
    "address", ["", "auto", "ray://head:10001", "http://", "http://me:pass-word@head:8265"]
)
def test_other_addresses_are_refused(address, monkeypatch):
    from selfilter_ray.distributed.job_client import Server

    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as refused:
        _ = Server(address).url
    assert "pass-word" not in str(refused.value)


def test_versions_are_compared_before_anything_is_sent():
    from selfilter_ray.distributed.job_client import check_versions

    here = {"ray": "2.60.0", "python": "3.11.7"}
    assert check_versions(here | {"ray": "2.60.1"}, here, True) == ""
    assert check_versions({}, here, True) == ""
    assert "3.12.1" in check_versions(here | {"python": "3.12.1"}, here, True)
    assert "3.10.2" in check_versions(here | {"python": "3.10.2"}, here, False)
    with pytest.raises(ConfigError, match=r"3\.11 or newer"):
        check_versions(here | {"python": "3.10.2"}, here, True)
    with pytest.raises(ConfigError, match=r"the cluster has Ray 2\.9\.3, here it is 2\.60\.0"):
        check_versions(here | {"ray": "2.9.3"}, here, False)
