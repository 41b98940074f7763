"""What a state was made with: its format, its own number, and the settings of its selector."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, inspect, select, update
from sqlalchemy.exc import NoResultFound

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.online.settings import OnlineSettings
from selfilter_ray.service.state.errors import damaged
from selfilter_ray.service.state.store import read_end
from selfilter_ray.service.state.tables import FORMAT, head, identity, metadata


@dataclass(frozen=True, slots=True)
class Identity:
    """Attributes:
    number: random, of this state; snapshots of another one are told apart by it.
    """

    number: str
    settings: OnlineSettings
    features: int
    base: float

    @property
    def genesis(self) -> bytes:
        """The checksum that the first record follows."""
        return hashlib.blake2b(self.number.encode(), digest_size=16).digest()


def take_over(
    connection: Connection,
    place: str,
    settings: OnlineSettings,
    features: int,
    base: float,
    holder: str,
) -> tuple[Identity, int]:
    """Make the tables where there are none; then this writer's epoch is the newest.

    Raises:
        ArtifactError: when the state is of another format version.
        ConfigError: when it was made with other settings.
    """
    if not inspect(connection).has_table(identity.name):
        make_tables(connection, Identity(secrets.token_hex(16), settings, features, base))
    found = read_identity(connection, place)
    _compare(found, settings, features, base, place)
    connection.execute(update(head).values(epoch=head.c.epoch + 1, holder=holder))
    try:
        return found, read_end(connection).epoch
    except NoResultFound:
        raise damaged(place, "it does not say where its log ends") from None


def read_identity(connection: Connection, place: str) -> Identity:
    """Of a state that is there."""
    values = {row[0]: row[1] for row in connection.execute(select(identity))}
    found = values.get("format", "")
    if not found.isdigit():
        raise damaged(place, "it has no format version")
    if int(found) > FORMAT:
        raise ArtifactError(
            f"the state in {place} has format {found}, and this version knows formats up to "
            f"{FORMAT}: it was written by a newer selfilter-ray; upgrade, or restore a backup."
        )
    try:
        return Identity(
            values["number"],
            OnlineSettings.model_validate_json(values["settings"]),
            int(values["features"]),
            float(values["base"]),
        )
    except (KeyError, ValueError):
        raise damaged(place, "it does not say what it was made with") from None


def make_tables(connection: Connection, own: Identity) -> None:
    """Empty ones."""
    metadata.create_all(connection)
    values = {
        "format": str(FORMAT),
        "number": own.number,
        "settings": own.settings.model_dump_json(),
        "features": str(own.features),
        "base": repr(own.base),
    }
    rows = [{"name": name, "value": value} for name, value in values.items()]
    connection.execute(insert(identity), rows)
    start = {"only": 0, "epoch": 0, "sequence": 0, "checksum": own.genesis, "holder": ""}
    connection.execute(insert(head), start)


def _compare(
    found: Identity, settings: OnlineSettings, features: int, base: float, place: str
) -> None:
    """Raises ConfigError that names every difference."""
    there = _deciding(found.settings) | {"features": found.features, "base": found.base}
    here = _deciding(settings) | {"features": features, "base": base}
    different = [
        f"{name} is {json.dumps(there[name])} there and {json.dumps(here[name])} here"
        for name in there
        if there[name] != here[name]
    ]
    if different:
        raise ConfigError(
            f"the state in {place} was made with other settings: {', '.join(different)}. Its "
            "decisions would not go on as they began: use the old settings, or set state to a "
            "new place."
        )


def _deciding(settings: OnlineSettings) -> dict[str, Any]:
    """The settings that decide; the base is compared as a number, wherever it comes from."""
    values = settings.model_dump(mode="json", exclude={"base"})
    if settings.budget is None:
        values["rate"] = settings.wanted_rate
    return values
