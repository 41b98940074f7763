"""The Kubernetes objects of deploy/, as kustomize would make them: resources and JSON patches.

Reads no more of kustomize than those files use, and refuses the rest, so nothing is silently left
out.
"""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parent.parent / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
RAY_GROUP = "ray.io/v1"
KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "patches", "configMapGenerator",
    "generatorOptions",
}  # fmt: skip


def load(file):
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def built(folder):
    """All objects of a kustomization, patched."""
    (kustomization,) = load(folder / "kustomization.yaml")
    unknown = set(kustomization) - KNOWN
    assert not unknown, f"{folder}: this test does not know {unknown}"
    objects = []
    for name in kustomization["resources"]:
        place = (folder / name).resolve()
        objects += built(place) if place.is_dir() else copy.deepcopy(load(place))
    for generator in kustomization.get("configMapGenerator", ()):
        data = {name: (folder / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        objects.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        )
    for patch in kustomization.get("patches", ()):
        (target,) = [one for one in objects if is_target(one, patch["target"])]
        (operations,) = load(folder / patch["path"])
        for operation in operations:
            change(target, **operation)
    for one in objects:
        if "namespace" in kustomization and one["kind"] != "Namespace":
            one["metadata"].setdefault("namespace", kustomization["namespace"])
    return objects


def files_of(folder):
    """Every file that a kustomization reads, its own among them."""
    (kustomization,) = load(folder / "kustomization.yaml")
    names = [*kustomization["resources"], *(p["path"] for p in kustomization.get("patches", ()))]
    for generator in kustomization.get("configMapGenerator", ()):
        names += generator["files"]
    found = {folder / "kustomization.yaml"}
    for name in names:
        place = (folder / name).resolve()
        found |= files_of(place) if place.is_dir() else {place}
    return found


def is_target(one, target):
    group, _, version = one["apiVersion"].rpartition("/")
    said = {"group": group, "version": version, "kind": one["kind"], **one["metadata"]}
    return all(said.get(key) == value for key, value in target.items())


def change(tree, op, path, value):
    """One operation of RFC 6902; replacing needs something to replace."""
    *parents, last = path.strip("/").split("/")
    for name in parents:
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    if op == "replace":
        assert last in tree, f"{path}: there is nothing to replace"
    else:
        assert op == "add", op
    tree[last] = value


def of_kind(objects, kind):
    return [one for one in objects if one["kind"] == kind]


def named(objects, kind, name):
    (one,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return one


def clusters(objects):
    """The spec of every Ray cluster, by kind of what makes it."""
    found = {}
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "RayCluster":
            found["RayCluster"] = spec
        elif one["kind"] == "RayService":
            found["RayService"] = spec["rayClusterConfig"]
    return found


def groups(cluster):
    """Head and worker groups of a Ray cluster."""
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pod_templates(objects):
    """Every pod template, with where it is."""
    for one in objects:
        where = f"{one['kind']}/{one['metadata']['name']}"
        spec = one.get("spec", {})
        if one["kind"] in ("StatefulSet", "Deployment"):
            yield where, spec["template"]
        if one["kind"] == "RayJob":
            yield where, spec["submitterPodTemplate"]
    for kind, cluster in clusters(objects).items():
        for group in groups(cluster):
            yield f"{kind}/{group.get('groupName', 'head')}", group["template"]
