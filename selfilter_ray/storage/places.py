"""Where something lies: a local path, or a URI of an object store. Words only, nothing is opened.

A URI is ``s3://bucket/key``, ``gs://bucket/key`` or ``file:///path``, percent-encoded, with options
of the connection behind a question mark: ``s3://runs/demo?endpoint_override=http://host:9000``.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from selfilter_ray.errors import ConfigError

OPTIONS = {
    "s3": ("region", "scheme", "endpoint_override"),
    "gs": ("scheme", "endpoint_override", "anonymous"),
    "file": (),
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PASSWORD = re.compile(r"(?<=://)[^/?#\s]*@")


class PlaceError(ConfigError, ValueError):
    """A URI that cannot be used: of an unknown store, with a password, or without a bucket."""


def is_uri(place: str | os.PathLike[str]) -> bool:
    """Whether this is a URI, of a known scheme or not."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def shown(place: str | os.PathLike[str]) -> str:
    """The place for a message: without a user and password, and without options."""
    text = str(place)
    return _PASSWORD.sub("", text).partition("?")[0] if is_uri(text) else text


@dataclass(frozen=True)
class Uri:
    """A URI taken apart.

    Attributes:
        scheme: ``s3``, ``gs`` or ``file``.
        bucket: empty for ``file``.
        key: below the bucket, not encoded, without a slash at either end; of ``file`` the path
            without its first slash.
        options: of the connection, as they were given.
    """

    scheme: str
    bucket: str
    key: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, place: str) -> Uri:
        """Take a place apart.

        Raises:
            PlaceError: with what to write instead; the message holds no secret.
        """
        try:
            parts = urlsplit(place)
        except ValueError:
            raise PlaceError(f"{shown(place)} is no URI: correct it.") from None
        scheme = parts.scheme.lower()
        if scheme not in OPTIONS:
            raise PlaceError(
                f"{shown(place)}: storage {scheme}:// is not known. Give a local path, or a URI of "
                f"{', '.join(f'{known}://' for known in OPTIONS)}."
            )
        if "@" in parts.netloc:
            raise PlaceError(
                f"{shown(place)}: a URI must not hold a user or password. Put credentials into the "
                "environment, for s3 into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        options = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))
        unknown = sorted({name for name, _ in options} - set(OPTIONS[scheme]))
        if unknown or parts.fragment:
            known = ", ".join(OPTIONS[scheme]) or "none"
            raise PlaceError(
                f"{shown(place)}: unknown option {', '.join(unknown) or 'behind #'}. Known for "
                f"{scheme}://: {known}; a ? or # in a name is written %3F or %23."
            )
        key = posixpath.normpath("/" + unquote(parts.path).strip("/")).strip("/")
        if scheme == "file" and parts.netloc:
            raise PlaceError(f"{shown(place)}: write file:///path, with three slashes.")
        if scheme != "file" and not parts.netloc:
            raise PlaceError(f"{shown(place)}: it names no bucket. Write {scheme}://bucket/path.")
        return cls(scheme, parts.netloc, key, options)

    @property
    def path(self) -> str:
        """The path within its file system, as pyarrow wants it."""
        if self.scheme == "file":
            return "/" + self.key
        return f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def plain(self) -> str:
        """Not encoded, without options: to sort by, and to compare."""
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.key) or self.bucket

    def child(self, name: str) -> Uri:
        """What lies below it, the name not encoded."""
        return replace(self, key=f"{self.key}/{name.strip('/')}".strip("/"))

    @property
    def parent(self) -> Uri:
        return replace(self, key=posixpath.dirname(self.key))

    def __str__(self) -> str:
        query = urlencode(self.options, safe=":/")
        where = f"{self.scheme}://{self.bucket}/{quote(self.key)}"
        return f"{where}?{query}" if query else where


def checked(place: str) -> str:
    """The place, if it is a path or a URI that can be used.

    Raises:
        PlaceError: with what to write instead.
    """
    if is_uri(place):
        Uri.of(place)
    return place


def below(place: str, name: str) -> str:
    """What lies under ``name``, not encoded, below a place."""
    return str(Uri.of(place).child(name)) if is_uri(place) else str(Path(place) / name)


def name_of(place: str) -> str:
    """The last part of a place, not encoded and without options."""
    return Uri.of(place).name if is_uri(place) else Path(place).name


def plain(place: str) -> str:
    """What to sort places by: the same order wherever they lie."""
    return Uri.of(place).plain if is_uri(place) else place
