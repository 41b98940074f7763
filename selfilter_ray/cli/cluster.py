"""``submit``: a command of this program as a job of a cluster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from selfilter_ray.cli.app import ConfigArgument, SetOption, app
from selfilter_ray.cli.job_options import (
    Address,
    Exclude,
    Headers,
    Image,
    On,
    Patience,
    Python,
    RuntimeEnv,
    Variables,
    Verify,
    WithPackage,
    WorkingDir,
    job_client,
    reserved,
    sent_along,
)


@app.command()
def submit(
    config: ConfigArgument,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="More options of the command."),
    ] = None,
    address: Address = None,
    command: Annotated[
        Literal["run", "featurize", "train", "score", "select", "report", "compare"],
        typer.Option(help="What the job does."),
    ] = "run",
    set: SetOption = None,
    redo: Annotated[bool, typer.Option("--redo", help="As of the command.")] = False,
    working_dir: WorkingDir = None,
    exclude: Exclude = None,
    runtime_env: RuntimeEnv = None,
    image: Image = None,
    with_package: WithPackage = False,
    env: Variables = None,
    python: Python = "python",
    cpus: Annotated[float | None, typer.Option(min=0, help="CPUs of its first process.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of its first process.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of it, such as 8GiB.")] = None,
    on: On = None,
    job_id: Annotated[
        str | None, typer.Option(help="Id of the job; a job of that id is followed, if there.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Shown with the job.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")
    ] = True,
    stop_on_interrupt: Annotated[
        bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job.")
    ] = False,
    patience: Patience = 600.0,
    header: Headers = None,
    verify: Verify = "yes",
) -> None:
    """Run it on a cluster, as a job. Exits with the job's exit code; sent again, it continues."""
    from selfilter_ray.config import load_config
    from selfilter_ray.submission import options, request
    from selfilter_ray.submission.places import check_places

    loaded = load_config(config, set or ())
    extra = [*(["--redo"] if redo else []), *(arguments or [])]
    _check_usage(command, extra)
    sent = sent_along(working_dir, exclude, runtime_env, image, with_package, env)
    given = options.pairs("--metadata", metadata or ())
    resources = reserved(cpus, gpus, memory, on)
    name = request.job_id(job_id, command)
    check_places(loaded, sent.working_dir)
    client = job_client(address, header, verify)
    from selfilter_ray.distributed.jobs import Job, Watch, follow, start

    what = request.JobCommand(command, extra, python)
    start(client, Job(name, what, loaded, sent, resources, given))
    if not wait:
        print(name)
        return
    raise typer.Exit(follow(client, name, Watch(patience, stop_on_interrupt)))


def _check_usage(command: str, arguments: list[str]) -> None:
    """Have the command's own parser refuse what is wrong before anything is sent."""
    group: Any = typer.main.get_command(app)
    group.commands[command].make_context(command, ["CONFIG", *arguments])
