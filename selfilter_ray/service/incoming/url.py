"""Images by URL, for operators who allow it.

Nothing is sent anywhere before the address is checked, and after a redirect all is checked again:
scheme, port, host, and every address that the host resolves to. Size and time have limits whatever
the server says of them. No proxies, no cookies, no credentials; neither the environment nor
``.netrc`` is looked at.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import httpx

from selfilter_ray.service.incoming.addresses import is_public
from selfilter_ray.service.incoming.connection import (
    AddressCheck,
    CheckedNetwork,
    Resolver,
    resolve,
)
from selfilter_ray.service.incoming.refusals import Unusable
from selfilter_ray.service.settings import UrlSettings

DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
LONGEST = 8192
# Compressed answers would have to be unpacked to know their size.
HEADERS = [
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", "selfilter-ray"),
]


class ImageFetcher:
    """Fetches images.

    Args:
        limit: bytes of an image.
        is_allowed: of an IP address.
        ssl_context: for https; None trusts the usual authorities.
    """

    def __init__(
        self,
        settings: UrlSettings,
        limit: int,
        is_allowed: AddressCheck = is_public,
        resolver: Resolver = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings, self._limit = settings, limit
        self._hosts = {host.lower() for host in settings.hosts}
        self._network = CheckedNetwork(is_allowed, resolver)
        self._ssl = ssl_context
        if settings.allowed and ssl_context is None:
            self._ssl = httpx.create_ssl_context(trust_env=False)

    async def fetch(self, address: str) -> bytes:
        """The bytes that the address answers with.

        Raises:
            Unusable: image_url, image_url_refused, image_fetch, image_too_large.
        """
        if not self._settings.allowed:
            raise Unusable("image_url_refused", "this service fetches no images by URL")
        try:
            async with asyncio.timeout(self._settings.seconds):
                return await self._follow(_url(address))
        except TimeoutError:
            detail = f"not there within {self._settings.seconds:g} s"
            raise Unusable("image_fetch", detail) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise Unusable("image_fetch", f"{type(error).__name__}: {error}"[:200]) from None

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(self._settings.redirects + 1):
            self._check(url)
            async with self._get(url) as response:
                if response.status not in REDIRECTS:
                    return await self._image(response)
                target = _header(response, b"location")
            if not target:
                raise Unusable("image_fetch", f"status {response.status} without a Location")
            url = _url(target, url)
        raise Unusable("image_fetch", f"more than {self._settings.redirects} redirects")

    def _check(self, url: httpx.URL) -> None:
        """What can be told without the network."""
        if not url.scheme:
            raise Unusable("image_url", "the URL has no scheme")
        if url.scheme not in DEFAULT_PORTS:
            raise Unusable("image_url_refused", f"{url.scheme[:40]}: is not http or https")
        if url.userinfo:
            raise Unusable("image_url_refused", "the URL holds a user name or password")
        if not url.host:
            raise Unusable("image_url", "the URL has no host")
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if port not in self._settings.ports:
            raise Unusable("image_url_refused", f"port {port} is not allowed")
        if self._hosts and url.host.lower() not in self._hosts:
            raise Unusable("image_url_refused", f"host {url.host[:200]} is not allowed")

    @asynccontextmanager
    async def _get(self, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        # A pool of one request: a connection that stays open would outlive its check.
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        seconds = self._settings.seconds
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        extensions: dict[str, Any] = {"timeout": timeout}
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._ssl, network_backend=self._network, max_keepalive_connections=0
        )
        async with (
            pool,
            pool.stream("GET", target, headers=HEADERS, extensions=extensions) as response,
        ):
            yield response

    async def _image(self, response: httpcore.Response) -> bytes:
        self._refuse_by_headers(response)
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_stream():
            size += len(part)
            if size > self._limit:
                raise Unusable("image_too_large", f"more than {self._limit} bytes")
            parts.append(part)
        return b"".join(parts)

    def _refuse_by_headers(self, response: httpcore.Response) -> None:
        if response.status != 200:
            raise Unusable("image_fetch", f"status {response.status}")
        kind = _header(response, b"content-type").partition(";")[0].strip().lower()
        if not kind.startswith("image/"):
            raise Unusable("image_fetch", f"content type {kind[:80] or 'none'}, not image/*")
        encoding = _header(response, b"content-encoding").strip().lower()
        if encoding not in {"", "identity"}:
            raise Unusable("image_fetch", f"content encoding {encoding[:40]}: send it as it is")
        said = _header(response, b"content-length")
        if said.isdecimal() and (len(said) > 18 or int(said) > self._limit):
            raise Unusable("image_too_large", f"{said[:20]} bytes, the limit is {self._limit}")


def _url(address: str, base: httpx.URL | None = None) -> httpx.URL:
    """An address, or one relative to the page that named it; read by one parser only."""
    if len(address) > LONGEST:
        raise Unusable("image_url", f"the URL has more than {LONGEST} characters")
    try:
        return httpx.URL(address) if base is None else base.join(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise Unusable("image_url", f"not a URL: {error}"[:200]) from None


def _header(response: httpcore.Response, name: bytes) -> str:
    found = [value for key, value in response.headers if key.lower() == name]
    return found[0].decode("latin-1") if found else ""
