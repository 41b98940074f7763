"""Stored results: what was measured, by which command, when and on what machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfilter_ray import atomic, provenance

RESULTS = Path(__file__).parent / "results"


def store_result(
    name: str, measured: dict[str, Any], variant: str | None = None, command: str | None = None
) -> Path:
    """Write ``results/<variant or name>.json`` and print it.

    ``command``: of what is no benchmark.
    """
    path = RESULTS / f"{variant or name}.json"
    command = command or " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    result = {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": provenance.versions(),
        "measured": measured,
    }
    atomic.write_json(path, result)
    print(path.read_text())
    return path


def machine() -> str:
    """Cores, memory, processor and GPUs in words."""
    import torch

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {_processor()}, {', '.join(gpus) or 'no GPU'}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that gets its name when it is complete, in place of what has that name."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
