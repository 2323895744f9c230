"""Whose an id is, and which client an address belongs to: pure functions."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from backend.callers import (
    UNKNOWN,
    Caller,
    client_address,
    is_owned,
    is_secure,
    key,
    may_read,
    new_id,
    read_cookie,
    sign_guest,
)
from backend.limits import KNOWN, RateLimiter
from backend.proxies import Proxies
from backend.settings import Settings
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError


@pytest.fixture
def private_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of private networks, as a site has them that nginx is not in front of."""
    found = Proxies(("10.0.0.0/8", "172.16.0.0/12", "fc00::/7"))
    monkeypatch.setattr("backend.callers.proxies", lambda: found)


def who(user: str | None = None, guest: str | None = None) -> Caller:
    return Caller(user=user, guest=guest, address="198.51.100.7")


@given(st.text(max_size=20), st.text(max_size=20))
def test_an_id_is_its_owners_alone(one: str, other: str) -> None:
    made = new_id(f"guest:{one}")
    assert UUID(made).version == 4
    assert str(UUID(made)) == made
    assert is_owned(made)
    assert may_read(made, who(guest=one or None)) is bool(one)
    assert may_read(made, who(guest=other or None)) is (one == other != "")
    assert not may_read(made, who(user=one or None))
    assert not may_read(made, who())


def test_ids_differ() -> None:
    assert len({new_id("user:admin") for _ in range(1000)}) == 1000


def test_without_an_owner_nobody_reads() -> None:
    made = new_id(None)
    assert not any(may_read(made, each) for each in (who(), who("admin"), who(guest="None")))


def test_another_key_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of SECRET_KEY an id is still known as one that has an owner."""
    made, cookie = new_id("user:admin"), sign_guest("0" * 32)
    monkeypatch.setattr("backend.callers.key", lambda: b"another")
    assert is_owned(made)
    assert not may_read(made, who("admin"))
    assert read_cookie(cookie) is None


@given(st.text() | st.uuids(version=4).map(str))
def test_ids_of_earlier_releases_stay_readable(made: str) -> None:
    """Who began a chat or a research before a deploy goes on with it after the deploy."""
    assert not is_owned(made)
    assert may_read(made, who())


def test_a_random_id_has_no_owner() -> None:
    assert not any(is_owned(str(uuid4())) for _ in range(1000))


@given(st.text())
def test_no_text_is_a_cookie(text: str) -> None:
    assert read_cookie(text) is None
    assert read_cookie(f"{'0' * 32}.{text}") is None


def test_a_cookie_names_its_guest() -> None:
    assert read_cookie(sign_guest("0" * 32)) == "0" * 32
    assert len(key()) == 32


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("172.18.0.5", "198.51.100.7", "198.51.100.7"),
        ("172.18.0.5", "203.0.113.1, 198.51.100.7", "198.51.100.7"),
        ("172.18.0.5", "", "172.18.0.5"),
        ("172.18.0.5", "nonsense", "172.18.0.5"),
        ("172.18.0.5", "198.51.100.7,", "172.18.0.5"),
        ("172.18.0.5", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("172.18.0.5", "::ffff:198.51.100.7", "198.51.100.7"),
        ("172.18.0.5", "10.0.0.7", "10.0.0.7"),
        ("fd00::5", "198.51.100.7", "198.51.100.7"),
        ("::ffff:172.18.0.5", "198.51.100.7", "198.51.100.7"),
        ("::ffff:203.0.113.5", "198.51.100.7", "203.0.113.5"),
        ("203.0.113.5", "198.51.100.7", "203.0.113.5"),  # no proxy of ours
        ("", "198.51.100.7", UNKNOWN),
        ("testclient", "198.51.100.7", UNKNOWN),
    ],
)
@pytest.mark.usefixtures("private_proxies")
def test_the_client_is_whom_a_trusted_proxy_names(peer: str, forwarded: str, client: str) -> None:
    assert client_address(peer, forwarded) == client


@given(st.text(), st.text())
def test_every_header_names_some_client(peer: str, forwarded: str) -> None:
    assert client_address(peer, forwarded)
    assert client_address("10.0.0.1", forwarded)


@pytest.mark.parametrize(
    "peer", ["172.18.0.5", "10.0.0.9", "127.0.0.1", "fd00::5", "::ffff:10.1.1.1"]
)
def test_a_neighbour_container_names_no_client(peer: str) -> None:
    """Regression: a worker was as many clients as it liked, and passed every limit by client."""
    named = {client_address(peer, f"198.51.100.{number}") for number in range(9)}
    assert len(named) == 1
    assert not any(name.startswith("198.51.100.") for name in named)
    scope = {"client": (peer, 1), "scheme": "http", "headers": [(b"x-forwarded-proto", b"https")]}
    assert not is_secure(scope)


def test_the_pace_is_a_minutes_worth_at_once_and_then_evenly() -> None:
    now = [0.0]
    pace = RateLimiter(lambda: now[0])
    assert [pace.wait("a", 6) == 0 for _ in range(8)] == [True] * 6 + [False] * 2
    assert pace.wait("a", 6) == pytest.approx(10)
    assert pace.wait("b", 6) == 0
    now[0] = 10.0
    assert [pace.wait("a", 6) == 0 for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [pace.wait("a", 6) == 0 for _ in range(7)] == [True] * 6 + [False]


def test_a_process_remembers_a_bounded_number_of_clients() -> None:
    pace = RateLimiter()
    for number in range(2 * KNOWN + 5):
        pace.wait(f"client-{number}", 60)
    assert len(pace.taken) <= KNOWN


def test_settings_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_WORKER_QUEUES", "default, research,")
    monkeypatch.setenv("TRUSTED_PROXIES", "192.0.2.1,2001:db8::/32, Nginx")
    found = Settings()
    assert found.celery_worker_queues == ("default", "research")
    assert found.trusted_proxies == ("192.0.2.1/32", "2001:db8::/32", "nginx")
    assert found.research_queue == "research"
    # An inventory of before names no such queue: nobody would take what is sent there.
    monkeypatch.setenv("CELERY_WORKER_QUEUES", "default,embeddings")
    assert Settings().research_queue == "default"
    monkeypatch.delenv("CELERY_WORKER_QUEUES")
    assert Settings().research_queue == "default"
    for wrong in ("the balancer", "*", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "nginx;", "-nginx"):
        monkeypatch.setenv("TRUSTED_PROXIES", wrong)
        with pytest.raises(ValidationError, match="address"):
            Settings()
    monkeypatch.delenv("TRUSTED_PROXIES")
    assert Settings().trusted_proxies == ("nginx",)
