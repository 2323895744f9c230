"""Rules of iptables for what containers of a stack must not reach; pure functions of plain data.

The rules stand in a chain of the stack's own in table ``mangle``, before any routing decision.
There neither Docker nor ufw nor firewalld has rules: none of them can accept a packet first, a
restart of the engine moves nothing, and one place sees packets to the host and forwarded ones.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Docker Compose's labels.
PROJECT, NETWORK = "com.docker.compose.project", "com.docker.compose.network"
BRIDGE_NAME = "com.docker.network.bridge.name"
# The network of nginx alone, by which clients come in; nothing goes out by it.
CLIENTS = "clients"
# Link-local addresses and what clouds have their metadata and platform services at.
METADATA = {
    4: ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32"),
    6: ("fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128"),
}
PORT = re.compile(r"(?P<port>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?\Z")
TABLES = {4: "iptables", 6: "ip6tables"}
CHAIN_LENGTH = 28  # of iptables, with the zero at its end
# Ports that a probe tries on the host, in this order: one that the operator has not opened.
TRIED_PORTS = (22, 9, 1)
MAX_SHOWN = 6  # addresses in a finding
METADATA_ADDRESS = ("169.254.169.254", 80)


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


@dataclass(frozen=True)
class Attempt:
    """A connection that a container must not get."""

    service: str
    address: str
    port: int


def parse_port(value: Any) -> tuple[int, str]:
    """Return port and protocol of ``443``, ``"443"`` or ``"53/udp"``.

    Raises:
        ValueError: it is none.
    """
    match = PORT.match(str(value)) if isinstance(value, (int, str)) else None
    if isinstance(value, bool) or not match or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{value!r} is no port")
    return int(match["port"]), match["protocol"] or "tcp"


def validate(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with ``stack_host_ports``, one sentence each, with the remedy."""
    ports = values.get("stack_host_ports") or []
    if isinstance(ports, (str, Mapping)) or not isinstance(ports, Sequence):
        return [f"stack_host_ports is {ports!r}: give a list such as [5432, '53/udp']."]
    found = []
    for index, value in enumerate(ports):
        try:
            parse_port(value)
        except ValueError:
            found.append(
                f"stack_host_ports[{index}] is {value!r}: give a port from 1 to 65535, such as"
                " 5432, or with its protocol '53/udp'."
            )
    return found


def open_ports(
    wanted: Iterable[Any], published: Iterable[Any], bind_address: str
) -> list[tuple[int, str]]:
    """Return the ports of the host that containers may reach, sorted.

    Args:
        wanted: of the operator, see `parse_port`.
        published: those of nginx. Everybody may reach them, and applications ask their own public
            address; not where they are bound to the host's loopback.
        bind_address: the address that they are published on; empty is all.
    """
    ports = [parse_port(value) for value in wanted]
    try:
        private = ipaddress.ip_address(bind_address).is_loopback
    except ValueError:
        private = False
    if not private:
        ports += [parse_port(value) for value in published]
    return sorted(set(ports))


def chain_name(stack: str) -> str:
    """Return the name of the stack's chain: of 28 characters at most, one for each stack."""
    name = f"CRISPER-{stack}"
    if len(name) <= CHAIN_LENGTH:
        return name
    return f"{name[: CHAIN_LENGTH - 9]}-{hashlib.sha256(stack.encode()).hexdigest()[:8]}"


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


def parse_nameservers(text: str) -> list[str]:
    """Return the addresses of a resolv.conf that other hosts could have, without zones."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        if not address.is_loopback and str(address) not in found:
            found.append(str(address))
    return found


def daemon_nameservers(text: str) -> list[str]:
    """Return ``dns`` of a daemon.json; nothing of a file that the engine would refuse."""
    try:
        addresses = json.loads(text or "{}").get("dns") or []
    except (ValueError, AttributeError):
        return []
    return parse_nameservers("".join(f"nameserver {address}\n" for address in addresses))


def render_rules(
    chain: str,
    bridges: Iterable[Bridge],
    ports: Iterable[tuple[int, str]],
    nameservers: Iterable[str],
    version: int,
) -> str:
    """Return the input of ``iptables-restore --noflush`` (4) or ``ip6tables-restore`` (6).

    New connections only reach the chain (see `render_script`), so that answers pass.

    Args:
        chain: see `chain_name`.
        bridges: the networks of the stack.
        ports: of the host, that containers on networks with a way out may reach.
        nameservers: of the host. Docker's resolver asks them out of the container, and a cloud's
            own is a metadata address.
        version: 4 or 6.
    """
    servers = [a for a in nameservers if ipaddress.ip_address(a).version == version]
    lines = ["*mangle", f":{chain} - [0:0]"]
    for bridge in bridges:
        start = f"-A {chain} -i {bridge.interface}"
        if bridge.reaches_out:
            lines += [
                f"{start} -d {server} -p {protocol} -m {protocol} --dport 53 -j RETURN"
                for server in servers
                for protocol in ("udp", "tcp")
            ]
        # Before the open ports: agents of clouds serve metadata at an address of the host itself.
        lines += [f"{start} -d {network} -j DROP" for network in METADATA[version]]
        if bridge.reaches_out:
            lines += [
                f"{start} -p {protocol} -m {protocol} --dport {port}"
                " -m addrtype --dst-type LOCAL -j RETURN"
                for port, protocol in ports
            ]
        lines.append(f"{start} -m addrtype --dst-type LOCAL -j DROP")
        # What listens on the host for everybody on the link, such as mDNS.
        lines.append(f"{start} -p udp -m addrtype --dst-type MULTICAST -j DROP")
        if version == 4:
            lines.append(f"{start} -m addrtype --dst-type BROADCAST -j DROP")
        if bridge.key == CLIENTS and not bridge.internal:
            own = [s for s in bridge.subnets if ipaddress.ip_network(s).version == version]
            lines += [f"{start} -d {subnet} -j RETURN" for subnet in own]
            lines.append(f"{start} -j DROP")
    return "\n".join([*lines, "COMMIT", ""])


def in_force(listing: str, chain: str, rules: str) -> bool:
    """Return whether a chain has as many rules as are wanted, and packets reach it.

    Args:
        listing: of ``iptables -t mangle -S``, which writes rules in its own way.
        chain: see `chain_name`.
        rules: see `render_rules`.
    """
    lines = listing.splitlines()
    count = sum(line.startswith(f"-A {chain} ") for line in lines)
    jumps = [line for line in lines if line.startswith("-A PREROUTING ")]
    wanted = sum(line.startswith("-A ") for line in rules.splitlines())
    return count == wanted and any(line.endswith(f"-j {chain}") for line in jumps)


def list_command(table: str) -> list[str]:
    """Return the command whose output `in_force` takes; `table` is iptables or ip6tables."""
    return [table, "--wait", "10", "-t", "mangle", "-S"]


def render_script(chain: str, folder: str) -> str:
    """Return a shell script: ``apply`` (again and again without harm) or ``remove``.

    The rules of the chain are exchanged as a whole.
    """
    return f"""#!/bin/sh
