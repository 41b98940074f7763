"""Images named by path: below one folder, and by no way out of it.

Every part of the path is opened from the folder before it, and none may be a link. So what is
checked is what is read, even while somebody else renames things.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from selfilter_ray.samples.paths import inside
from selfilter_ray.service.incoming.refusals import Unusable

# Without NONBLOCK, opening a pipe would wait for its writer.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def read_below(root: Path, name: str, limit: int) -> bytes:
    """The file of that name.

    Raises:
        Unusable: image_outside_root, image_missing, image_too_large.
        BadRow: image_outside_root.
    """
    parts = _parts(root, name)
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unusable("image_missing", f"images.root cannot be read: {error.strerror}") from None
    try:
        for part in parts[:-1]:
            inner = _open(part, READ | os.O_DIRECTORY, folder)
            os.close(folder)
            folder = inner
        file = _open(parts[-1], READ, folder)
    finally:
        os.close(folder)
    try:
        return _content(file, limit)
    finally:
        os.close(file)


def _parts(root: Path, name: str) -> tuple[str, ...]:
    if "\0" in name:
        raise Unusable("image_missing", "the path holds a NUL character")
    inside(root, name)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Unusable("image_outside_root", f"{name[:200]} is not a plain relative path")
    return path.parts


def _open(part: str, flags: int, folder: int) -> int:
    try:
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise Unusable("image_outside_root", f"{part[:200]} is a link: they are not followed")
        return os.open(part, flags, dir_fd=folder)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unusable("image_missing", f"{part[:200]}: {reason}") from None


def _content(file: int, limit: int) -> bytes:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise Unusable("image_missing", "not a file")
    if status.st_size > limit:
        raise Unusable("image_too_large", f"{status.st_size} bytes, the limit is {limit}")
    with open(file, "rb", closefd=False) as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise Unusable("image_too_large", f"more than {limit} bytes")
    return content
