"""Where the state is: a folder with a SQLite file, or a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.settings import ServiceConfig

FILE = "decisions.sqlite"
LOCK = "writer.lock"


@dataclass(frozen=True, slots=True)
class Address:
    """Attributes:
    url: for SQLAlchemy.
    folder: of the SQLite file; None with PostgreSQL.
    snapshots: folder or URI.
    """

    url: URL
    folder: Path | None
    snapshots: str

    @property
    def shown(self) -> str:
        """As a person may read it: without a password."""
        return str(self.folder) if self.folder else self.url.render_as_string(hide_password=True)


def address_of(config: ServiceConfig) -> Address:
    """Raises:
    ConfigError: for a URL that cannot be read.
    """
    if not config.is_postgresql:
        folder = config.state_folder
        url = URL.create("sqlite+pysqlite", database=str(folder / FILE))
        return Address(url, folder, config.snapshots_place)
    try:
        url = make_url(str(config.state)).set(drivername="postgresql+psycopg")
    except ArgumentError:
        raise ConfigError(
            "state is no PostgreSQL URL: write postgresql://USER:PASSWORD@HOST/DATABASE, with "
            "special characters of the password as %XX."
        ) from None
    return Address(url, None, config.snapshots_place)
