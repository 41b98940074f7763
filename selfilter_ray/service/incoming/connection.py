"""Connections to checked addresses only: what was resolved and checked is what is connected to.

A name is resolved once for each connection, all its addresses are checked, and the connection goes
to one of these numbers; so a name that resolves to something else a moment later gains nothing. The
name stays in the Host header and, with TLS, is what the certificate must be for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpcore

from selfilter_ray.service.incoming.refusals import Unusable

Resolver = Callable[[str, int], Awaitable[list[str]]]
AddressCheck = Callable[[str], bool]
SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)

# Of their own: a name server that does not answer must not hold up what else is done in threads.
RESOLVING = ThreadPoolExecutor(8, "resolve")


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system finds them; it knows every notation of a number.

    Raises:
        OSError: when there are none.
    """
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(RESOLVING, ask)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Makes the connections of an httpcore pool.

    Args:
        is_allowed: of an address; all addresses of a host must be.
    """

    def __init__(self, is_allowed: AddressCheck, resolver: Resolver = resolve) -> None:
        self._is_allowed, self._resolver = is_allowed, resolver
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._addresses(host, port):
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("no sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError):  # UnicodeError: no name of a host
            raise Unusable("image_fetch", f"{host[:200]} has no address") from None
        if not all(self._is_allowed(address) for address in addresses):
            # Which address it is would tell a stranger about the network in here.
            raise Unusable("image_url_refused", f"{host[:200]} is not on the public internet")
        return addresses
