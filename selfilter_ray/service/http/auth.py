"""Who may ask: ``Authorization: Bearer KEY``, with the scope data or admin."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

from fastapi import Request

from selfilter_ray.service.http.keys import Key, hash_of
from selfilter_ray.service.http.problems import Problem

KEY_NAME = "selfilter.key"
REMEDY = "Send the header Authorization: Bearer KEY, with a key that the operator gave you."


class Keyring:
    """Knows the hashes of keys.

    Args:
        keys: none of them leaves the service open.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    @property
    def open(self) -> bool:
        return not self._keys

    def find(self, secret: bytes) -> Key | None:
        """The key, expired or not; takes the same time wherever it stands."""
        given = hash_of(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, given):
                found = key
        return found

    def needs(self, scope: str) -> Callable[[Request], Awaitable[None]]:
        """A dependency of routes: raises ``Problem`` 401 or 403."""

        async def check(request: Request) -> None:
            if not self.open:
                request.scope[KEY_NAME] = self._checked(request, scope).name

        return check

    def _checked(self, request: Request, scope: str) -> Key:
        # Keys in the query would end in logs and histories: they are not looked for.
        headers = request.headers.getlist("authorization")
        scheme, _, secret = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unknown("no_key", "this address needs a key", "")
        key = self.find(secret.strip().encode("latin-1"))
        if key is None:
            raise _unknown("unknown_key", "the key is not known", ', error="invalid_token"')
        if key.expired():
            raise _unknown("expired_key", "the key has expired", ', error="invalid_token"')
        if scope == "admin" and key.scope != "admin":
            detail = "this address needs a key with the scope admin"
            raise Problem(403, "scope", detail, "Ask the operator for an admin key.")
        return key


def _unknown(code: str, detail: str, said: str) -> Problem:
    headers = {"WWW-Authenticate": f'Bearer realm="selfilter"{said}'}
    return Problem(401, code, detail, REMEDY, headers=headers)
