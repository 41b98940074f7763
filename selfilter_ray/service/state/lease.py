"""Who may write: a lock that ends with its process, whatever clocks say.

SQLite: ``flock`` on a file beside the database. PostgreSQL: an advisory lock of the session that
writes, so a writer that loses its session cannot go on before it has the lock again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from pathlib import Path

from sqlalchemy import Connection, text

from selfilter_ray.errors import ArtifactError
from selfilter_ray.service.state.errors import LeaseHeldError


def described(holder: str) -> str:
    """A holder and its process, for the message that another one gets."""
    return f"{holder} (process {os.getpid()} on {socket.gethostname()})"


class FileLease:
    """The lock on a file; freed by the kernel when the process ends.

    Raises:
        LeaseHeldError: when another one has it.
        ArtifactError: when the folder cannot be written.
    """

    def __init__(self, file: Path, holder: str) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ArtifactError(
                f"the state folder {file.parent} cannot be written ({error.strerror}): give this "
                "user the right to write there, or set state to another folder."
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = os.pread(self._descriptor, 4096, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise held(str(file.parent), other) from None
        # Only for the message: a full disk must not keep the lease from being taken.
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode(), 0)
        except OSError:
            pass

    def release(self) -> None:
        os.close(self._descriptor)


def held(place: str, holder: str) -> LeaseHeldError:
    return LeaseHeldError(
        f"the state in {place} is in use by {holder or 'another process'}: stop that one, or set "
        "state to another place. Two writers on one state are never allowed."
    )


def take_session_lock(connection: Connection) -> bool:
    """Take the advisory lock of this database and schema; False when another session has it."""
    schema = connection.execute(text("SELECT current_schema()")).scalar_one()
    digest = hashlib.blake2b(f"selfilter {schema}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest, "little", signed=True)
    return bool(
        connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
    )
