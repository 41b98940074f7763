"""The token of a cluster: found where Ray looks for it, and offered when there is one.

Ray's clients send a token only in the mode ``token``, which is off unless it is asked for. Whoever
has a token wants it sent. No token is ever part of a message.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

MODE, TOKEN, FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT = Path(".ray") / "auth_token"
REMEDY = (
    "Give the cluster's token in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in "
    "~/.ray/auth_token."
)


def offer_token() -> None:
    """Have Ray send the token, where there is one and the mode is left open.

    Ray reads the mode when it is first imported: where that has happened it is the caller's choice.
    """
    if "ray" not in sys.modules and MODE not in os.environ and where_token_is() is not None:
        os.environ[MODE] = "token"


def where_token_is() -> str | None:
    """In words, the place that Ray takes the token from; None where there is none."""
    if os.environ.get(TOKEN):
        return f"the variable {TOKEN}"
    named = os.environ.get(FILE)
    if named:
        return named
    default = Path.home() / DEFAULT
    return str(default) if default.is_file() else None


def is_sent() -> bool:
    """Whether Ray sends a token: there is one, and the mode asks for it."""
    return where_token_is() is not None and os.environ.get(MODE, "").lower() == "token"


def refusal(place: str, sent: bool) -> str:
    """What to say when a cluster refuses the token, or none was sent."""
    if not sent:
        return f"{place} asks for a token, and none was sent. {REMEDY}"
    return f"{place} refuses the token of {where_token_is()}: it is another cluster's. {REMEDY}"
