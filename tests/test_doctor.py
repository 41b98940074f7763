"""What the doctor finds on a node, and what it makes of all nodes together. No Ray here."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
from s3_server import S3Server

from selfilter_ray.config import load_config
from selfilter_ray.doctor.finding import failed, note, ok, tried
from selfilter_ray.doctor.models import check_models, fingerprint
from selfilter_ray.doctor.node import check_disk, check_gpus, check_memory, examine_node
from selfilter_ray.doctor.places import (
    check_images,
    check_inputs,
    check_run_dir,
    leave_marker,
    remove_probes,
)
from selfilter_ray.doctor.plan import Plan
from selfilter_ray.doctor.report import Node, as_json, disagreements, from_log, passed, show


@pytest.fixture(scope="module")
def s3():
    server = S3Server()
    server.start()
    server.make_bucket("runs")
    yield server
    server.stop()


@pytest.fixture
def store(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3


def plan_of(run_dir, **settings):
    return Plan.of(load_config({"run_dir": str(run_dir), "data": {"inputs": ["x"]}} | settings))


def node(name, drives=False, **findings):
    return Node(name, "10.0.0.1", drives, {key: f.as_json() for key, f in findings.items()})


def test_a_run_dir_that_is_shared_is_tried_and_left_as_it_was(tmp_path):
    plan = plan_of(tmp_path / "runs" / "new")
    leave_marker(plan)
    assert check_run_dir(plan).state == "ok"
    remove_probes(plan)
    assert not (tmp_path / "runs" / "new").exists()
    (tmp_path / "runs" / "new").mkdir()
    (tmp_path / "runs" / "new" / "manifest.json").write_text("{}")
    leave_marker(plan)
    remove_probes(plan)
    assert [file.name for file in (tmp_path / "runs" / "new").iterdir()] == ["manifest.json"]


def test_two_doctors_at_once_do_not_touch_each_others_probes(tmp_path):
    first, second = plan_of(tmp_path), plan_of(tmp_path)
    leave_marker(first)
    leave_marker(second)
    remove_probes(first)
    assert check_run_dir(second).state == "ok"
    assert check_run_dir(first).state == "failed"
    remove_probes(second)


def test_a_run_dir_that_is_another_folder_on_a_node_fails_and_nothing_is_written(tmp_path):
    plan = plan_of(tmp_path / "mine")
    leave_marker(plan)
    there = replace(plan, run_dir=str(tmp_path / "theirs"))
    finding = check_run_dir(there)
    assert finding.state == "failed"
    assert "not the folder that the driver sees" in finding.text
    assert not (tmp_path / "theirs").exists()


def test_a_run_dir_in_an_object_store(store):
    plan = plan_of("s3://runs/team/demo")
    leave_marker(plan)
    assert check_run_dir(plan) == ok("written, read, listed, removed")
    remove_probes(plan)
    assert "not the folder that the driver sees" in check_run_dir(plan).text


def test_a_store_that_cannot_be_written_is_a_finding_with_a_remedy(store):
    finding = tried(lambda: check_run_dir(plan_of("s3://nowhere/demo")))
    assert finding.state == "failed"
    assert "s3://nowhere" in finding.text
    assert store.env["AWS_SECRET_ACCESS_KEY"] not in finding.text


def test_data_that_only_the_driver_reads_is_a_note_elsewhere(tmp_path, store):
    (tmp_path / "a.json").write_text("[]")
    inputs = [str(tmp_path / "a.json"), str(tmp_path), "s3://runs", "package:easy-vqa/test"]
    plan = plan_of(tmp_path, data={"inputs": inputs})
    assert check_inputs(plan, drives=True) == ok("3 readable")
    plan = plan_of(tmp_path, data={"inputs": [*inputs, str(tmp_path / "b.json"), "s3://runs/b"]})
    finding = check_inputs(plan, drives=True)
    assert finding.state == "failed"
    assert "b.json" in finding.text and "s3://runs/b" in finding.text
    assert check_inputs(plan, drives=False).state == "note"


def test_images_are_read_on_every_node(tmp_path):
    assert check_images(replace(plan_of(tmp_path), image_root=str(tmp_path))).state == "ok"
    missing = replace(plan_of(tmp_path), image_root=str(tmp_path / "none"))
    assert tried(lambda: check_images(missing)).state == "failed"


def test_models_are_a_folder_on_the_node_or_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm" / "config.json").write_text("{}")

    def vlm(path):
        settings = {"vlm": {"kind": "pretrained", "path": str(path)}}
        embedder = {"embedder": {"name": "bundled"}}
        return check_models(plan_of(tmp_path, train=settings, featurize=embedder))

    here = vlm(tmp_path / "vlm")
    assert here.state == "ok"
    assert here.same["files of train.vlm.path"] == fingerprint(tmp_path / "vlm")
    assert "copy it there, or share it" in vlm(tmp_path / "none").text
    assert vlm("org/model").state == "note"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert vlm("org/model").state == "failed"


def test_a_fingerprint_tells_other_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1" * 100)
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"1" * 99 + b"2")
    assert fingerprint(tmp_path) != before


def test_gpus_that_torch_does_not_see_are_a_failure():
    import torch

    count = torch.cuda.device_count()
    assert check_gpus(float(count)).state == "ok"
    assert "torch sees" in check_gpus(count + 1.0).text


def test_memory_and_disk_that_are_short_are_noted(tmp_path):
    assert check_memory({"CPU": 4.0, "memory": float(2**30)}).state == "note"
    assert check_disk(str(tmp_path / "not yet there")).state in ("ok", "note")


def test_a_check_that_breaks_is_a_finding():
    def broken():
        raise RuntimeError("no luck")

    assert tried(broken) == failed("RuntimeError: no luck")


def test_all_checks_of_a_node_are_json_and_a_plan_can_be_sent(tmp_path):
    plan = pickle.loads(pickle.dumps(plan_of(tmp_path)))
    leave_marker(plan)
    found = examine_node(plan, True, {"CPU": 1.0}, str(tmp_path))
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {*("versions", "GPU", "memory", "disk", "compiler"), *PLACES}
    assert found["inputs"]["state"] == "failed"
    assert set(examine_node(Plan(), True, {}, str(tmp_path))).isdisjoint(PLACES)


PLACES = {"run_dir", "inputs", "models"}


def test_nodes_that_disagree_are_named_and_the_cluster_is_not_ready():
    nodes = [node("a", versions=ok("", torch="2.15", ray="2.60"))]
    nodes += [node(name, versions=ok("", torch="2.14", ray="2.60")) for name in "bcdef"]
    assert disagreements(nodes) == ["torch: 2.14 on b, c, d and 2 more; 2.15 on a"]
    assert not passed(nodes)
    assert passed(nodes[1:])


def test_one_failure_is_enough_a_note_is_not_and_no_node_is_none():
    good = node("a", versions=ok(""), disk=note("little"))
    assert passed([good])
    assert not passed([good, node("b", answer=failed("nothing within 5 s"))])
    assert not passed([])


def test_a_report_is_found_in_the_log_of_a_job():
    nodes = [node("a", True, versions=ok("", torch="2.15"))]
    log = f'Running entrypoint\n{{"passed": cut\n{as_json(nodes)}\nbye\n'
    assert from_log(log) == nodes
    assert from_log("Traceback\n") is None


def test_the_table_has_a_line_a_node_and_says_what_is_not_well(capsys):
    nodes = [
        node(
            "a", True, versions=ok("python 3.11", torch="1"), disk=note("temp 3 GiB free: little")
        ),
        node("b", versions=ok("python 3.11", torch="2")),
        node("c", answer=failed("nothing within 5 s: [look] at this node")),
    ]
    show(nodes)
    out = capsys.readouterr().out
    assert "a (10.0.0.1), driver" in out
    assert "a: disk: note: temp 3 GiB free: little" in out
    assert "c: answer: failed: nothing within 5 s: [look] at this node" in out
    assert "nodes disagree on torch: 1 on a; 2 on b" in out
    assert out.endswith("not ready for a run\n")
