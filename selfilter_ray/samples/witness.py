"""One image of the pool that must be on every host, where images are paths and not URIs.

Without it a host that does not see the driver's disk would find every image missing, and the rows
would go to the quarantine one by one.
"""

from __future__ import annotations

import platform
from pathlib import Path

from selfilter_ray.errors import DataError
from selfilter_ray.samples.files import read_sample_range
from selfilter_ray.storage.places import is_uri

LOOKED_AT = 256  # rows


def witness(samples: Path, start: int, stop: int) -> str | None:
    """The first image among some rows that is a path and is there; None where there is none."""
    rows = read_sample_range(samples, start, min(stop, start + LOOKED_AT), ["images"])
    names = (name for images in rows["images"].to_pylist() for name in images or ())
    return next((name for name in names if not is_uri(name) and Path(name).is_file()), None)


def check_witness(place: str | None) -> None:
    """Look for the witness of another host on this one.

    Raises:
        DataError: when it is not there.
    """
    if place is not None and not Path(place).is_file():
        raise DataError(
            f"host {platform.node()} has no file {place}, which the driver's host has: give "
            "image_root and inputs as URIs, or have the images under the same path on every host."
        )
