"""``selfilter-ray submit`` and ``jobs``: this program's commands as jobs of a Ray cluster."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfilter_ray import __version__
from selfilter_ray.config import Config
from selfilter_ray.distributed.job_client import (
    JobClient,
    NoAnswerError,
    NoSuchJobError,
    check_versions,
    our_versions,
    told,
)
from selfilter_ray.distributed.job_logs import Following, job_details
from selfilter_ray.errors import ConfigError, SelfilterError
from selfilter_ray.storage import shown
from selfilter_ray.submission.environment import runtime_env
from selfilter_ray.submission.outcome import describe, exit_code, has_ended, status_of
from selfilter_ray.submission.places import check_places, remarks
from selfilter_ray.submission.request import JobCommand, Resources, Sent
from selfilter_ray.submission.working_dir import config_hash, copy_package, fill, sent_config

HASH, RUN, VERSION = "selfilter_config", "selfilter_run", "selfilter_version"


@dataclass(frozen=True)
class Job:
    """A command for a cluster.

    Attributes:
        id: the same id is the same job: sent again, it is followed.
        config: checked; None for a command without one.
        metadata: shown with the job, beside the run, the config's hash and the version.
    """

    id: str
    command: JobCommand
    config: Config | None
    sent: Sent = field(default_factory=Sent)
    resources: Resources = field(default_factory=Resources)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Watch:
    """How a job is followed.

    Attributes:
        patience: seconds that the dashboard may be away.
        stop_on_interrupt: Ctrl-C stops the job, instead of leaving it.
    """

    patience: float = 600.0
    stop_on_interrupt: bool = False


def start(client: JobClient, job: Job) -> None:
    """Send a job, unless one of its id is there already.

    Raises:
        ConfigError: when the cluster cannot run it, or has a job of that id with another config.
        SelfilterError: when the cluster refuses it.
    """
    if job.config is not None:
        check_places(job.config, job.sent.working_dir)
        for remark in remarks(job.config):
            say(remark)
    remark = check_versions(client.versions(), our_versions(), job.sent.with_package)
    if remark:
        say(remark)
    if _is_there(client, job):
        say(f"job {job.id} is there already.")
        return
    try:
        _send(client, job)
    except SelfilterError:
        # The answer may have been lost, or someone else was faster.
        if not _is_there(client, job):
            raise
    say(f"job {job.id} is sent to {client.url}.")


def follow(client: JobClient, job: str, watch: Watch) -> int:
    """Print the job's log to its end; returns the exit code of its command.

    Ctrl-C leaves the job running (or stops it, where that is asked for) and gives 1.

    Raises:
        SelfilterError: when the dashboard stays away, or the cluster has forgotten the job.
    """
    following = Following(client, job, _print, say, watch.patience)
    try:
        details = following.until_end()
    except KeyboardInterrupt:
        if not watch.stop_on_interrupt:
            say(f"job {job} goes on. {_how_to(client, job)}")
            return 1
        stop(client, job)
        try:
            details = following.until_end()
        except KeyboardInterrupt:
            say(f"job {job} is being stopped. {_how_to(client, job)}")
            return 1
    except NoAnswerError as error:
        raise SelfilterError(f"{error} Job {job} may go on. {_how_to(client, job)}") from None
    say(describe(job, details))
    return exit_code(details)


def stop(client: JobClient, job: str) -> bool:
    """Ask a job to end; False when it has ended already. A training writes a checkpoint first.

    Raises:
        NoSuchJobError: when the cluster does not know it.
    """
    with told(client.url):
        if has_ended(client.get_job_info(job)):
            return False
        say(f"job {job} is asked to stop; what is finished is kept.")
        return bool(client.stop_job(job))


def all_jobs(client: JobClient) -> list[Any]:
    """Jobs that were submitted, the newest first; drivers of other kinds are left out."""
    with told(client.url):
        found = [job for job in client.list_jobs() if job.submission_id]
    return sorted(found, key=lambda job: -(job.start_time or 0))


def say(message: str) -> None:
    """To the user, apart from the job's own log."""
    print(f"selfilter-ray: {message}", file=sys.stderr, flush=True)


def _is_there(client: JobClient, job: Job) -> bool:
    try:
        details = job_details(client, job.id)
    except NoSuchJobError:
        return False
    theirs = (details.metadata or {}).get(HASH)
    if theirs != _metadata(job)[HASH]:
        raise ConfigError(
            f"the cluster has a job {job.id} of another config or command "
            f"({status_of(details).lower()}): choose another --job-id."
        )
    return True


def _send(client: JobClient, job: Job) -> None:
    resources = job.resources
    with tempfile.TemporaryDirectory(prefix="selfilter-job-") as place:
        folder = Path(place) / "working_dir"
        folder.mkdir()
        config = None if job.config is None else sent_config(job.config)
        package = copy_package(Path(place)) if job.sent.with_package else None
        environment = runtime_env(job.sent, folder, package, config)
        in_variable = "image_uri" in environment
        if not in_variable:
            fill(folder, config, job.sent.working_dir, job.sent.excludes)
        try:
            with told(client.url):
                client.submit_job(
                    entrypoint=job.command.entrypoint(in_variable, config is not None),
                    submission_id=job.id,
                    runtime_env=environment,
                    metadata=_metadata(job),
                    entrypoint_num_cpus=resources.cpus,
                    entrypoint_num_gpus=resources.gpus,
                    entrypoint_memory=resources.memory,
                    entrypoint_resources=dict(resources.resources) or None,
                    entrypoint_label_selector=dict(resources.labels) or None,
                )
        except (ValueError, TypeError) as error:
            raise ConfigError(f"Ray does not take this runtime environment: {error}") from None


def _metadata(job: Job) -> dict[str, str]:
    ours = {VERSION: __version__, HASH: job.command.name}
    if job.config is not None:
        ours[RUN] = shown(job.config.run_dir)
        ours[HASH] = f"{job.command.name} {config_hash(sent_config(job.config))}"
    if job.command.arguments:
        ours[HASH] = " ".join([ours[HASH], *job.command.arguments])
    return {**job.metadata, **ours}


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _how_to(client: JobClient, job: str) -> str:
    where = f"{job} --address {client.url}"
    return (
        f"Follow it: selfilter-ray jobs logs {where} --follow; "
        f"stop it: selfilter-ray jobs stop {where}"
    )
