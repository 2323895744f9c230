"""Networks of a stack as the engine has them; pure functions of plain data."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Docker Compose's labels.
PROJECT, NETWORK = "com.docker.compose.project", "com.docker.compose.network"
BRIDGE_NAME = "com.docker.network.bridge.name"
# The network of nginx alone, by which clients come in; nothing goes out by it.
CLIENTS = "clients"


@dataclass(frozen=True)
class Bridge:
    """A network of the stack as the host sees it."""

    key: str  # its name in the compose file
    interface: str
    internal: bool
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()

    @property
    def reaches_out(self) -> bool:
        """True if containers may go out by it, and to the ports of the host that are open."""
        return not self.internal and self.key != CLIENTS


def parse_networks(records: Iterable[Mapping[str, Any]]) -> list[Bridge]:
    """Return the bridges of ``docker network inspect``'s JSON, sorted by key."""
    found = []
    for record in records:
        if record.get("Driver") != "bridge":
            continue
        labels = record.get("Labels") or {}
        options = record.get("Options") or {}
        pools = (record.get("IPAM") or {}).get("Config") or []
        subnets = [str(pool["Subnet"]) for pool in pools if pool.get("Subnet")]
        found.append(
            Bridge(
                key=str(labels.get(NETWORK) or record["Name"]),
                interface=str(options.get(BRIDGE_NAME) or f"br-{record['Id'][:12]}"),
                internal=bool(record.get("Internal")),
                subnets=tuple(subnets),
                gateways=tuple(_gateway(pool) for pool in pools if pool.get("Subnet")),
            )
        )
    return sorted(found, key=lambda bridge: (bridge.key, bridge.interface))


def _gateway(pool: Mapping[str, Any]) -> str:
    """Return the host's address in a subnet; engines of before write it with its prefix."""
    if pool.get("Gateway"):
        return str(pool["Gateway"]).partition("/")[0]
    return str(ipaddress.ip_network(pool["Subnet"], strict=False).network_address + 1)


def networks_to_create(
    composed: Mapping[str, Any], project: str, existing: Iterable[str]
) -> list[tuple[str, list[str]]]:
    """Return name and options of ``docker network create`` for networks that are missing.

    Compose takes a network as its own that has its labels. Created before any container, the rules
    for it can be in force before one runs.

    Args:
        composed: section ``networks`` of the compose file.
        project: Compose project.
        existing: names of the engine's networks.
    """
    missing = []
    for key, network in composed.items():
        definition = network or {}
        name = f"{project}_{key}"
        if name in existing or definition.get("external") or definition.get("name"):
            continue
        labels = {PROJECT: project, NETWORK: key, **(definition.get("labels") or {})}
        options = [word for item in labels.items() for word in ("--label", "=".join(item))]
        if definition.get("internal"):
            options.append("--internal")
        missing.append((name, options))
    return missing


def networks_to_join(
    proxy: Mapping[str, Any], webs: Iterable[Mapping[str, Any]], release: str
) -> list[str]:
    """Return the networks that nginx must be on to reach web containers, and is not.

    Args:
        proxy: nginx's container, of ``docker container inspect``.
        webs: the web containers that requests are to go to.
        release: of these; one of their names in a network is ``<service>-<release>``.
    """
    mine = set((proxy.get("NetworkSettings") or {}).get("Networks") or {})
    wanted: list[str] = []
    for record in webs:
        labels = (record.get("Config") or {}).get("Labels") or {}
        alias = f"{labels.get('com.docker.compose.service', '')}-{release}"
        theirs = (record.get("NetworkSettings") or {}).get("Networks") or {}
        named = [
            n for n, settings in theirs.items() if alias in ((settings or {}).get("Aliases") or [])
        ]
        if named and not mine.intersection(named) and named[0] not in wanted:
            wanted.append(named[0])
    return wanted
