"""Places named in a config that a cluster is sure not to find: said before anything is sent.

A job runs in a working directory that the cluster removes afterwards. Relative paths mean something
there only below what was sent along, and what a run writes must not lie there at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfilter_ray.config import Config
from selfilter_ray.config.vlm import AssembledVlm, PretrainedVlm
from selfilter_ray.errors import ConfigError
from selfilter_ray.storage import is_uri

PACKAGED = "package:"


def check_places(config: Config, sent: Path | None) -> None:
    """Refuse a config with places that cannot be right on the cluster.

    Args:
        sent: the folder whose content goes with the job; relative paths below it are fine.

    Raises:
        ConfigError: naming every such place, each with a remedy.
    """
    problems = [*_run_folder(config.run_dir)]
    for name, place in data_places(config):
        if _is_relative(place) and not _goes_along(place, sent):
            problems.append(
                f"{name}: {place} is relative, and only this machine has it. Give a URI such as "
                "s3://bucket/path, an absolute path that the nodes have, or send the folder it is "
                "in with --working-dir."
            )
    for name, place in model_places(config):
        if _is_relative(place) and Path(place).exists() and not _goes_along(place, sent):
            problems.append(
                f"{name}: {place} is a path of this machine. Give an absolute path that every node "
                "has, or the model's name on a hub."
            )
    if problems:
        raise ConfigError("the cluster cannot run this config:\n  " + "\n  ".join(problems))


def remarks(config: Config) -> list[str]:
    """What may be wrong on the cluster, but cannot be known from here."""
    said = []
    if not is_uri(config.run_dir):
        said.append(
            f"run_dir {config.run_dir} is a path: all nodes must share it (a URI such as s3:// "
            "needs no shared disk)."
        )
    if config.ray.address is not None:
        said.append(f"ray.address {config.ray.address} is left out: the job runs where it is sent.")
    return said


def _run_folder(place: str) -> Iterator[str]:
    if is_uri(place) or Path(place).is_absolute():
        return
    yield (
        f"run_dir: {place} is relative: it would lie in the job's working directory, which is "
        "removed when the job ends. Give a URI such as s3://bucket/path, or an absolute path that "
        "all nodes share."
    )


def data_places(config: Config) -> Iterator[tuple[str, str]]:
    """What is always a path or a URI."""
    yield from (("data.inputs", place) for place in config.data.inputs)
    if config.data.image_root is not None:
        yield "data.image_root", config.data.image_root
    reward = config.ratings.image_reward
    if reward is not None:
        yield "ratings.image_reward.weights", reward.weights
        yield "ratings.image_reward.config", reward.config


def model_places(config: Config) -> Iterator[tuple[str, str]]:
    """What may also be a name on a hub, a tag, or a package."""
    for section, vlm in (("train", config.train.vlm), ("tune", config.tuning().vlm)):
        if isinstance(vlm, PretrainedVlm):
            yield f"{section}.vlm.path", vlm.path
        elif isinstance(vlm, AssembledVlm):
            yield f"{section}.vlm.language_model", vlm.language_model
            if isinstance(vlm.vision, str):
                yield f"{section}.vlm.vision", vlm.vision
            if vlm.projector_weights is not None:
                yield f"{section}.vlm.projector_weights", vlm.projector_weights
    embedder = config.featurize.embedder
    if embedder.name == "open_clip" and embedder.pretrained is not None:
        yield "featurize.embedder.pretrained", embedder.pretrained
    if config.ratings.image_reward is not None:
        yield "ratings.image_reward.tokenizer", config.ratings.image_reward.tokenizer


def _is_relative(place: str) -> bool:
    return not (is_uri(place) or place.startswith(PACKAGED) or Path(place).is_absolute())


def _goes_along(place: str, sent: Path | None) -> bool:
    """Whether the place is part of what is sent: it is looked for from there, not from here."""
    if sent is None:
        return False
    inside = (sent / place).resolve()
    return inside.is_relative_to(sent.resolve()) and inside.exists()
