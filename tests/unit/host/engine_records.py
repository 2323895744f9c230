"""Networks and containers as `docker inspect` of engine 26.1 writes them."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.host import networks


def network(
    key: str, number: int, internal: bool = False, gateway: str | None = None
) -> dict[str, Any]:
    """A record of ``docker network inspect``, as engine 26.1 writes it."""
    gateway = f"172.2{number}.0.1" if gateway is None else gateway
    return {
        "Name": f"demo_{key}",
        "Id": f"{number:064x}"[::-1],
        "Driver": "bridge",
        "Internal": internal,
        "IPAM": {"Config": [{"Subnet": f"172.2{number}.0.0/16", "Gateway": gateway}]},
        "Options": {},
        "Labels": {networks.PROJECT: "demo", networks.NETWORK: key},
    }


NETWORKS = [network("clients", 1), network("data", 2, internal=True), network("egress", 3)]
BRIDGES = networks.parse_networks(NETWORKS)
CLIENTS, DATA, EGRESS = (f"br-{n}00000000000" for n in (1, 2, 3))


def container(service: str, release: str = "", **attached: list[str] | None) -> dict[str, Any]:
    return {
        "Id": f"{service}-{release}",
        "Config": {
            "Labels": {"com.docker.compose.service": service, networks.PROJECT: "demo"},
        },
        "State": {"Pid": 4000 + len(service + release)},
        "NetworkSettings": {
            "Networks": {f"demo_{key}": {"Aliases": value} for key, value in attached.items()}
        },
    }
