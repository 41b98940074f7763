"""All checks of one node. Runs on the node; knows nothing of Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from selfilter_ray import provenance
from selfilter_ray.doctor.finding import Finding, failed, note, ok, tried
from selfilter_ray.doctor.models import check_models
from selfilter_ray.doctor.places import check_images, check_inputs, check_run_dir
from selfilter_ray.doctor.plan import Plan
from selfilter_ray.storage.copies import cache_folder

GIB = 2**30
LITTLE_DISK, NO_DISK = 20 * GIB, GIB
LITTLE_MEMORY = 4 * GIB
DRIVER_SECONDS = 20


def examine_node(
    plan: Plan, drives: bool, offered: Mapping[str, float], temp: str
) -> dict[str, Any]:
    """Findings by check, as JSON.

    Args:
        drives: the driver runs on this node.
        offered: what the cluster offers on it: ``CPU``, ``GPU``, and ``memory`` in bytes.
        temp: folder of the cluster's session on this node.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "versions": check_versions,
        "GPU": partial(check_gpus, offered.get("GPU", 0.0)),
        "memory": partial(check_memory, offered),
        "disk": partial(check_disk, temp),
        "compiler": check_compiler,
    }
    if plan.run_dir is not None:
        checks["run_dir"] = partial(check_run_dir, plan)
        checks["inputs"] = partial(check_inputs, plan, drives)
        checks["models"] = partial(check_models, plan)
    if plan.image_root is not None:
        checks["images"] = partial(check_images, plan)
    return {name: tried(check).as_json() for name, check in checks.items()}


def check_versions() -> Finding:
    """Of what decides a result: all nodes must have the same."""
    found = provenance.versions()
    shown = ("python", "ray", "torch")
    text = ", ".join(f"{name} {found.get(name, 'missing')}" for name in shown)
    missing = [name for name in ("torch", "transformers", "deepspeed") if name not in found]
    if missing:
        return failed(f"{', '.join(missing)} missing: install selfilter-ray here", **found)
    return ok(text, **found)


def check_gpus(offered: float) -> Finding:
    """Names and memory, and a small product on each, compared with the CPU's."""
    import torch

    count = torch.cuda.device_count()
    if count < offered:
        return failed(
            f"the cluster offers {offered:g} GPUs here, torch sees {count}: check the driver "
            f"({_driver() or 'nvidia-smi does not answer'}) and that torch is built for CUDA"
        )
    if count == 0:
        return ok("none")
    names = []
    for number in range(count):
        _multiply(f"cuda:{number}")
        memory = torch.cuda.get_device_properties(number).total_memory
        names.append(f"{torch.cuda.get_device_name(number)} {memory / GIB:.0f} GiB")
    kinds = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return ok(", ".join(kinds), **{"CUDA driver": _driver() or "unknown"})


def _multiply(device: str) -> None:
    import torch

    left = torch.arange(256 * 256, dtype=torch.float32).reshape(256, 256) / 65536
    error = (left.to(device) @ left.to(device)).cpu() - left @ left
    # TF32 keeps 10 bits of each factor; sums of 256 stay well within this.
    if not bool(error.abs().max() < 0.5):
        raise RuntimeError(f"{device} computes wrong products: take the node out of the cluster")


def _driver() -> str:
    """Version of the CUDA driver; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else ""


def check_memory(offered: Mapping[str, float]) -> Finding:
    """What the cluster may use, which in a container is less than what the machine has."""
    free = _available()
    for_ray, cpus = offered.get("memory", 0.0), offered.get("CPU", 0.0)
    text = f"{cpus:g} CPUs, {for_ray / GIB:.0f} GiB for Ray, {free / GIB:.0f} free"
    return note(f"{text}: little") if min(free, for_ray) < LITTLE_MEMORY else ok(text)


def _available() -> int:
    """Bytes of memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def check_disk(temp: str) -> Finding:
    """Free space of the folders that a run writes to on every node."""
    folders = {"temp": tempfile.gettempdir(), "Ray": temp, "cache": str(cache_folder())}
    free = {name: _free(folder) for name, folder in folders.items()}
    text = ", ".join(f"{name} {size / GIB:.0f}" for name, size in free.items()) + " GiB free"
    for name, size in free.items():
        if size < NO_DISK:
            return failed(f"{text}: {folders[name]} is full, make room")
        if not os.access(_existing(folders[name]), os.W_OK):
            return failed(f"{folders[name]} cannot be written by user {os.getuid()}")
    if min(free.values()) < LITTLE_DISK:
        return note(f"{text}: little")
    return ok(text)


def _free(folder: str) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: str) -> str:
    """The folder, or where it would be made."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return str(path)


NO_COMPILER = "no g++: install it before train.deepspeed offloads the optimizer to the CPU"


def check_compiler() -> Finding:
    """DeepSpeed compiles an optimizer that is offloaded to the CPU, on first use."""
    compiler = find_compiler()
    return note(NO_COMPILER) if compiler is None else ok(compiler)


def find_compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++")
