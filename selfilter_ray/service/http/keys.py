"""API keys: what is stored of one is its SHA-256. A key is made by

    python -m selfilter_ray.service.http.keys NAME SCOPE [EXPIRES]

which prints the key to standard error, once, and the line to store to standard output. A line is
``NAME SCOPE SHA256 [EXPIRES]``: scope ``data`` or ``admin``, the last day as ``2027-12-31`` (UTC).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.settings import KeySettings

SCOPES = ("data", "admin")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
HASH = re.compile(r"[0-9a-f]{64}")
USAGE = "usage: python -m selfilter_ray.service.http.keys NAME data|admin [YYYY-MM-DD]"


@dataclass(frozen=True, slots=True)
class Key:
    """Attributes: last_day: on which it is accepted (UTC); None for ever."""

    name: str
    scope: str
    sha256: bytes
    last_day: date | None = None

    def expired(self) -> bool:
        return self.last_day is not None and datetime.now(UTC).date() > self.last_day

    def line(self) -> str:
        parts = [self.name, self.scope, self.sha256.hex()]
        return " ".join(parts + ([self.last_day.isoformat()] if self.last_day else []))


def load_keys(settings: KeySettings) -> list[Key]:
    """The keys of the file and of the environment variable.

    Raises:
        ConfigError: naming the line that is wrong, never what it holds.
    """
    sources = {}
    if os.environ.get(settings.environment):
        sources[f"variable {settings.environment}"] = os.environ[settings.environment]
    if settings.file:
        try:
            sources[settings.file] = Path(settings.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys.file {settings.file} cannot be read: {error}.") from None
    for source, text in sources.items():
        if not _lines(text):
            # What was meant to hold keys must not open the service to everyone.
            raise ConfigError(f"{source} holds no keys: add one, or unset it.")
    return [
        _key(line, f"{source}, line {number}")
        for source, text in sources.items()
        for number, line in _lines(text)
    ]


def hash_of(secret: str | bytes) -> bytes:
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def _lines(text: str) -> list[tuple[int, str]]:
    lines = ((number, line.partition("#")[0].strip()) for number, line in enumerate(_cut(text), 1))
    return [(number, line) for number, line in lines if line]


def _cut(text: str) -> list[str]:
    # Variables hold no line feeds everywhere.
    return text.replace(";", "\n").splitlines()


def _key(line: str, where: str) -> Key:
    parts = line.split()
    if len(parts) not in (3, 4) or not NAME.fullmatch(parts[0]) or not HASH.fullmatch(parts[2]):
        raise ConfigError(f"{where}: a key is NAME SCOPE SHA256 [EXPIRES]; {USAGE}")
    if parts[1] not in SCOPES:
        raise ConfigError(f"{where}: the scope must be one of {', '.join(SCOPES)}.")
    return Key(parts[0], parts[1], bytes.fromhex(parts[2]), _day(parts[3:], where))


def _day(parts: list[str], where: str) -> date | None:
    try:
        return date.fromisoformat(parts[0]) if parts else None
    except ValueError:
        raise ConfigError(f"{where}: the last day must be a date like 2027-12-31.") from None


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3) or arguments[1] not in SCOPES:
        print(USAGE, file=sys.stderr)
        return 2
    name, scope, *rest = arguments
    if not NAME.fullmatch(name):
        print("NAME: letters, digits, dot, dash and underscore, 64 at most", file=sys.stderr)
        return 2
    try:
        last_day = _day(rest, "EXPIRES")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    secret = secrets.token_urlsafe(32)
    print(f"key (shown once): {secret}", file=sys.stderr)
    print(Key(name, scope, hash_of(secret), last_day).line())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
