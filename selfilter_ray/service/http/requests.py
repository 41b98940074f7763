"""The id of a request: the caller's when it is sane, else a new one."""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from typing import Any

SANE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
KEY = "selfilter.request_id"


def name_request(scope: MutableMapping[str, Any]) -> str:
    """Put the id of a request into its scope."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    id = given.decode("ascii") if SANE.fullmatch(given) else secrets.token_hex(8)
    scope[KEY] = id
    return id


def request_id_of(scope: Any) -> str:
    return scope.get(KEY, "")
