"""The Kubernetes manifests: each is valid, used, closed by default, and agrees with the others."""

import json

import pytest
import yaml
from manifests import (
    KUBERNETES,
    RAY_GROUP,
    built,
    clusters,
    files_of,
    groups,
    load,
    named,
    of_kind,
    pod_templates,
)

from selfilter_ray.config import load_config
from selfilter_ray.service.config import parse_service_config
from selfilter_ray.service.distributed import application

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="needs kubernetes-validate (extra dev)"
)

OVERLAYS = ("overlays/cpu", "overlays/gpu")
ALL = (*OVERLAYS, "job")
VERSION = "1.34"
TOKEN = {"mode": "token", "secretName": "selfilter-token"}


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return built(KUBERNETES / request.param)


@pytest.fixture(scope="module", params=ALL)
def objects(request):
    return built(KUBERNETES / request.param)


@pytest.fixture(scope="module")
def everything():
    return built(KUBERNETES / "overlays/cpu") + built(KUBERNETES / "job")


def test_every_file_is_used_by_a_kustomization():
    used = set().union(*(files_of(KUBERNETES / name) for name in ALL))
    there = {file for file in KUBERNETES.rglob("*.yaml") if "template" not in file.name}
    assert used == there


def test_every_object_of_kubernetes_is_valid_in_the_strict_sense(objects):
    own = [one for one in objects if one["apiVersion"] != RAY_GROUP]
    for one in own:
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_every_pod_template_is_valid_inside_of_rays_objects_too(objects):
    for where, template in pod_templates(objects):
        metadata = {"name": "pod", **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        try:
            kubernetes_validate.validate(json.loads(json.dumps(pod)), VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{where}: {error}")


def test_no_two_objects_have_the_same_name(objects):
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    # KubeRay makes services from these names: NAME-head-svc, NAME-serve-svc.
    rays = [name for kind, name in names if kind.startswith("Ray")]
    assert len(rays) == len(set(rays))


def test_the_token_is_on_in_every_ray_cluster_and_for_the_submitter(everything):
    assert set(clusters(everything)) == {"RayCluster", "RayService"}
    for cluster in clusters(everything).values():
        assert cluster["authOptions"] == TOKEN
        assert cluster["rayVersion"] == "2.60.0"
    (job,) = of_kind(everything, "RayJob")
    (submitter,) = job["spec"]["submitterPodTemplate"]["spec"]["containers"]
    environment = {variable["name"]: variable for variable in submitter["env"]}
    assert environment["RAY_AUTH_MODE"]["value"] == "token"
    secret = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": TOKEN["secretName"], "key": "auth_token"}


def test_every_pod_is_unprivileged_and_writes_to_volumes_only(objects):
    for where, template in pod_templates(objects):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, where
            assert own["readOnlyRootFilesystem"] is True, where
            assert own["capabilities"] == {"drop": ["ALL"]}, where
        mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
        assert mounted >= {volume["name"] for volume in spec.get("volumes", ())}, where


def test_the_autoscalers_sidecar_is_unprivileged_too(overlay):
    for cluster in clusters(overlay).values():
        own = cluster["autoscalerOptions"]["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_only_the_heads_whose_autoscaler_needs_it_have_an_account_of_kubernetes(objects):
    for where, template in pod_templates(objects):
        expected = None if where.endswith("/head") else False
        assert template["spec"].get("automountServiceAccountToken") is expected, where


def test_every_container_says_what_it_needs_and_what_it_may_take(objects):
    for where, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), where
            assert "memory" in resources["limits"], where


def test_images_are_pinned_by_a_version(objects):
    images = {c["image"] for _, t in pod_templates(objects) for c in t["spec"]["containers"]}
    for image in images:
        _, colon, tag = image.rpartition(":")
        assert colon and any(digit.isdigit() for digit in tag), image


def test_everything_that_runs_long_has_probes(everything):
    for where, template in pod_templates(everything):
        if where.startswith("RayJob"):
            continue
        (container,) = template["spec"]["containers"]
        assert {"readinessProbe", "livenessProbe"} <= set(container), where


def test_a_gpu_overlay_gives_gpus_to_workers_and_not_to_heads():
    objects = built(KUBERNETES / "overlays/gpu")
    for cluster in clusters(objects).values():
        for group in groups(cluster):
            (container,) = group["template"]["spec"]["containers"]
            wants = container["resources"]["limits"].get("nvidia.com/gpu")
            assert wants == ("1" if "groupName" in group else None)
            assert container["image"].endswith("-gpu")


def test_no_secret_has_a_value_and_each_that_is_named_has_a_template(everything):
    template = load(KUBERNETES / "secrets.template.yaml")
    assert not any(key in one for one in template for key in ("data", "stringData"))
    assert not of_kind(everything, "Secret")
    assert set(secret_names(everything)) == {one["metadata"]["name"] for one in template}


def secret_names(tree):
    """Of every reference to a secret, wherever it is."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("secretKeyRef", "secretRef"):
                yield value["name"]
            elif key == "secretName":
                yield value
            else:
                yield from secret_names(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from secret_names(value)


def test_make_secrets_makes_those_secrets_with_those_keys(everything):
    script = (KUBERNETES / "make_secrets.sh").read_text()
    for name in set(secret_names(everything)):
        assert f"make_secret {name} " in script
    for key in ("auth_token=", "password=", "keys="):
        assert f"--from-file={key}" in script


def test_the_heads_memory_of_the_cluster_is_in_redis_with_a_password(overlay):
    service = named(overlay, "Service", "selfilter-redis")
    (port,) = service["spec"]["ports"]
    for cluster in clusters(overlay).values():
        options = cluster["gcsFaultToleranceOptions"]
        assert options["redisAddress"] == f"selfilter-redis:{port['port']}"
        assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "selfilter-redis"


def serve_config(objects):
    (service,) = of_kind(objects, "RayService")
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def test_the_served_config_is_one_that_the_service_takes(overlay):
    from ray.serve.schema import ServeDeploySchema

    tree = serve_config(overlay)
    ServeDeploySchema.model_validate(tree)
    (app,) = tree["applications"]
    module, _, name = app["import_path"].partition(":")
    assert module == application.__name__ and callable(getattr(application, name))
    config = parse_service_config(app["args"])
    assert config.is_postgresql
    assert config.ingress >= 2


def test_the_state_is_in_the_database_that_is_deployed(overlay):
    from sqlalchemy.engine import make_url

    (app,) = serve_config(overlay)["applications"]
    url = make_url(app["args"]["state"])
    service = named(overlay, "Service", "selfilter-postgresql")
    assert (url.host, url.port) == ("selfilter-postgresql", service["spec"]["ports"][0]["port"])
    assert url.password is None
    (database,) = [
        c for w, t in pod_templates(overlay) if w == "StatefulSet/selfilter-postgresql"
        for c in t["spec"]["containers"]
    ]  # fmt: skip
    environment = {variable["name"]: variable.get("value") for variable in database["env"]}
    assert (url.username, url.database) == (
        environment["POSTGRES_USER"],
        environment["POSTGRES_DB"],
    )


def test_every_node_of_the_service_has_keys_and_the_databases_password(overlay):
    for group in groups(clusters(overlay)["RayService"]):
        (container,) = group["template"]["spec"]["containers"]
        named = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container["env"]
                 if "valueFrom" in v}  # fmt: skip
        assert set(named) == {"SELFILTER_KEYS", "PGPASSWORD"}
        assert not any(reference.get("optional") for reference in named.values())


def test_serving_replicas_are_several_spread_and_drained(overlay):
    cluster = clusters(overlay)["RayService"]
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert 2 <= workers["minReplicas"] < workers["maxReplicas"]
    spec = workers["template"]["spec"]
    assert spec["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
    seconds = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > seconds + application.GRACE_SECONDS / 2


def test_disruption_budgets_choose_pods_that_are_there(overlay):
    labels = [t["metadata"]["labels"] for _, t in pod_templates(overlay)]
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert len(budgets) == 2
    for budget in budgets:
        chosen = budget["spec"]["selector"]["matchLabels"]
        assert any(chosen.items() <= one.items() for one in labels)


def test_the_run_of_the_job_is_a_config_of_the_pipeline(everything):
    config_map = named(everything, "ConfigMap", "selfilter-pipeline")
    tree = yaml.safe_load(config_map["data"]["pipeline.yaml"])
    config = load_config(tree)
    (job,) = of_kind(everything, "RayJob")
    assert job["spec"]["entrypoint"] == "selfilter-ray run /etc/selfilter/pipeline.yaml"
    cluster = named(everything, "RayCluster", job["spec"]["clusterSelector"]["ray.io/cluster"])
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = [one for one in head["volumes"] if "configMap" in one]
    assert volume["configMap"]["name"] == "selfilter-pipeline"
    (mount,) = [m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
    assert mount["mountPath"] == "/etc/selfilter"
    # Nothing is shared but the object store.
    assert str(tree["run_dir"]).startswith("s3://")
    assert config.train.workers <= cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"]


def test_the_job_runs_what_the_service_serves(everything):
    tree = yaml.safe_load(
        named(everything, "ConfigMap", "selfilter-pipeline")["data"]["pipeline.yaml"]
    )
    (app,) = serve_config(everything)["applications"]
    assert app["args"]["run_dir"] == tree["run_dir"]
