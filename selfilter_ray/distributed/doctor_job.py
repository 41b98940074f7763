"""The doctor of a cluster that only its dashboard can be reached of: as a job there."""

from __future__ import annotations

import secrets

from selfilter_ray.config import Config
from selfilter_ray.distributed.job_client import JobClient
from selfilter_ray.distributed.job_logs import Following
from selfilter_ray.distributed.jobs import Job, say, start, stop
from selfilter_ray.doctor.report import Node, from_log
from selfilter_ray.errors import SelfilterError
from selfilter_ray.submission.outcome import describe
from selfilter_ray.submission.request import JobCommand, Sent

PATIENCE_SECONDS = 60.0
LAST_LINES = 20


def examine_by_job(
    client: JobClient, config: Config | None, timeout: float, sent: Sent, python: str
) -> list[Node]:
    """Check every node from a job on the head, in the environment that a run would have.

    Args:
        timeout: seconds that a node may take.

    Raises:
        SelfilterError: when the job ends without a report; its last lines are in the message.
    """
    arguments = ("--address", "auto", "--json", "--timeout", f"{timeout:g}")
    command = JobCommand("doctor", arguments, python, option="--config")
    job = Job(f"selfilter-doctor-{secrets.token_hex(4)}", command, config, sent)
    start(client, job)
    log: list[str] = []
    try:
        details = Following(client, job.id, log.append, say, PATIENCE_SECONDS).until_end()
    except KeyboardInterrupt:
        stop(client, job.id)
        raise
    found = from_log("".join(log))
    if found is None:
        lines = "".join(log).splitlines()[-LAST_LINES:]
        raise SelfilterError("\n  ".join([f"{describe(job.id, details)}. It said:", *lines]))
    return found
