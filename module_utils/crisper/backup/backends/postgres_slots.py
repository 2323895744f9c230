"""Who holds the connections of a PostgreSQL that has none left.

Needs nothing but Python: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...text import listed, printable, quote

_NO_CONNECTION = re.compile(
    r"FATAL: +(?:sorry, too many clients already|remaining connection slots are reserved"
    r"|too many connections for (?:role|database) )"
)
# Of a view of PostgreSQL's own, in which no operator or cast is called.
HOLDERS = (
    "COPY (SELECT backend_type, client_addr, application_name FROM pg_catalog.pg_stat_activity)"
    " TO STDOUT"
)
CLIENT = "client backend"
NOTHING = r"\N"
# Clients that are named, and names of programs of one client.
MOST_CLIENTS, MOST_PROGRAMS = 5, 3


def has_no_connection(words: str) -> bool:
    """Return whether PostgreSQL said that it, a role or a database takes no more connections."""
    return bool(_NO_CONNECTION.search(words))


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


def describe_holders(answer: str, containers: Mapping[str, str]) -> str:
    """Return who holds connections and what to do, as sentences that follow the error.

    Args:
        answer: what PostgreSQL said to `HOLDERS`; empty where it has no connection for a superuser
            either.
        containers: of `container_addresses`.
    """
    rows = [line.split("\t") for line in answer.splitlines()]
    rows = [row for row in rows if len(row) == 3 and row[0] == CLIENT]
    counts = Counter(row[1] for row in rows)
    if not counts:
        return (
            ". PostgreSQL has no connection left, and could not be asked who holds them. The client"
            " with the most connections must end: stop containers of the application one after the"
            " other (docker stop <name>), and run this again"
        )
    parts = []
    for address, number in counts.most_common(MOST_CLIENTS):
        programs = Counter(row[2] for row in rows if row[1] == address and row[2])
        names = ", ".join(quote(name, 60) for name, _ in programs.most_common(MOST_PROGRAMS))
        parts.append(f"{number} {_client(address, containers)}{f' ({names})' if names else ''}")
    more = len(counts) - MOST_CLIENTS
    parts += [f"others of {more} more clients"] if more > 0 else []
    stop = next((f" {containers[a]}" for a, _ in counts.most_common() if a in containers), "")
    return (
        f". Who holds connections of PostgreSQL (client, in brackets what it calls itself):"
        f" {', '.join(parts)}. To free them, on the server: docker stop{stop or ' <name>'}; then"
        " run this again, and find out why it opens so many (the pool of connections of the"
        " application, or a stranger in that container)"
    )


def _client(address: str, containers: Mapping[str, str]) -> str:
    if address == NOTHING:
        return "of programs in PostgreSQL's own container"
    name = containers.get(address)
    return f"of container {name}" if name else f"of address {listed([address])}"
