"""Options that the commands of a cluster share, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfilter_ray.errors import ConfigError

if TYPE_CHECKING:
    from selfilter_ray.distributed.job_client import JobClient
    from selfilter_ray.submission.request import Resources, Sent

Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, such as http://head:8265; else RAY_API_SERVER_ADDRESS."
    ),
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Sent along, for a gateway."),
]
Verify = Annotated[str, typer.Option(help="yes, no, or a file or folder of certificates to trust.")]
WorkingDir = Annotated[
    Path | None,
    typer.Option(help="Send this folder; relative paths of the config are relative to it."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave this pattern of --working-dir out (also .git, .venv, runs ...)."),
]
RuntimeEnv = Annotated[
    Path | None, typer.Option(help="YAML file of a Ray runtime environment to add.")
]
Image = Annotated[str | None, typer.Option(help="Container image that the job's processes run in.")]
WithPackage = Annotated[
    bool, typer.Option("--with-package", help="Send the source of this selfilter_ray, too.")
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME[=VALUE]", help="A variable for the job; alone, with its value here."
    ),
]
Python = Annotated[str, typer.Option(help="The Python interpreter on the cluster.")]
On = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PLACE", help="Where the job starts: RESOURCE=AMOUNT, or LABEL:VALUE of a node."
    ),
]
Patience = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for a dashboard that is away.")
]


def job_client(address: str | None, header: list[str] | None, verify: str) -> JobClient:
    """Ray is imported here: the mode in which it sends the token is settled before."""
    from selfilter_ray.distributed.token import offer_token
    from selfilter_ray.submission.options import headers

    given = headers(header or ())
    offer_token()
    try:
        from selfilter_ray.distributed.job_client import JobClient, Server
    except ImportError as error:
        raise ConfigError(f"jobs need the extra cluster: install it ({error.name}).") from None
    trusted: bool | str = {"yes": True, "no": False}.get(verify, verify)
    return JobClient(Server(address, given, trusted))


def sent_along(
    working_dir: Path | None,
    exclude: list[str] | None,
    runtime_env: Path | None,
    image: str | None,
    with_package: bool,
    env: list[str] | None,
) -> Sent:
    from selfilter_ray.submission.options import variables
    from selfilter_ray.submission.request import Sent

    known = variables(env or (), os.environ)
    return Sent(working_dir, tuple(exclude or ()), runtime_env, image, with_package, known)


def reserved(
    cpus: float | None, gpus: float | None, memory: str | None, on: list[str] | None
) -> Resources:
    from selfilter_ray.submission import options
    from selfilter_ray.submission.request import Resources

    resources, labels = options.place(on or ())
    return Resources(cpus, gpus, options.memory(memory), resources, labels)
