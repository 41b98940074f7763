"""The commands of the online service and of clusters."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from selfilter_ray import __version__
from selfilter_ray.cli.app import SetOption, app, interruptible

_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def serve(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Folder of a run, or YAML file of the service.")
    ],
    set: SetOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on; without it, this machine.")
    ] = None,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy in place of Serve's own proxy.")
    ] = False,
) -> None:
    """The online service: scores samples, admits them from a stream, remembers every decision."""
    from selfilter_ray.service.config import load_service_config
    from selfilter_ray.service.distributed.command import serve_until_stopped

    given = {"host": host, "port": port}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    config = load_service_config(target, [*(set or ()), *overrides])
    with interruptible():
        serve_until_stopped(config, address, haproxy)


@app.command(context_settings=_ANYTHING)
def ingest() -> None:
    """Feed a running service (not yet)."""
    _not_yet("ingest")


@app.command(context_settings=_ANYTHING)
def submit() -> None:
    """Submit a run as a cluster job (not yet)."""
    _not_yet("submit")


def _not_yet(command: str) -> None:
    print(f"selfilter-ray {command}: not yet in version {__version__}.", file=sys.stderr)
    raise typer.Exit(2)
