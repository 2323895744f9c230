"""Name the clients that hold the connections of a data service that has none left.

Needs nothing but Python: the timer on a server runs it without Ansible. 3.9+.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...sockets import socket_address
from ...text import printable

# Clients that are named.
MOST_CLIENTS = 5
# The kernel's own lists, in the container of the service. A service without a free connection
# cannot be asked who holds them, and does not know the clients that have not logged in.
SOCKETS = "cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix 2> /dev/null || :"
# Of a TCP connection that is open, and of one that its client has closed and the server has not.
_OPEN = ("01", "08")
_CONNECTED = "03"  # of a Unix socket
LOCAL = ""


@dataclass(frozen=True)
class Service:
    """A data service: where it listens, and what it says when it has no connection left.

    Attributes:
        name: as messages have it.
        port: that of its container.
        socket: end of the path of its Unix socket.
        words: in an error of whatever client.
        refused: in the errors of its own client (psql, mariadb) that did not get in; a statement
            of ours that fails, whose error may have names of the application's, has other words.
    """

    name: str
    port: int
    socket: str
    words: re.Pattern[str]
    refused: re.Pattern[str]


_FULL = (
    r"(?:sorry, too many clients already|remaining connection slots are reserved"
    r"|too many connections for (?:role|database) )"
)
SERVICES = {
    "postgres": Service(
        "PostgreSQL",
        5432,
        "/.s.PGSQL.5432",
        re.compile(rf"FATAL: +{_FULL}"),
        re.compile(rf"(?m)^(?:\| |“)?psql: error: (?:[^\n]*(?:failed|server): )?FATAL: +{_FULL}"),
    ),
    "mariadb": Service(
        "MariaDB",
        3306,
        "/mysqld.sock",
        re.compile(r"\b1040\b.{0,20}Too many connections"),
        # The second one before the handshake of TLS, of clients since 11.4.
        re.compile(
            r"\A“?ERROR (?:1040 \(\w+\): |2002 \(HY000\): Received error packet before completion"
            r" of TLS handshake\.[^\n]*: 1040 - )Too many connections”?\Z"
        ),
    ),
    "redis": Service(
        "Redis",
        6379,
        "/redis.sock",
        re.compile(r"max number of clients reached"),
        re.compile(r"\A“?(?:\(error\) )?ERR max number of clients reached"),
    ),
}


def full_service(words: str) -> str:
    """Return which of SERVICES said that it takes no more connections; empty for none.

    Of PostgreSQL, also that a role or a database has as many as it may have.
    """
    return next((name for name, each in SERVICES.items() if each.words.search(words)), "")


def refuses_all(words: str) -> bool:
    """Return whether a client could not ask its service, because that has no connection left."""
    return any(each.refused.search(words) for each in SERVICES.values())


def container_addresses(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return address -> name of containers, from records of ``docker container inspect``."""
    found: dict[str, str] = {}
    for record in records:
        networks = (record.get("NetworkSettings") or {}).get("Networks") or {}
        for network in networks.values():
            for key in ("IPAddress", "GlobalIPv6Address"):
                if address := str((network or {}).get(key) or ""):
                    found[address] = printable(record.get("Name", "")).lstrip("/")
    return found


def count_clients(sockets: str, service: Service) -> Counter[str]:
    """Return how many connections each client has with a service; LOCAL for its own container.

    Args:
        sockets: what `SOCKETS` printed there.
    """
    counts: Counter[str] = Counter()
    for line in sockets.splitlines():
        fields = line.split()
        if len(fields) >= 7 and fields[-1].endswith(service.socket) and fields[5] == _CONNECTED:
            counts[LOCAL] += 1
            continue
        if len(fields) < 10 or fields[3] not in _OPEN:
            continue
        try:
            (_own, port), (address, _port) = socket_address(fields[1]), socket_address(fields[2])
        except ValueError:
            continue
        if port == service.port:
            counts[LOCAL if address in ("127.0.0.1", "::1") else address] += 1
    return counts


def explain_shortage(run: Callable[..., str], project: str, words: str) -> str:
    """Return that a service of a stack has no connection left, and who holds them, in sentences.

    Args:
        run: returns what a command of the Docker client prints; of one that fails, anything.
        words: those of a client, such as the application; of others, nothing is returned.
    """
    name = full_service(words)
    if not name:
        return ""
    label = "label=com.docker.compose"
    of = (f"{label}.project={project}", f"{label}.service={name}")
    filters = [word for each in of for word in ("--filter", each)]
    ids = run("ps", "--quiet", "--no-trunc", *filters).split()
    holders = find_holders(run, name, (ids or [""])[0])
    return f"{SERVICES[name].name} has no connection left{holders}."


def find_holders(run: Callable[..., str], name: str, container: str) -> str:
    """Return who holds the connections of a service, as sentences that follow an error.

    Args:
        run: returns what a command of the Docker client prints; of one that fails, anything.
        name: one of `SERVICES`.
        container: the one that the service runs in; empty where that is not known.
    """
    command = ("timeout", "20", "sh", "-c", SOCKETS)
    sockets = run("exec", "--interactive", container, *command) if container else ""
    ids = run("ps", "--quiet", "--no-trunc").split()
    try:
        records = json.loads(run("container", "inspect", *ids)) if ids else []
    except ValueError:
        records = []
    return describe_holders(sockets, SERVICES[name], container_addresses(records))


def describe_holders(sockets: str, service: Service, containers: Mapping[str, str]) -> str:
    """Return who holds connections and what to do, as sentences that follow the error.

    Args:
        sockets: what `SOCKETS` printed in the container of the service; empty where it could not.
        containers: of `container_addresses`.
    """
    counts = count_clients(sockets, service)
    if not counts:
        return (
            f". Nobody could be found who holds connections of {service.name}. The client with the"
            " most connections must end: stop containers of the application one after the other"
            " (docker stop <name>), and run this again"
        )
    parts = [
        f"{number} {_client(address, containers, service)}"
        for address, number in counts.most_common(MOST_CLIENTS)
    ]
    more = len(counts) - MOST_CLIENTS
    parts += [f"others of {more} more clients"] if more > 0 else []
    stop = next((containers[a] for a, _ in counts.most_common() if a in containers), "<name>")
    return (
        f". Who holds connections of {service.name}: {', '.join(parts)}. To free them, on the"
        f" server: docker stop {stop}; then run this again, and find out why it opens so many (the"
        " pool of connections of the application, or a stranger in that container)"
    )


def _client(address: str, containers: Mapping[str, str], service: Service) -> str:
    if address == LOCAL:
        return f"of programs in {service.name}'s own container"
    name = containers.get(address)
    return f"of container {name} ({address})" if name else f"of address {address}"
