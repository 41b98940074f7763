"""The commands that look at data and machines without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfilter_ray.cli.app import app


@app.command()
def validate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Data file or dataset folder, also by URI; or package: name."
        ),
    ],
    image_root: Annotated[
        str | None, typer.Option(help="Folder or URI that image paths are relative to.")
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write the unusable rows here (JSON lines).")
    ] = None,
) -> None:
    """Read a pool without running anything: how many rows are usable, and why others are not.

    Images are checked by their headers; those that cannot be decoded are found by featurize.
    """
    import tempfile

    from selfilter_ray.config.load import parse_data
    from selfilter_ray.samples.pool import NothingUsableError, read_pool
    from selfilter_ray.samples.quarantine import write_quarantine
    from selfilter_ray.terminal import Terminal

    terminal = Terminal()
    with (
        tempfile.TemporaryDirectory() as store,
        terminal.stage("validate", "rows", None) as advance,
    ):
        settings = parse_data(inputs=[data], image_root=image_root)
        try:
            pool = read_pool(settings, Path(store), progress=advance)
        except NothingUsableError as error:
            if quarantine is not None:
                write_quarantine(quarantine, error.quarantined)
            raise
    terminal.counts(pool.counts)
    for row in pool.quarantined[:5]:
        terminal.output.print(
            f"{row.locator}: {row.reason}: {row.detail}; {row.remedy}.",
            markup=False,
            soft_wrap=True,
        )
    if quarantine is not None:
        write_quarantine(quarantine, pool.quarantined)
