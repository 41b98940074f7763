"""What is to be checked on every node: made once, sent to all."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from selfilter_ray.config import Config
from selfilter_ray.storage import below, is_uri
from selfilter_ray.submission.places import PACKAGED, model_places


@dataclass(frozen=True)
class Plan:
    """Places of a config, as it names them. Without a config all are empty.

    Attributes:
        run_dir: where the run writes.
        probes: name of the folder below it that this doctor writes to; others have their own.
        marker: content of an object in there that the driver has written.
        inputs: files or folders that the driver reads.
        image_root: folder of images that every node reads.
        models: folders or names of models, by config key.
        weights: files that must be there, by config key.
    """

    run_dir: str | None = None
    probes: str = ""
    marker: str = ""
    inputs: tuple[str, ...] = ()
    image_root: str | None = None
    models: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, str], ...] = ()

    @property
    def probes_uri(self) -> str:
        """The folder of probes as a URI, whatever ``run_dir`` is."""
        assert self.run_dir is not None
        return below(as_uri(self.run_dir), self.probes)

    @classmethod
    def of(cls, config: Config | None) -> Plan:
        if config is None:
            return cls()
        reward = config.ratings.image_reward
        files = (
            ()
            if reward is None
            else (
                ("ratings.image_reward.weights", reward.weights),
                ("ratings.image_reward.config", reward.config),
            )
        )
        return cls(
            config.run_dir,
            f".doctor-{secrets.token_hex(8)}",
            secrets.token_hex(16),
            tuple(place for place in config.data.inputs if not place.startswith(PACKAGED)),
            config.data.image_root,
            tuple(dict.fromkeys(model_places(config))),
            files,
        )


def as_uri(place: str) -> str:
    """A place as a URI: of a path, ``file:///...``."""
    return place if is_uri(place) else Path(place).absolute().as_uri()
