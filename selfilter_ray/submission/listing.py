"""Jobs as a person or a program reads them. Runtime environments may hold secrets: left out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from selfilter_ray.submission.outcome import exit_code, has_ended, status_of

WIDTH = 160  # where the terminal does not say


def as_table(jobs: Iterable[Any]) -> None:
    """Print one line a job."""
    table = Table(title="Jobs", title_justify="left")
    for column in ("job", "status", "exit code", "started (UTC)", "seconds", "run"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        record = as_record(job)
        seconds, code = record["seconds"], record["exit_code"]
        table.add_row(
            record["job"],
            record["status"],
            "" if code is None else str(code),
            record["started"] or "",
            "" if seconds is None else f"{seconds:,.0f}",
            record["metadata"].get("selfilter_run", ""),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(table)


def as_record(job: Any) -> dict[str, Any]:
    """What Ray says of a job, in our terms; ``exit_code`` is null until it has ended."""
    started, ended = job.start_time, job.end_time
    return {
        "job": job.submission_id,
        "status": status_of(job),
        "exit_code": exit_code(job) if has_ended(job) else None,
        "message": (job.message or "").splitlines()[0][:500] if job.message else None,
        "started": _utc(started),
        "ended": _utc(ended),
        "seconds": (ended - started) / 1000 if started and ended else None,
        "command": job.entrypoint,
        "metadata": dict(job.metadata or {}),
    }


def _utc(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
