"""The commands of a run: the whole pipeline, its stages one by one, and the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from selfilter_ray.cli.app import ConfigArgument, RedoOption, SetOption, app, interruptible
from selfilter_ray.errors import ConfigError

if TYPE_CHECKING:
    from selfilter_ray.config import Config
    from selfilter_ray.tuning import On


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
def compare(
    config: ConfigArgument,
    set: SetOption = None,
    redo: RedoOption = False,
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Tune a model on what each method chose, too, and evaluate it."
        ),
    ] = False,
) -> None:
    """Several methods and seeds on one pool: what they share, cover and cost; or teach."""
    from selfilter_ray.config import load_config
    from selfilter_ray.pipeline import Pipeline
    from selfilter_ray.run_folder import STAGES
    from selfilter_ray.terminal import Terminal

    pipeline = Pipeline(load_config(config, set or ()), Terminal(), redo, True, training=train)
    with interruptible():
        pipeline.run(STAGES[: STAGES.index("select")])
        page = pipeline.compare()
    print(f"comparison: {pipeline.folder.shown(page)}")


def _tune(config: Config, on: On | None, ids: Path | None, redo: bool) -> None:
    from selfilter_ray.terminal import Terminal
    from selfilter_ray.tuning import tune

    if on is not None and ids is not None:
        raise ConfigError("--on and --ids both say what to tune on: give one of them.")
    with interruptible():
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
    with interruptible():
        manifest = pipeline.run(stages)
    terminal.summary(manifest)
    if "select" in stages and "select" in manifest["stages"]:
        record = manifest["stages"]["select"]
        chosen = pipeline.folder.shown(pipeline.folder.selected_json)
        print(f"{record['rows']:,} records by {record['method']}: {chosen}")
    if "report" in manifest["stages"]:
        print(f"report: {pipeline.folder.shown(pipeline.folder.report)}")
