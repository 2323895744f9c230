"""Which peers of a connection are proxies whose X-Forwarded-* headers are believed.

Proxies are named by address, by network, or by name. A name is looked up when a request needs it:
the container of a proxy may get another address whenever it is recreated. While a name has no
address, no peer is believed for it: limits then count by peer, which is too strict, never too lax.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

log = logging.getLogger(__name__)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Labels with dots between; the last one is no number, or "10.0.0" would be a name.
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
NAME = re.compile(rf"(?!.{{254}})(?:{LABEL}\.)*(?!\d+\.?\Z){LABEL}\.?\Z")
FRESH = 10.0  # seconds for which an address is believed without another look
AGAIN = 1.0  # seconds after which an unknown peer is worth another look
ANSWER = 1.0  # seconds that a request waits for a look
STALE = 60.0  # seconds for which addresses stay while the name server does not answer
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
# A name without a dot is one of this network: elsewhere a search domain might make it any host.
LOCAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)


def parse_address(text: str) -> Address | None:
    """Return the address of a text; of an IPv4 address in the form of IPv6 that of IPv4.

    A zone (``%eth0``) is left out. None for what is no address.
    """
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_proxy(text: str) -> Network | str:
    """Return the network of an address or network, else the name, in lower case.

    Raises:
        ValueError: the text is none of them, such as a network with bits of a host.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        if NAME.match(text):
            return text.lower()
        raise ValueError(f"{text!r} is neither an address, a network nor a name") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(MAPPED):
        address = network.network_address.ipv4_mapped
        return ipaddress.ip_network(f"{address}/{network.prefixlen - 96}")
    return network


def resolve(name: str) -> frozenset[Address]:
    """Return the addresses of a name; empty when there is no such name.

    Raises:
        OSError: the name server did not answer.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return frozenset()
        raise
    except UnicodeError:  # a label that is too long
        return frozenset()
    addresses = (parse_address(str(entry[4][0])) for entry in found)
    single = "." not in name.rstrip(".")
    return frozenset(
        address
        for address in addresses
        if address and (not single or any(address in network for network in LOCAL))
    )


class Proxies:
    """The trusted proxies of one process."""

    def __init__(
        self,
        proxies: Iterable[str],
        look_up: Callable[[str], frozenset[Address]] = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parsed = [parse_proxy(text) for text in proxies]
        self.networks = [entry for entry in parsed if not isinstance(entry, str)]
        self.names = [entry for entry in parsed if isinstance(entry, str)]
        self.look_up, self.clock = look_up, clock
        # By name: when the name server answered, and what. Another thread replaces all of it.
        self.known: dict[str, tuple[float, frozenset[Address]]] = {}
        self.looked = float("-inf")
        self.pending: Future[None] | None = None
        self.began = 0.0

    def trusts(self, peer: str) -> bool:
        """Whether the peer is one of the proxies, as far as is known without waiting."""
        address = parse_address(peer)
        if address is None:
            return False
        if any(address in network for network in self.networks):
            return True
        now = self.clock()
        return any(
            address in found and now - answered <= STALE for answered, found in self.known.values()
        )

    async def refresh(self, peer: str) -> None:
        """Look the names up again if that may decide whether the peer is a proxy.

        Waits for ANSWER seconds at most, and never raises. Many who wait share one look.
        """
        age = self.clock() - self.looked
        if not self.names or age < AGAIN or (age < FRESH and self.trusts(peer)):
            return
        if self.pending is None or self.pending.done():
            self.pending, self.began = Future(), self.clock()
            # A thread of its own, one at a time: a name server that does not answer uses up no
            # threads of others, and does not hold up the end of the process.
            threading.Thread(target=self._run, args=(self.pending,), daemon=True).start()
        if (left := self.began + ANSWER - self.clock()) > 0:
            await asyncio.wait([asyncio.wrap_future(self.pending)], timeout=left)

    def _run(self, pending: Future[None]) -> None:
        try:
            self._look()
        finally:
            pending.set_result(None)

    def _look(self) -> None:
        known = {}
        for name in self.names:
            before = self.known.get(name)
            try:
                known[name] = (self.clock(), self.look_up(name))
                _tell(name, before[1] if before else None, known[name][1], "")
            except OSError as error:
                if before and self.clock() - before[0] <= STALE:
                    known[name] = before
                else:
                    _tell(name, before[1] if before else None, frozenset(), f" ({error})")
        self.known, self.looked = known, self.clock()


def _tell(
    name: str, before: frozenset[Address] | None, found: frozenset[Address], why: str
) -> None:
    if before and not found:
        log.warning(
            "TRUSTED_PROXIES: %s has no address any more%s. Until it has one, nobody's"
            " X-Forwarded-For is believed for it: all its clients are limited as one.",
            name,
            why,
        )
    elif found and found != before:
        log.info("TRUSTED_PROXIES: %s is %s", name, ", ".join(sorted(map(str, found))))
