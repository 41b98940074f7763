"""Image paths from a data file: only below the image root."""

from __future__ import annotations

import os
from pathlib import Path

from selfilter_ray.samples.quarantine import BadRow


def inside(root: Path, name: str) -> Path:
    """The absolute path of ``name`` below ``root``, by its words alone.

    Links are followed, the root itself being one or not: its owner put them there.

    Raises:
        BadRow: image_outside_root.
    """
    root = Path(os.path.normpath(root.absolute()))
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(root) or path == root:
        raise BadRow("image_outside_root", f"{name[:200]} leaves {root}")
    return path
