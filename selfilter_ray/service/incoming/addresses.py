"""Which network addresses are public: those that a server may fetch from for a stranger."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# All public IPv6 is in here; outside are also the forms that have an IPv4 address inside (mapped,
# compatible, translated, NAT64).
GLOBAL_UNICAST = ip_network("2000::/3")
# Named, because the standard library knows some of them only since later versions.
NOT_PUBLIC = tuple(
    ip_network(block)
    for block in (
        "168.63.129.16/32",  # the host agent of Azure machines: looks public, and is not
        "192.0.0.0/24",  # protocol assignments, and metadata of Oracle machines
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver writes it, is one of the public internet."""
    try:
        ip: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if ip.version == GLOBAL_UNICAST.version and ip not in GLOBAL_UNICAST:
        return False
    if any(ip in block for block in NOT_PUBLIC if block.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)
