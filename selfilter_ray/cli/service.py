"""The commands of the online service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from selfilter_ray.cli.app import SetOption, app, interruptible
from selfilter_ray.errors import ConfigError


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


@app.command()
def ingest(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...", help="Files, run folders, dataset folders, or package: names."
        ),
    ] = None,
    to: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    kafka: Annotated[
        Path | None, typer.Option(help="YAML file of the topics to read instead of inputs.")
    ] = None,
    kind: Annotated[
        Literal["auto", "samples", "records", "features"],
        typer.Option("--as", help="What the inputs hold."),
    ] = "auto",
    image_root: Annotated[
        Path | None, typer.Option(help="Folder that image paths are relative to.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for answers, errors and progress.")] = Path(
        "ingested"
    ),
    key_file: Annotated[
        Path | None, typer.Option(help="Holds the key; else the variable SELFILTER_KEY.")
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a service that is away.")
    ] = 300.0,
    set: SetOption = None,
) -> None:
    """Feed a running service from files, finished runs or Kafka topics; resumable."""
    from selfilter_ray.service.ingest.command import ingest_from_files, ingest_from_kafka

    if bool(inputs) == (kafka is not None):
        raise ConfigError("give either inputs or --kafka FILE.")
    if kafka is not None:
        ingest_from_kafka(to, kafka, set or (), key_file)
        return
    with interruptible():
        ingest_from_files(to, inputs or [], out, kind, image_root, key_file, patience)
