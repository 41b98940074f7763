"""How a job ended, in words and as an exit code."""

from __future__ import annotations

from typing import Protocol

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# The first process had started; of other errors without an exit code it had not.
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")
_MISSING_PACKAGE = "No module named selfilter_ray"


class Details(Protocol):
    """What Ray says of a job."""

    @property
    def status(self) -> str: ...
    @property
    def message(self) -> str | None: ...
    @property
    def error_type(self) -> str | None: ...
    @property
    def driver_exit_code(self) -> int | None: ...


def has_ended(job: Details) -> bool:
    return status_of(job) in ENDED


def status_of(job: Details) -> str:
    """Such as ``RUNNING``, however Ray represents it."""
    return str(getattr(job.status, "value", job.status))


def exit_code(job: Details) -> int:
    """Of the command in the job where it has one of ours (0, 1, 2, 3), else 1."""
    if status_of(job) == "SUCCEEDED":
        return 0
    return job.driver_exit_code if job.driver_exit_code in (1, 2, 3) else 1


def describe(name: str, job: Details) -> str:
    """One line, and what to do where that is known."""
    status, code = status_of(job), job.driver_exit_code
    if status != "FAILED":
        return f"job {name}: {status.lower()}"
    message = job.message or ""
    if code is None:
        reason = message.strip()[:2000] or "no reason given"
        if job.error_type in LOST:
            return f"job {name}: its node was lost ({reason}); the same command continues"
        return f"job {name}: it did not start: {reason}"
    if code < 0:
        return f"job {name}: its process was ended by signal {-code}; the same command continues"
    if _MISSING_PACKAGE in message.replace("'", ""):
        return (
            f"job {name}: the cluster has no selfilter_ray: send it with --with-package, or use an "
            "image that holds it"
        )
    if code == 127:
        return f"job {name}: the cluster has no such interpreter: name it with --python"
    return f"job {name}: failed with exit code {code}"