# Written by Crisper: what containers of the stack must not reach (docs/SECURITY.md).
#   sh {folder}/firewall.sh apply|remove
set -eu
PATH=/usr/sbin:/sbin:/usr/bin:/bin
new='-m conntrack --ctstate NEW,INVALID -j {chain}'
for version in 4 6; do
    table=iptables
    if [ $version = 6 ]; then
        table=ip6tables
        [ -d /proc/sys/net/ipv6 ] || continue
    fi
    # shellcheck disable=SC2086  # the rule is several words
    case ${{1:-apply}} in
        apply)
            $table-restore --wait 10 --noflush <{folder}/rules.v$version
            $table --wait 10 -t mangle -C PREROUTING $new 2>/dev/null ||
                $table --wait 10 -t mangle -I PREROUTING 1 $new
            ;;
        remove)
            while $table --wait 10 -t mangle -D PREROUTING $new 2>/dev/null; do :; done
            $table --wait 10 -t mangle -F {chain} 2>/dev/null || true
            $table --wait 10 -t mangle -X {chain} 2>/dev/null || true
            ;;
        *) echo "usage: $0 apply|remove" >&2; exit 2 ;;
    esac
done
"""


def render_unit(stack: str, folder: str) -> str:
    """Return the systemd unit that has the rules in force before the engine starts.

    The rules name the bridges of networks, which keep their names; they need not be there yet.
    """
    others = "nftables.service netfilter-persistent.service iptables.service firewalld.service"
    return f"""# Written by Crisper.
[Unit]
Description=What containers of the stack {stack} must not reach
RequiresMountsFor={folder}
# No container runs a moment without the rules; what empties all tables has done so before.
Before=docker.service
After={others} ufw.service
PartOf={others}
ReloadPropagatedFrom={others}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {folder}/firewall.sh apply
ExecReload=/bin/sh {folder}/firewall.sh apply

[Install]
WantedBy=multi-user.target docker.service {others}
"""


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


def attempts(
    records: Iterable[Mapping[str, Any]],
    bridges: Sequence[Bridge],
    ports: Iterable[tuple[int, str]],
    host_address: str,
) -> dict[int, list[Attempt]]:
    """Return process id of a container of each service -> what it must not be able to do.

    Args:
        records: of ``docker container inspect``.
        bridges: the networks of the stack.
        ports: of the host, that are open.
        host_address: by which the host goes out; empty when it has none.
    """
    allowed = {port for port, protocol in ports if protocol == "tcp"}
    tried = next((port for port in TRIED_PORTS if port not in allowed), 0)
    found: dict[int, list[Attempt]] = {}
    done = set()
    for record in records:
        labels = (record.get("Config") or {}).get("Labels") or {}
        service = str(labels.get("com.docker.compose.service", ""))
        state = record.get("State") or {}
        attached = (record.get("NetworkSettings") or {}).get("Networks") or {}
        kind = (service, tuple(sorted(attached)))
        if not state.get("Pid") or kind in done:
            continue
        done.add(kind)
        project = str(labels.get(PROJECT, ""))
        mine = [bridge for bridge in bridges if f"{project}_{bridge.key}" in attached]
        addresses = [a for bridge in mine for a in bridge.gateways]
        if host_address and not all(bridge.internal for bridge in mine):
            addresses.append(host_address)
        targets = [(address, tried) for address in addresses if tried] + [METADATA_ADDRESS]
        found[int(state["Pid"])] = [Attempt(service, *target) for target in targets]
    return found


def describe_reached(reached: Sequence[Attempt], stack: str) -> list[str]:
    """Return the finding about what containers reached and must not; none where it is nothing."""
    if not reached:
        return []
    services = sorted({each.service for each in reached})
    where = sorted({f"{each.address}:{each.port}" for each in reached})
    more = f" and {len(where) - MAX_SHOWN} more" if len(where) > MAX_SHOWN else ""
    return [
        f"Containers of {', '.join(services)} reach {', '.join(where[:MAX_SHOWN])}{more}: the host"
        " or link-local addresses, which stack_isolation closes. Run"
        f" `systemctl restart crisper-firewall@{stack}` on the server, and look for what removed"
        " the rules (`iptables -t mangle -S`)."
    ]


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
