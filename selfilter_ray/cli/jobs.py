"""``jobs``: the jobs of a cluster, and one of them looked at, followed or stopped."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from selfilter_ray.cli.app import app
from selfilter_ray.cli.job_options import Address, Headers, Patience, Verify, job_client

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]

jobs = typer.Typer(
    help="Jobs of a cluster: list, status, logs, stop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@jobs.command("list")
def list_jobs(address: Address = None, header: Headers = None, verify: Verify = "yes") -> None:
    """Jobs of the cluster, the newest first."""
    client = job_client(address, header, verify)
    from selfilter_ray.distributed.jobs import all_jobs
    from selfilter_ray.submission.listing import as_table

    as_table(all_jobs(client))


@jobs.command("status")
def job_status(
    job: JobId, address: Address = None, header: Headers = None, verify: Verify = "yes"
) -> None:
    """What the cluster knows of a job, as JSON."""
    client = job_client(address, header, verify)
    from selfilter_ray.distributed.job_logs import job_details
    from selfilter_ray.submission.listing import as_record

    print(json.dumps(as_record(job_details(client, job)), indent=2))


@jobs.command("logs")
def job_logs(
    job: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="To the job's end.")] = False,
    patience: Patience = 600.0,
    header: Headers = None,
    verify: Verify = "yes",
) -> None:
    """What a job has printed; with --follow, exits with the job's exit code."""
    client = job_client(address, header, verify)
    if follow:
        from selfilter_ray.distributed.jobs import Watch
        from selfilter_ray.distributed.jobs import follow as follow_job

        raise typer.Exit(follow_job(client, job, Watch(patience)))
    from selfilter_ray.distributed.job_logs import job_log

    sys.stdout.write(job_log(client, job))


@jobs.command("stop")
def stop_job(
    job: JobId, address: Address = None, header: Headers = None, verify: Verify = "yes"
) -> None:
    """Ask a job to stop; a training writes a checkpoint first."""
    client = job_client(address, header, verify)
    from selfilter_ray.distributed.jobs import say, stop

    if not stop(client, job):
        say(f"job {job} has ended already.")


app.add_typer(jobs, name="jobs")
