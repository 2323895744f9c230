"""Which peers are trusted proxies, while names get other addresses, or none."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable

import pytest
from backend.proxies import (
    AGAIN,
    ANSWER,
    FRESH,
    STALE,
    Address,
    Proxies,
    parse_address,
    parse_proxy,
    resolve,
)
from hypothesis import given
from hypothesis import strategies as st

WORKER, NGINX, OTHER = "172.20.0.9", "172.20.0.2", "172.20.0.3"


class Names:
    """A name server, and a clock."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.error, self.looks, self.now = addresses, False, 0, 0.0

    def look_up(self, name: str) -> frozenset[Address]:
        """Return what is known of `nginx`."""
        self.looks += 1
        if self.error:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        known = self.addresses if name == "nginx" else ()
        return frozenset(ipaddress.ip_address(each) for each in known)

    def proxies(self, *names: str) -> Proxies:
        return Proxies(names or ("nginx",), self.look_up, lambda: self.now)


def ask(proxies: Proxies, *peers: str) -> list[bool]:
    """Whether each is trusted, as a request of each finds out."""

    async def one(peer: str) -> bool:
        await proxies.refresh(peer)
        return proxies.trusts(peer)

    async def every() -> list[bool]:
        return list(await asyncio.gather(*map(one, peers)))

    return asyncio.run(every())


def test_only_the_named_container_is_trusted() -> None:
    names = Names(NGINX)
    proxies = names.proxies()
    assert not proxies.trusts(NGINX)  # before anybody has looked
    assert ask(proxies, NGINX, WORKER, "127.0.0.1", "") == [True, False, False, False]
    assert ask(proxies, f"::ffff:{NGINX}", f"::ffff:{WORKER}") == [True, False]
    assert names.looks == 1


def test_a_recreated_proxy_is_trusted_at_its_first_request() -> None:
    names = Names(NGINX)
    proxies = names.proxies()
    assert ask(proxies, NGINX) == [True]
    names.addresses, names.now = (OTHER,), AGAIN
    assert ask(proxies, OTHER) == [True]
    assert ask(proxies, NGINX) == [False]


def test_two_addresses_are_trusted_while_both_are_there() -> None:
    names = Names(NGINX, OTHER)
    assert ask(names.proxies(), NGINX, OTHER, WORKER) == [True, True, False]


@pytest.mark.parametrize("error", [False, True])
def test_without_an_address_nobody_is_trusted(error: bool) -> None:
    names = Names()
    names.error = error
    proxies = names.proxies()
    assert ask(proxies, NGINX, WORKER, "127.0.0.1") == [False] * 3
    names.error, names.addresses, names.now = False, (NGINX,), AGAIN
    assert ask(proxies, NGINX) == [True]


def test_a_name_that_is_gone_is_trusted_no_more() -> None:
    names = Names(NGINX)
    proxies = names.proxies()
    assert ask(proxies, NGINX) == [True]
    names.addresses, names.now = (), FRESH
    assert ask(proxies, NGINX) == [False]


def test_a_name_server_that_is_away_ends_trust_after_a_minute() -> None:
    """Not at once: the address has not changed, and all clients would be limited as one."""
    names = Names(NGINX)
    proxies = names.proxies()
    assert ask(proxies, NGINX) == [True]
    names.error, names.now = True, STALE
    assert ask(proxies, NGINX, WORKER) == [True, False]
    names.now = STALE + 1
    assert not proxies.trusts(NGINX)
    assert ask(proxies, NGINX) == [False]


def test_a_flood_of_strangers_makes_few_looks() -> None:
    names = Names(NGINX)
    proxies = names.proxies()
    assert not any(ask(proxies, *[WORKER] * 500))
    assert names.looks == 1


def test_a_name_server_that_hangs_delays_few_requests() -> None:
    """It never answers: requests go on, as of strangers, and hold one thread."""
    release, looks = threading.Event(), []

    def hang(name: str) -> frozenset[Address]:
        looks.append(name)
        release.wait(30)
        return frozenset()

    now = [0.0]
    proxies = Proxies(["nginx"], hang, lambda: now[0])

    async def requests() -> None:
        async with asyncio.timeout(ANSWER + 5):
            await asyncio.gather(*(proxies.refresh(NGINX) for _ in range(100)))
        now[0] = ANSWER
        async with asyncio.timeout(ANSWER / 2):
            await asyncio.gather(*(proxies.refresh(NGINX) for _ in range(100)))
        assert not proxies.trusts(NGINX)

    try:
        asyncio.run(requests())
        assert looks == ["nginx"]
    finally:
        release.set()


def test_networks_need_no_name_server() -> None:
    names = Names(NGINX)
    proxies = names.proxies("10.0.0.0/8", "::ffff:192.0.2.0/120", "2001:db8::/32")
    peers = ("10.1.1.1", "::ffff:10.1.1.1", "192.0.2.7", "2001:db8::1", "192.0.3.1", NGINX)
    assert ask(proxies, *peers) == [True] * 4 + [False] * 2
    assert names.looks == 0


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("::1", "::1/128"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("nginx", "nginx"),
        ("Balancer.example.com.", "balancer.example.com."),
        ("my_stack_nginx-1", "my_stack_nginx-1"),
    ],
)
def test_proxies_are_read_as_people_write_them(given_: str, found: str) -> None:
    assert str(parse_proxy(given_)) == found


@given(st.text(max_size=30))
def test_every_text_is_a_proxy_or_refused(text: str) -> None:
    try:
        found = parse_proxy(text)
    except ValueError:
        return
    assert str(found).strip() not in ("", "*")
    assert parse_proxy(str(found)) == found  # Settings are read twice


@given(st.text(max_size=30))
def test_no_text_is_an_address_of_the_proxy(text: str) -> None:
    proxies = Names(NGINX).proxies()
    ask(proxies, NGINX)
    address = parse_address(text)
    assert proxies.trusts(text) is (address == ipaddress.ip_address(NGINX))


@pytest.mark.parametrize(
    ("name", "answer", "found"),
    [
        ("nginx", ["172.20.0.2", "fd00::2"], {"172.20.0.2", "fd00::2"}),
        ("nginx", ["::ffff:172.20.0.2"], {"172.20.0.2"}),
        # A search domain has made it a host somewhere.
        ("nginx", ["203.0.113.5"], set()),
        ("balancer.example.com", ["203.0.113.5"], {"203.0.113.5"}),
    ],
)
def test_a_name_without_a_dot_is_one_of_this_network(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: list[str], found: set[str]
) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert set(map(str, resolve(name))) == found


def failing(number: int) -> Callable[..., None]:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "no")

    return getaddrinfo


def test_no_such_name_is_no_failure_of_the_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", failing(socket.EAI_NONAME))
    assert resolve("nginx") == frozenset()
    monkeypatch.setattr(socket, "getaddrinfo", failing(socket.EAI_AGAIN))
    with pytest.raises(OSError, match="no"):
        resolve("nginx")
