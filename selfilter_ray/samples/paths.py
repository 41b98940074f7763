"""Image names from a data file: only below the image root, be it a folder or a URI."""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from pathlib import Path

from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.storage.places import PlaceError, Uri, is_uri, shown

MOST_KEY_BYTES = 1024  # of an object's name; a store refuses longer ones


def image_place(root: str | Path, name: str) -> str:
    """The absolute path, or the URI, of an image by its name below the root.

    Raises:
        BadRow: image_outside_root; image_missing for what cannot be the name of an object.
    """
    if is_uri(root):
        return str(inside_uri(Uri.of(str(root)), name))
    return str(inside(Path(root), name))


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


def inside_uri(root: Uri, name: str) -> Uri:
    """The URI of ``name`` below ``root``, by its words alone.

    A plain name is taken as it is, ``%`` and ``?`` being signs like others; a whole URI is decoded
    once. Bucket and connection are always those of the root.

    Raises:
        BadRow: image_outside_root; image_missing for what cannot be the name of an object.
    """
    key = _key_of(name, root) if is_uri(name) else posixpath.join("/" + root.key, name)
    key = posixpath.normpath("/" + key.lstrip("/")).lstrip("/")
    above = root.key + "/" if root.key else ""
    if not key.startswith(above) or key == above:
        raise BadRow("image_outside_root", f"{shown(name)[:200]} leaves {root.plain}")
    if any(ord(sign) < 32 or 0xD800 <= ord(sign) < 0xE000 for sign in key):
        raise BadRow("image_missing", f"{name[:200]!r} is no name of an object")
    if len(key.encode()) > MOST_KEY_BYTES:
        raise BadRow("image_missing", f"{name[:200]}... is longer than a name may be")
    return replace(root, key=key)


def _key_of(name: str, root: Uri) -> str:
    """The key in a URI that a record holds; it must be of the root's own bucket."""
    try:
        uri = Uri.of(name)
    except PlaceError:
        raise BadRow("image_outside_root", f"{shown(name)[:200]} leaves {root.plain}") from None
    if (uri.scheme, uri.bucket) != (root.scheme, root.bucket) or uri.options:
        raise BadRow("image_outside_root", f"{shown(name)[:200]} leaves {root.plain}")
    return uri.key
