"""Connections to stores, and what their failures are called: every one is a ``StorageError``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from selfilter_ray.errors import StorageError
from selfilter_ray.storage.places import Uri

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CONNECT_SECONDS, REQUEST_SECONDS = 10, 60
ATTEMPTS = 4


class MissingError(StorageError):
    """There is no such object."""


def filesystem(uri: Uri) -> FileSystem:
    """What opens the URI's path. Credentials come from the environment.

    Raises:
        StorageError: when the connection cannot be set up.
    """
    with told(uri, "reach"):
        # Connections do not survive a fork, so each process has its own.
        return _filesystem(uri.scheme, uri.bucket, uri.options, endpoint_of(uri), os.getpid())


def endpoint_of(uri: Uri) -> str | None:
    """The server that an s3 URI is asked of, where it is not that of the region."""
    if uri.scheme != "s3":
        return None
    named = dict(uri.options).get("endpoint_override")
    return (
        named or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    )


@lru_cache(maxsize=64)
def _filesystem(
    scheme: str,
    bucket: str,
    options: tuple[tuple[str, str], ...],
    endpoint: str | None,
    process: int,
) -> FileSystem:
    from pyarrow import fs

    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "gs":
        return fs.FileSystem.from_uri(str(Uri(scheme, bucket, "", options)))[0]
    given: dict[str, Any] = dict(options)
    region = (
        given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    )
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        scheme=given.get("scheme"),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@contextmanager
def told(uri: Uri, what: str) -> Iterator[None]:
    """Turn whatever pyarrow raises into a ``StorageError`` that names the place and a remedy."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError:
        raise MissingError(f"{uri.plain} does not exist: correct the address.") from None
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise StorageError(_sentence(uri, what, str(error))) from None


def _sentence(uri: Uri, what: str, error: str) -> str:
    first = error.splitlines()[0][:300] if error else "no reason given"
    remedy = "look whether it answers from this host, and run again: what is finished is kept"
    if any(
        word in error
        for word in (
            "ACCESS_DENIED",
            "HTTP status 403",
            "Permission",
            "SIGNATURE",
            "INVALID_ACCESS_KEY",
            "credentials",
        )
    ):
        remedy = "give this host credentials that may list, read, write and delete there"
    elif "NO_SUCH_BUCKET" in error:
        remedy = "create the bucket, or correct the address"
    return f"cannot {what} {uri.plain} ({first}): {remedy}."
