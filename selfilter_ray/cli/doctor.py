"""``doctor``: what this machine, or every node of a cluster, can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfilter_ray.cli.app import SetOption, app
from selfilter_ray.cli.job_options import (
    Exclude,
    Headers,
    Image,
    Python,
    RuntimeEnv,
    Variables,
    Verify,
    WithPackage,
    WorkingDir,
    job_client,
    sent_along,
)
from selfilter_ray.errors import ConfigError


@app.command()
def doctor(
    address: Annotated[
        str | None,
        typer.Option(help="Every node of this cluster: auto, HOST:PORT, or a dashboard's URL."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of a run: its places are tried, too.")
    ] = None,
    set: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a node may take.")] = 120.0,
    working_dir: WorkingDir = None,
    exclude: Exclude = None,
    runtime_env: RuntimeEnv = None,
    image: Image = None,
    with_package: WithPackage = False,
    env: Variables = None,
    python: Python = "python",
    header: Headers = None,
    verify: Verify = "yes",
) -> None:
    """What this machine can do, or with --address every node of a cluster. Exits with 0 or 1.

    To a dashboard it goes as a job, with the same options as submit.
    """
    if address is None:
        if config is not None or as_json:
            raise ConfigError("--config and --json need --address: auto, HOST:PORT, or a URL.")
        from selfilter_ray.doctor import examine

        raise typer.Exit(0 if examine() else 1)
    from selfilter_ray.config import load_config
    from selfilter_ray.doctor.report import as_json as in_json
    from selfilter_ray.doctor.report import passed, show

    loaded = None if config is None else load_config(config, set or ())
    if address.startswith(("http://", "https://")):
        sent = sent_along(working_dir, exclude, runtime_env, image, with_package, env)
        client = job_client(address, header, verify)
        from selfilter_ray.distributed.doctor_job import examine_by_job

        nodes = examine_by_job(client, loaded, timeout, sent, python)
    else:
        from selfilter_ray.distributed.runtime import prepare

        prepare(address)
        from selfilter_ray.distributed.doctor import examine_cluster

        nodes = examine_cluster(address, loaded, timeout)
    if as_json:
        print(in_json(nodes))
    else:
        show(nodes)
    raise typer.Exit(0 if passed(nodes) else 1)
