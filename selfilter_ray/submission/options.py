"""What a user writes behind an option, taken apart. Messages repeat no value: it may be secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from selfilter_ray.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` of an option that may be repeated.

    Raises:
        ConfigError: when one is of another form; values are not repeated in the message.
    """
    found = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{option} {key[:80]!r}: write it as KEY=VALUE.")
        found[key.strip()] = value
    return found


def variables(given: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` alone for the value that it has here.

    Raises:
        ConfigError: when a name is no name, or has no value here.
    """
    found = {}
    for text in given:
        name, separator, value = text.partition("=")
        if _NAME.fullmatch(name) is None:
            raise ConfigError("--env: write NAME=VALUE, or NAME of a variable that is set here.")
        if not separator and name not in environment:
            raise ConfigError(f"--env {name}: it is not set here. Set it, or write {name}=VALUE.")
        found[name] = value if separator else environment[name]
    return found


def headers(given: Iterable[str]) -> dict[str, str]:
    """``Name: value``, as curl takes it.

    Raises:
        ConfigError: when one is of another form; values are not repeated in the message.
    """
    found = {}
    for text in given:
        name, separator, value = text.partition(":")
        if not separator or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigError("--header: write it as 'Name: value'.")
        if re.search(r"[\r\n\0]", value) or not value.isascii():
            raise ConfigError(f"--header {name}: the value must be one line of ASCII.")
        found[name] = value.strip()
    return found


def memory(text: str | None) -> int | None:
    """Bytes of ``8GiB``, ``512M`` or ``1000000``.

    Raises:
        ConfigError: when it is of another form.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", text.strip())
    size = int(float(match.group(1)) * _UNITS[match.group(2)]) if match else 0
    if size <= 0:
        raise ConfigError(f"--memory {text[:40]!r}: write it as 8GiB or 512MiB.")
    return size


def place(given: Iterable[str]) -> tuple[dict[str, float], dict[str, str]]:
    """``--on``: a custom resource with its amount (``big=1``), or a label (``zone:a``).

    Raises:
        ConfigError: when one is of another form.
    """
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    for text in given:
        label, colon, value = text.partition(":")
        name, equals, amount = text.partition("=")
        if equals and name and re.fullmatch(r"\d{1,9}(\.\d{1,4})?", amount):
            resources[name] = float(amount)
        elif colon and label and value and "=" not in text:
            labels[label] = value
        else:
            raise ConfigError(
                f"--on {text[:80]!r}: write RESOURCE=AMOUNT for a custom resource, or LABEL:VALUE "
                "for a node's label."
            )
    return resources, labels
