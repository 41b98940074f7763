"""Who may import what: the algorithms know nothing of Ray, and the command line starts at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import selfilter_ray

PACKAGE = Path(selfilter_ray.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ALGORITHMS = (
    "selfilter_ray.select.diverse",
    "selfilter_ray.select.registry",
    "selfilter_ray.select.neighbours.sharded",
    "selfilter_ray.compare.comparison",
    "selfilter_ray.measure.measurer",
    "selfilter_ray.scorers.image_reward.rater",
    "selfilter_ray.scorers.judge.run",
    "selfilter_ray.known",
    "selfilter_ray.known_truth.write",
    "selfilter_ray.evaluate.evaluation",
    "selfilter_ray.evaluate.export",
    "selfilter_ray.storage",
    "selfilter_ray.storage.courier",
    "selfilter_ray.storage.shared",
    "selfilter_ray.samples.inputs",
    "selfilter_ray.submission.environment",
    "selfilter_ray.submission.places",
    "selfilter_ray.doctor.node",
    "selfilter_ray.doctor.report",
    "selfilter_ray.telemetry.run",
    "selfilter_ray.telemetry.shards",
    "selfilter_ray.telemetry.stage",
    "selfilter_ray.telemetry.tracing",
    "selfilter_ray.telemetry.training",
    "selfilter_ray.online.selector",
    "selfilter_ray.service.incoming.reader",
    "selfilter_ray.service.scoring",
    "selfilter_ray.service.state.writer",
    "selfilter_ray.service.writer_loop",
    "selfilter_ray.measuring",
    "selfilter_ray.training",
    "selfilter_ray.tuning",
    "selfilter_ray.stage1_run",
    "selfilter_ray.stage1.stored",
    "selfilter_ray.stage1.trainer",
    "selfilter_ray.stage1.prepare",
    "selfilter_ray.stage1.summary",
    "selfilter_ray.scoring",
    "selfilter_ray.features.extract",
    "selfilter_ray.features.shards",
    "selfilter_ray.samples.pool",
    "selfilter_ray.selected",
    "selfilter_ray.scorer",
    "selfilter_ray.report",
)
STAGE_COMMANDS = ("run", "featurize", "train", "score", "select", "report", "compare")
COMMANDS = {*STAGE_COMMANDS, "validate", "doctor", "serve", "ingest", "submit", "jobs"}


def imported(file: Path) -> set[str]:
    """Top-level names of the packages that a module imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python(
        f"import sys; sys.argv[1:] = {list(arguments)!r}\n"
        "from selfilter_ray.cli import main\nmain()"
    )


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_the_distributed_layer_imports_ray(file):
    names = imported(file)
    if file.parent.name != "distributed":
        assert "ray" not in names


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_the_http_interface_imports_a_web_framework(file):
    if file.parent.name not in {"http", "distributed"}:
        assert not {"fastapi", "starlette", "uvicorn"} & imported(file)


def test_the_distributed_layer_is_what_uses_ray():
    assert any("ray" in imported(file) for file in MODULES if file.parent.name == "distributed")


def test_algorithms_import_on_a_machine_without_ray():
    lines = "\n".join(f"import {name}" for name in ALGORITHMS)
    result = python(f"import sys\nsys.modules['ray'] = None\n{lines}")
    assert result.returncode == 0, result.stderr


def test_the_command_line_imports_neither_torch_nor_ray_nor_numpy():
    result = python(
        "import sys, selfilter_ray, selfilter_ray.cli\n"
        "print(*sorted({'torch', 'ray', 'numpy', 'pyarrow', 'transformers'} & set(sys.modules)))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def test_help_lists_every_command():
    result = command("--help")
    assert result.returncode == 0
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert listed >= COMMANDS


def test_version_and_no_command_exit_as_promised():
    version = command("--version")
    assert (version.returncode, version.stdout) == (
        0,
        f"selfilter-ray {selfilter_ray.__version__}\n",
    )
    assert command().returncode == 2


def test_a_wrong_config_is_one_message_and_exit_code_2(tmp_path):
    (tmp_path / "run.yaml").write_text("run_dir: x\ndata: {inputs: [a], imagee_root: b}\n")
    result = command("run", str(tmp_path / "run.yaml"))
    assert result.returncode == 2
    assert "Did you mean image_root?" in result.stderr
    assert "Traceback" not in result.stderr
