"""The command line. Each command imports what it needs, so that ``--help`` answers at once.

Exit codes: 0 done, 2 wrong usage or config, 3 wrong data, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from selfilter_ray import __version__
from selfilter_ray.errors import ConfigError, SelfilterError

if TYPE_CHECKING:
    from selfilter_ray.config import Config
    from selfilter_ray.tuning import On

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


@app.command()
def run(config: ConfigArgument, set: SetOption = None, redo: RedoOption = False) -> None:
    """The whole pipeline. Run again, it continues, or says that nothing is left to do."""
    from selfilter_ray.run_folder import STAGES

    _run(config, set, STAGES, redo)


@app.command()
def featurize(config: ConfigArgument, set: SetOption = None, redo: RedoOption = False) -> None:
    """Read the pool and compute its features."""
    _run(config, set, ("read", "featurize"), redo)


@app.command()
def train(
    config: ConfigArgument,
    set: SetOption = None,
    redo: RedoOption = False,
    objective: Annotated[
        Literal["selfilter", "coido", "plain"] | None,
        typer.Option(help="plain: tune the VLM on chosen records, without a score net."),
    ] = None,
    on: Annotated[
        Literal["selection", "pool", "seed"] | None,
        typer.Option(
            help="Tune on these records; selection where neither this nor --ids is given."
        ),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Tune on the records of this file: one id a line.")
    ] = None,
) -> None:
    """Stage 1: train the VLM together with the score net (after ratings that it takes)."""
    from selfilter_ray.config import load_config

    loaded = load_config(config, set or ())
    objective = objective or loaded.train.objective
    if objective == "plain":
        _tune(loaded, on, ids, redo)
        return
    if on is not None or ids is not None:
        raise ConfigError("--on and --ids say what to tune on: give --objective plain, too.")
    loaded = load_config(loaded, [f"train.objective={objective}"])
    _run(loaded, None, ("train",) if loaded.train.inputs == "clip" else ("rate", "train"), redo)


@app.command()
def score(config: ConfigArgument, set: SetOption = None) -> None:
    """Weight and difficulty of every sample, and what else select.method wants to know."""
    _run(config, set, ("rate", "score"), False)


@app.command()
def select(
    config: ConfigArgument,
    set: SetOption = None,
    method: Annotated[
        str | None, typer.Option(help="Select by this method, with its defaults.")
    ] = None,
) -> None:
    """Choose the records: Self-Filter's Stage 2, or another method."""
    from selfilter_ray.config import load_config
    from selfilter_ray.select.settings import parse_method

    loaded = load_config(config, set or ())
    if method is not None:
        size = {"budget": loaded.select.budget, "ratio": loaded.select.ratio}
        chosen = parse_method({"method": method, **size})
        loaded = loaded.model_copy(update={"select": chosen})
    _run(loaded, None, ("rate", "score", "select"), False)


@app.command()
def report(config: ConfigArgument, set: SetOption = None) -> None:
    """Write report.html."""
    _run(config, set, ("report",), False)


@app.command()
def validate(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Data file, dataset folder, or package: name.")
    ],
    image_root: Annotated[
        str | None, typer.Option(help="Folder that image paths are relative to.")
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write the unusable rows here (JSON lines).")
    ] = None,
) -> None:
    """Read a pool without running anything: how many rows are usable, and why others are not.

    Images are checked by their headers; those that cannot be decoded are found by featurize.
    """
    import tempfile

    from selfilter_ray.config import DataConfig
    from selfilter_ray.samples.pool import NothingUsableError, read_pool
    from selfilter_ray.samples.quarantine import write_quarantine
    from selfilter_ray.terminal import Terminal

    terminal = Terminal()
    with (
        tempfile.TemporaryDirectory() as store,
        terminal.stage("validate", "rows", None) as advance,
    ):
        settings = DataConfig(inputs=[data], image_root=image_root)
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


@app.command()
def doctor() -> None:
    """What this machine can do: versions, devices, compiler, a Ray task, a DeepSpeed operator."""
    from selfilter_ray.doctor import examine

    raise typer.Exit(0 if examine() else 1)


def _not_yet(command: str) -> None:
    print(f"selfilter-ray {command}: not yet in version {__version__}.", file=sys.stderr)
    raise typer.Exit(2)


_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def compare(config: ConfigArgument, set: SetOption = None, redo: RedoOption = False) -> None:
    """Several methods and seeds on one pool: what they share, cover and cost."""
    from selfilter_ray.config import load_config
    from selfilter_ray.pipeline import Pipeline
    from selfilter_ray.run_folder import STAGES
    from selfilter_ray.terminal import Terminal

    pipeline = Pipeline(load_config(config, set or ()), Terminal(), redo, comparing=True)
    with _interruptible():
        pipeline.run(STAGES[: STAGES.index("select")])
        page = pipeline.compare()
    print(f"comparison: {page}")


@app.command(context_settings=_ANYTHING)
def serve() -> None:
    """The online service (not yet)."""
    _not_yet("serve")


@app.command(context_settings=_ANYTHING)
def ingest() -> None:
    """Feed a running service (not yet)."""
    _not_yet("ingest")


@app.command(context_settings=_ANYTHING)
def submit() -> None:
    """Submit a run as a cluster job (not yet)."""
    _not_yet("submit")


def _tune(config: Config, on: On | None, ids: Path | None, redo: bool) -> None:
    from selfilter_ray.terminal import Terminal
    from selfilter_ray.tuning import tune

    if on is not None and ids is not None:
        raise ConfigError("--on and --ids both say what to tune on: give one of them.")
    with _interruptible():
        record = tune(config, on=on or "selection", ids=ids, redo=redo, terminal=Terminal())
    print(f"tuned on {record['rows']:,} records: {record['path']}")


def _run(
    config: Path | Config, overrides: list[str] | None, stages: tuple[str, ...], redo: bool
) -> None:
    from selfilter_ray.config import load_config
    from selfilter_ray.pipeline import Pipeline
    from selfilter_ray.terminal import Terminal

    terminal = Terminal()
    pipeline = Pipeline(load_config(config, overrides or ()), terminal, redo)
    with _interruptible():
        manifest = pipeline.run(stages)
    terminal.summary(manifest)
    if "select" in stages and "select" in manifest["stages"]:
        record = manifest["stages"]["select"]
        print(f"{record['rows']:,} records by {record['method']}: {pipeline.folder.selected_json}")
    if "report" in manifest["stages"]:
        print(f"report: {pipeline.folder.report}")


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:  # typer would take it for its own
        print("selfilter-ray: interrupted; the same command continues.", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    main()
