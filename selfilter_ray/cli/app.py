"""The Typer application: its errors, exit codes and the options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from selfilter_ray import __version__
from selfilter_ray.errors import SelfilterError

app = typer.Typer(
    name="selfilter-ray",
    help="Choose the part of a vision-language instruction pool that is worth training on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a config key, for example select.ratio=0.1."
    ),
]
RedoOption = Annotated[
    bool, typer.Option("--redo", help="Overwrite finished features or training of other settings.")
]


def main() -> None:
    """Entry point: errors that a user can act on become one message and an exit code."""
    try:
        app()
    except SelfilterError as error:
        print(f"selfilter-ray: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"selfilter-ray {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is a message and exit code 1."""
    try:
        yield
    except KeyboardInterrupt:  # typer would take it for its own
        print("selfilter-ray: interrupted; the same command continues.", file=sys.stderr)
        raise typer.Exit(1) from None
