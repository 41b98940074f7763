"""This machine: try what a run will need, and say what is missing and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from selfilter_ray import provenance
from selfilter_ray.config import RayConfig
from selfilter_ray.doctor.node import NO_COMPILER, find_compiler


def examine() -> bool:
    """Print a table of checks; True when everything that a run needs works."""
    console = Console(highlight=False)
    for name, version in provenance.versions().items():
        console.print(f"{name} {version}")
    table = Table(title="Checks", title_justify="left")
    for column in ("check", "result"):
        table.add_column(column)
    passed = True
    for name, check in CHECKS.items():
        try:
            table.add_row(name, check())
        except Exception as error:  # whatever is wrong is what the user wants to read
            passed = False
            table.add_row(name, f"[red]failed[/red]: {type(error).__name__}: {error}")
    console.print(table)
    return passed


def _machine() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(".").free
    memory = pages * size
    return f"{os.cpu_count()} cores, {memory / 2**30:.0f} GiB memory, {free / 2**30:.0f} GiB disk"


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(names) or "none: everything runs on the CPU"


def _compiler() -> str:
    return find_compiler() or NO_COMPILER


def _deepspeed() -> str:
    from selfilter_ray.stage1.engine import prepare_accelerator

    prepare_accelerator()
    from deepspeed.accelerator import get_accelerator

    return str(get_accelerator().device_name())


def _embedder() -> str:
    from selfilter_ray.config import BundledConfig
    from selfilter_ray.errors import ConfigError
    from selfilter_ray.features.embedder import build_embedder

    try:
        build_embedder(BundledConfig())
    except ConfigError as error:
        return f"not here ({error})"
    return "works"


def _ray() -> str:
    from selfilter_ray.distributed.runtime import connected, describe

    with connected(RayConfig()):
        return describe()


CHECKS: dict[str, Callable[[], str]] = {
    "machine": _machine,
    "GPU": _gpus,
    "compiler": _compiler,
    "DeepSpeed": _deepspeed,
    "bundled embedder": _embedder,
    "Ray": _ray,
}
