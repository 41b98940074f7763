"""The config of the service comes from a run folder, a YAML file, or a config file of Ray Serve."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.config import load_service_config, parse_service_config
from selfilter_ray.service.distributed.command import serve_until_stopped

DELIVERED = Path(__file__).parents[1] / "configs" / "serve.yaml"


def test_a_folder_is_served_with_the_defaults(tmp_path):
    config = load_service_config(tmp_path)
    assert config == parse_service_config({"run_dir": str(tmp_path)})
    assert config.state_folder == tmp_path / "online"
    assert config.snapshots_place == str(tmp_path / "online" / "snapshots")


def test_overrides_and_the_environment_reach_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE", "postgresql://user@host/name")
    file = tmp_path / "service.yaml"
    file.write_text("run_dir: r\nstate: ${DATABASE}\nonline: {rate: 0.5}\n")
    config = load_service_config(file, ["online.rate=0.25", "limits.queue=3"])
    assert (config.online.rate, config.limits.queue) == (0.25, 3)
    assert config.is_postgresql and config.state_folder == Path("r").resolve() / "online"


def test_the_delivered_serve_file_names_an_application_that_is_there():
    config = load_service_config(DELIVERED)
    assert config.ingress == 2
    application = yaml.safe_load(DELIVERED.read_text())["applications"][0]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_folders_become_absolute_for_replicas_work_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {
        "run_dir": "run",
        "state": "state",
        "snapshot_dir": "snapshots",
        "images": {"root": "images"},
        "keys": {"file": "keys"},
    }
    config = parse_service_config(tree)
    found = (config.run_dir, config.state, config.snapshot_dir, config.images.root)
    assert found == tuple(str(tmp_path / name) for name in ("run", "state", "snapshots", "images"))
    assert config.keys.file == str(tmp_path / "keys")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run_dir: r\nonlin: {rate: 0.1}\n", "Did you mean online?"),
        ("run_dir: r\nonline: {rate: 2}\n", "online.rate"),
        ("run_dir: r\nonline: {budget: 5}\nsearch: faiss\n", "take exact with a budget"),
        ("run_dir: r\nscorer: {least: 3, most: 2}\n", "least must not be more than most"),
        ("state: s\n", "run_dir: missing"),
        ("applications: []\n", "no args with a run_dir"),
        ("applications: [{name: a}]\n", "no args with a run_dir"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    file = tmp_path / "service.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        load_service_config(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_without_keys_it_listens_to_nobody_else(tmp_path, monkeypatch, host):
    monkeypatch.delenv("SELFILTER_KEYS", raising=False)
    config = load_service_config(tmp_path, [f"host='{host}'"])
    with pytest.raises(ConfigError, match="no keys are configured"):
        serve_until_stopped(config, None, haproxy=False)
