"""Ray's objects against KubeRay's own schemas.

The schemas are of KubeRay v1.7.0 and not kept here, since they are 3 MB: name a folder that holds
them in KUBERAY_CRDS (`python tests/kuberay_crds.py FOLDER` fetches them). Without them, what the
manifests use is compared with a list of names.
"""

import os
from pathlib import Path

import jsonschema
import pytest
import yaml
from kuberay_crds import FILES, KINDS
from manifests import DEPLOY, KUBERNETES, RAY_GROUP, built, load

OVERLAYS = ("overlays/cpu", "overlays/gpu", "job")
NAMES = Path(__file__).parent / "data" / "kuberay_names.yaml"


@pytest.fixture(scope="module")
def schemas():
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's schemas")
    found = {}
    for file in FILES:
        (crd,) = load(Path(folder) / file)
        (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
        found[crd["spec"]["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    return found


def closed(schema):
    """The schema without room for names that it does not know, as Kubernetes would prune them."""
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) if key != "properties" else value for key, value in schema.items()}
    if "properties" in schema:
        schema["properties"] = {name: closed(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    return schema


@pytest.fixture(scope="module", params=OVERLAYS)
def rays(request):
    return [one for one in built(KUBERNETES / request.param) if one["apiVersion"] == RAY_GROUP]


def test_rays_objects_are_valid_against_kuberays_schemas(rays, schemas):
    for one in rays:
        schema = dict(schemas[one["kind"]])
        # Kubernetes knows the metadata itself; the schemas leave it open.
        schema["properties"] = schema["properties"] | {"metadata": {"type": "object"}}
        errors = list(jsonschema.Draft202012Validator(schema).iter_errors(one))
        shown = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in errors]
        assert not shown, f"{one['kind']}: {shown}"


def test_a_wrong_name_and_a_wrong_type_would_be_found(schemas):
    (good,) = [one for one in built(KUBERNETES / "overlays/cpu") if one["kind"] == "RayCluster"]
    validator = jsonschema.Draft202012Validator(schemas["RayCluster"]["properties"]["spec"])
    for name, value in (("authOption", {"mode": "token"}), ("authOptions", {"mode": "tokens"})):
        assert list(validator.iter_errors(good["spec"] | {name: value}))


def test_the_list_of_names_is_that_of_the_schemas(schemas):
    listed = yaml.safe_load(NAMES.read_text())
    for kind, paths in listed["names"].items():
        for path in paths:
            schema = schemas[kind]["properties"]["spec"]
            for name in path.split("."):
                schema = schema.get("items", schema)["properties"][name]


def test_the_manifests_use_listed_names_only(rays):
    listed = yaml.safe_load(NAMES.read_text())
    assert listed["source"].startswith("KubeRay v1.7.0")
    for one in rays:
        used = set(paths_of(one["spec"]))
        assert used <= set(listed["names"][one["kind"]]), one["kind"]


# Kubernetes' own types begin here; test_deploy_manifests.py validates those.
FOREIGN = ("template", "submitterPodTemplate", "securityContext", "resources", "valueFrom")
FREE = ("rayStartParams", "clusterSelector", "metadata")


def paths_of(tree, prefix=""):
    """Every name of a tree, with dots, up to where free or foreign ones begin."""
    if isinstance(tree, list):
        for value in tree:
            yield from paths_of(value, prefix)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield prefix + name
            if name not in FOREIGN + FREE:
                yield from paths_of(value, f"{prefix}{name}.")


def test_the_kinds_are_those_that_kuberay_makes():
    used = {one["kind"] for name in OVERLAYS for one in built(KUBERNETES / name)
            if one["apiVersion"] == RAY_GROUP}  # fmt: skip
    assert used == set(KINDS)
    assert "1.7" in (DEPLOY / "README.md").read_text()
